"""What several tests share: a small road world, and the tiny base with its encoder."""

import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from xdist.scheduler import LoadScopeScheduling

from cookbook import checkpoint
from cookbook.data.architecture import QWEN3_VL
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.runs import FOLDER, ROOT
from data_tools import road_vqa
from data_tools.worlds import road

BASE = ROOT / "models" / "tiny-base"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it, and so would children


# what takes longest begins first, so that no worker waits for the other at the end
FIRST = ("notebooks/", "tests/test_own_data", "tests/recipes/test_full_scale", "tests/engine/test_equality",
         "tests/test_lab", "tests/engine/test_launch")  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    items.sort(key=lambda item: next((i for i, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST)))


class ByFile(LoadScopeScheduling):
    """On several workers: each file of tests goes to one of them, and the notebooks, in their order, to one.

    Tests of test_gpu_*.py are processes of the engine that wait for one another for minutes: each goes where it can.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if "test_gpu_" in file:
            return nodeid
        return "notebooks" if file.endswith(".ipynb") else file


def pytest_xdist_make_scheduler(config, log):
    """Called by pytest-xdist."""
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Tests have another folder for their jobs than runs/, which the notebooks use beside them."""
    with pytest.MonkeyPatch.context() as patch:
        if item.path.suffix != ".ipynb":
            patch.setenv(FOLDER, str(item.config._tmp_path_factory.getbasetemp() / "runs"))
        return (yield)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Jobs go to this temporary folder."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract.load(ROOT / "configs/prompts/road.yaml")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with a few clips of each split."""
    return road.build(tmp_path_factory.mktemp("world"), {"train": 20, "validation": 4, "test": 10}, seed=5)


@pytest.fixture(scope="session")
def samples(world, contract):
    return road_vqa.read(world, "train", contract)


@pytest.fixture(scope="session")
def processor():
    return AutoProcessor.from_pretrained(BASE, trust_remote_code=False, use_fast=True)


@pytest.fixture
def stock():
    """The tiny base as transformers loads it, nothing batched."""
    return AutoModelForImageTextToText.from_pretrained(BASE, trust_remote_code=False, dtype=torch.float32).eval()


@pytest.fixture
def encoder(processor, contract, stock) -> Encoder:
    return Encoder(processor, contract, stock.config)


# ---- Qwen3-VL: a base as it is born, with the tokenizer of the tiny base ---------------------------------------------


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory, processor) -> Path:
    """A checkpoint of a small Qwen3-VL with random weights, large enough that what a clip shows changes the logits."""
    from models import tiny

    model = tiny.build_model(processor.tokenizer, QWEN3_VL, width=64, layers=3, vision_width=64, vision_depth=3, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    made = tiny.processor_of(processor.tokenizer, QWEN3_VL)
    return checkpoint.write_checkpoint(model, made, tmp_path_factory.mktemp("qwen3") / "base", torch.float32)


@pytest.fixture
def stock3(qwen3):
    """It as transformers loads it, nothing batched."""
    return AutoModelForImageTextToText.from_pretrained(qwen3, trust_remote_code=False, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def contract3(contract) -> Contract:
    return contract.for_base(QWEN3_VL)


@pytest.fixture
def encoder3(qwen3, contract3, stock3) -> Encoder:
    made = AutoProcessor.from_pretrained(qwen3, trust_remote_code=False, use_fast=True)
    return Encoder(made, contract3, stock3.config)


# ---- the fault campaign: what was tried and what passed, by group ----------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if mark := item.get_closest_marker("fault"):
        report.fault = mark.args[0]
    return report


def pytest_terminal_summary(terminalreporter):
    """Print how many faults of each group were tried and passed, where `-m fault` asked for them."""
    if "fault" not in terminalreporter.config.option.markexpr:
        return
    table: dict[str, Counter] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" or outcome == "error":
                table.setdefault(report.fault, Counter())[outcome] += 1
    terminalreporter.section("faults")
    for group, told in sorted(table.items()):
        terminalreporter.line(f"{group:14}  tried {told.total():4}  passed {told['passed']:4}")
    tried, passed = (sum(f(told) for told in table.values()) for f in (Counter.total, lambda told: told["passed"]))
    terminalreporter.line(f"{'all':14}  tried {tried:4}  passed {passed:4}")
