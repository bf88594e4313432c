"""What the local engine learns from is what cosmos-rl learns from: token for token and label for label.

The engine's packer gets the conversations that the loaders yield; our
encoder gets the same samples.
"""

import json
import random
import shutil
import sys

import numpy as np
import pytest
from engine_process import in_engine
from PIL import Image

from cookbook.config import Config, lint
from cookbook.data.samples import Sample, message, text, video
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.formats import samples_jsonl
from data_tools.worlds import drawing

PROGRAM = """
import json, sys
import torch
from pathlib import Path
from transformers import AutoConfig, AutoProcessor
import toml
from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker, Qwen2_5_VLM_DataPacker
from cosmos_rl.policy.config import Config as EngineConfig
from cosmos_rl.utils.util import call_setup
from cookbook.config import Config
from cookbook.config.models import family_of
from cookbook.data.encoder import Encoder
from cookbook.engine.bridge import video_reader
from data_tools.loading.engine import EngineDataset
from data_tools.formats import samples_jsonl
from data_tools.loading import contract

video_reader.install_reader()
path = Path(sys.argv[1]) / "sft.toml"
config, engine = Config.load(path), EngineConfig.from_dict(toml.load(path))
samples = samples_jsonl.read(Path(sys.argv[1]) / "data")
base = config["policy.model_name_or_path"]
native = family_of(base).native
packer = Qwen2_5_VLM_DataPacker() if native else HFVLMDataPacker()  # as comm/base.py chooses
call_setup(packer, engine)
data = EngineDataset(samples, config)
processor = AutoProcessor.from_pretrained(base, trust_remote_code=False, use_fast=True)
encoder = Encoder(processor, contract(config), AutoConfig.from_pretrained(base, trust_remote_code=False))
rows = []
for i, sample in enumerate(samples):
    theirs, ours = packer.sft_process_sample(data[i]), encoder.training_batch([sample])
    row = {"id": sample.id, "learned": sum(label != -100 for label in theirs["label_ids"])}
    row["ids"] = theirs["input_ids"] == ours["input_ids"][0].tolist()
    row["labels"] = theirs["label_ids"] == ours["labels"][0].tolist()
    row["positions"] = not native or torch.equal(theirs["position_ids"], ours["position_ids"])
    for values, grid in (("pixel_values_videos", "video_grid_thw"), ("pixel_values", "image_grid_thw")):
        if theirs[values] is None:
            row[values] = values not in ours
        else:
            same = theirs[grid].tolist() == ours[grid].tolist()
            row[values] = same and (theirs[values] - ours[values]).abs().max().item()
    ids = encoder.prompt_batch([sample])["input_ids"][0].tolist()
    row["asked"] = packer.get_policy_input(EngineDataset([sample], config)[0][:-1])["input_ids"] == ids
    rows.append(row)
    if not native:  # its get_rollout_input, for vLLM, takes clips alone
        continue
    prompt = packer.get_rollout_input(EngineDataset([sample], config)[0][:-1])["prompt"]
    for token in (encoder.processor.video_token_id, encoder.processor.image_token_id):
        ids = [t for j, t in enumerate(ids) if t != token or j == 0 or ids[j - 1] != token]
    row["asked"] &= encoder.tokenizer(prompt)["input_ids"] == ids
print("RESULT" + json.dumps(rows))
"""

CONFIG = """
[train]
output_dir = "out"
[train.train_policy]
type = "sft"
mini_batch = 1
[policy]
model_name_or_path = "{base}"
[custom]
contract = "configs/prompts/road.yaml"
"""


