"""What the engine's tests share: cosmos-rl with the bridge in place, its packer and prompts; and a fake engine."""

import logging
from dataclasses import replace

import pytest
from fake_engine import Scene
from rollouts import config

from cookbook.config import Config
from cookbook.data.samples import Sample, message, text
from cookbook.data.samples import video as clip
from cookbook.engine import bridge
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset


@pytest.fixture(scope="module")
def engine():
    """The engine with the bridge in place: what the bridge says it did."""
    pytest.importorskip("cosmos_rl")
    level = logging.root.level
    done = bridge.install()
    yield done
    logging.root.setLevel(level)


@pytest.fixture(scope="module")
def packer(engine):
    from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
    from cosmos_rl.utils.util import call_setup

    made = Qwen2_5_VLM_DataPacker()
    call_setup(made, config())
    return made


@pytest.fixture(scope="module")
def uneven(contract):
    """A contract with 1.5 frames a second: a step of two frames takes 1.33 s, and transformers counts 1."""
    return replace(contract, vision=replace(contract.vision, fps=1.5))


@pytest.fixture(scope="module")
def questions(world, contract):
    """Questions on clips, one without a clip, one on two clips."""
    found = road_vqa.read(world, "train", contract)
    paths = [next(iter(s.media()))[1] for s in found]
    two = Sample("two", "x", (message("user", clip(paths[0]), text("first"), clip(paths[8]), text("last")),))
    bare = Sample("bare", "x", (message("user", text("what does a red light mean")),))
    return [found[0], found[5], bare, two, found[9]]


@pytest.fixture(scope="module")
def prompts(questions, uneven):
    """The same as the engine hands them out."""
    settings = Config.load(ROOT / "configs/tiny_rl.toml").edit({"train.train_policy.mini_batch": 1})
    data = EngineDataset(questions, settings)
    data.contract = uneven
    return [data[i] for i in range(len(questions))]


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    assert made.remains() == []
