"""What the engine's tests share: cosmos-rl with the bridge in place, its packer and prompts; and a fake engine."""

import logging
from dataclasses import replace

import pytest
import torch.distributed as dist
from fake_engine import Scene
from learning import collate
from rollouts import BASE, config, handed_out, unused_port
from transformers import AutoConfig

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
def packer3(engine, qwen3):
    """The engine's packer for a model that it has none of its own for."""
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker
    from cosmos_rl.utils.util import call_setup

    made = HFVLMDataPacker()
    call_setup(made, config(**{"policy.model_name_or_path": str(qwen3)}))
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
    return handed_out(questions, uneven)


@pytest.fixture
def alone(monkeypatch):
    """A process group of one, which the native models ask for."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(unused_port()))
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def native(engine, alone, stock):
    """The tiny base as the engine's own model, in float32 but for its attention."""
    from cosmos_rl.policy.model.qwen2_5_vl import Qwen2_5_VLConditionalModel

    settings = AutoConfig.from_pretrained(BASE, trust_remote_code=False)
    model = Qwen2_5_VLConditionalModel.from_pretrained(settings, str(BASE), 4096).eval()
    weights = {key: value for key, value in stock.state_dict().items() if "lm_head" not in key}  # tied
    for ours, theirs in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        weights = {theirs + key[len(ours) :] if key.startswith(ours) else key: v for key, v in weights.items()}
    found = model.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys and not found.missing_keys
    return model


@pytest.fixture
def policy(engine, qwen3, stock3):
    """Qwen3-VL as the engine trains it: transformers' model, with the weights of the checkpoint."""
    from cosmos_rl.policy.model.hf_models import HFModel

    made = HFModel.from_pretrained(AutoConfig.from_pretrained(qwen3, trust_remote_code=False), str(qwen3))
    made.model.load_state_dict(stock3.state_dict())
    return made


@pytest.fixture
def rows(engine, packer, world, contract):
    """Four samples of several lengths, as the engine's packer makes them."""
    data = EngineDataset(road_vqa.read(world, "train", contract)[:8:2], Config.load(ROOT / "configs/tiny_sft.toml"))
    made = [packer.sft_process_sample(data[i]) for i in range(4)]
    assert len({len(row["input_ids"]) for row in made}) > 1
    return made


@pytest.fixture
def batch(packer, rows):
    """The same as a mini-batch, laid out."""
    return collate(packer, rows)


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    assert made.remains() == []