@pytest.fixture
def folder(tmp_path, world, contract):
    """Sixty samples: questions on clips, long and short clips of other sizes, images, both, several turns."""
    rng = random.Random(0)
    words = ["the", "car", "stops", "at", "a", "red", "light", "and", "waits", "until", "green"]

    def say(n: int) -> dict:
        return text(" ".join(rng.choice(words) for _ in range(n)))

    out = list(road_vqa.read(world, "train", contract))[:30]
    for i in range(10):
        shape = rng.choice([(64, 64), (48, 120), (200, 56)])
        path, picture = tmp_path / f"c{i}.mp4", tmp_path / f"p{i}.png"
        frames = np.random.default_rng(i).integers(0, 255, (rng.choice([5, 8, 23]), *shape, 3), np.uint8)
        drawing.write_mp4(path, frames, fps=rng.choice([1, 2, 8]))
        Image.fromarray(frames[0]).save(picture)
        clip, image = video(path), {"type": "image", "image": str(picture)}
        answer = message("assistant", say(6))
        out += [
            Sample(f"clip-{i}", f"c{i}", (message("user", clip, say(4)), answer)),
            Sample(f"image-{i}", f"c{i}", (message("user", image, say(3)), answer)),
            Sample(
                f"turns-{i}",
                f"c{i}",
                (
                    message("system", say(3)),
                    message("user", say(2), clip, say(2), image),
                    answer,
                    message("user", say(5)),
                    message("assistant", say(9)),
                ),
            ),
        ]
    samples_jsonl.write(out, tmp_path / "data")
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
@pytest.mark.parametrize("family", ["tiny-base", "qwen3"])
def test_tokens_labels_positions_and_pixels_equal_those_of_the_engine(folder, family, qwen3):
    base = ROOT / "models/tiny-base" if family == "tiny-base" else qwen3
    (folder / "sft.toml").write_text(CONFIG.format(base=base))
    rows = in_engine(PROGRAM, folder)
    assert len(rows) == 60 and all(row["learned"] > 1 for row in rows)
    for row in rows:
        assert row["ids"] and row["labels"] and row["asked"] and row["positions"], row
        for values in ("pixel_values_videos", "pixel_values"):
            assert row[values] is True or row[values] < 1e-6, row


LIMITS = """
import json, sys
import toml
from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
from cosmos_rl.policy.config import Config as EngineConfig
from cosmos_rl.utils.util import call_setup
from transformers import AutoConfig, AutoProcessor
from cookbook.config import Config
from cookbook.data.encoder import Encoder
from cookbook.engine.bridge import video_reader
from data_tools.formats import samples_jsonl
from data_tools.loading import contract
from data_tools.loading.engine import EngineDataset

video_reader.install_reader()
config, engine = Config.load(sys.argv[1]), EngineConfig.from_dict(toml.load(sys.argv[1]))
packer, base = Qwen2_5_VLM_DataPacker(), config["policy.model_name_or_path"]
call_setup(packer, engine)
samples = samples_jsonl.read(sys.argv[2])
processor, facts = AutoProcessor.from_pretrained(base, use_fast=True), AutoConfig.from_pretrained(base)
encoder = Encoder(processor, contract(config), facts)
theirs = packer.sft_process_sample(EngineDataset(samples, config)[0])["input_ids"]
print("RESULT" + json.dumps([len(theirs), len(encoder.tokens(samples[0]).ids)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
@pytest.mark.parametrize("mended", [False, True])
def test_the_engine_sees_other_frames_exactly_where_the_lint_warns(tmp_path, mended):
    base = tmp_path / "base"
    shutil.copytree(ROOT / "models/tiny-base", base)
    prompt = (ROOT / "configs/prompts/road.yaml").read_text().replace("max_pixels: 3136", "max_pixels: 12544")
    (tmp_path / "wide.yaml").write_text(prompt)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json") if mended else ():
        stated = json.loads((base / name).read_text())
        stated |= {"max_pixels": 12544, "size": {"shortest_edge": 784, "longest_edge": 12544}}
        (base / name).write_text(json.dumps(stated))
    frames = np.random.default_rng(0).integers(0, 255, (8, 112, 112, 3), np.uint8)
    drawing.write_mp4(tmp_path / "c.mp4", frames, fps=2)
    asked = message("user", video(tmp_path / "c.mp4"), text("what?"))
    samples_jsonl.write([Sample("a", "c", (asked, message("assistant", text("red"))))], tmp_path / "data")
    file = tmp_path / "sft.toml"
    told = CONFIG.format(base=base)
    file.write_text(told.replace("configs/prompts/road.yaml", str(tmp_path / "wide.yaml")))
    warned = [f for f in lint(Config.load(file)) if f.key == "policy.model_name_or_path"]
    theirs, ours = in_engine(LIMITS, file, tmp_path / "data")
    assert bool(warned) == (theirs != ours) == (not mended)
