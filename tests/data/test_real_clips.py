"""Real camera clips under the official limits: every loader takes them, and frames and tokens are the stock ones.

The clips are NVIDIA's and are not part of the project; the tests skip where they are not on the machine.
"""

import importlib
import json

import pytest
from transformers import AutoConfig, AutoProcessor, Qwen2VLVideoProcessor

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample, message, text, video
from cookbook.engine.bridge import video_reader
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.loading.engine import EngineDataset
from data_tools.passport import passport
from data_tools.passport.tokens import token_counter

CLIPS = sorted((ROOT.parent / "shared" / "real_videos").glob("*.mp4"))
BASE = ROOT / "models/tiny-base"

pytestmark = pytest.mark.skipif(not CLIPS, reason="the real clips are not on this machine")


@pytest.fixture
def samples(tmp_path):
    """Two samples a clip, in a folder of their own, so that a split has something to hold out."""
    folder = tmp_path / "clips"
    folder.mkdir()
    out = []
    for path in CLIPS:
        for i in range(2):
            copy = folder / f"{path.stem}-{i}.mp4"
            copy.write_bytes(path.read_bytes() + bytes(i))  # other bytes, the same pictures
            turns = (message("user", video(copy), text("What happens?\nA) it moves\nB) nothing")),
                     message("assistant", text(json.dumps({"moves": True}))))  # fmt: skip
            out.append(Sample(copy.stem, copy.stem, turns, "A", ("A", "B")))
    return out


def config(folder, kind: str, contract: str, dataset: str) -> Config:
    return Config.parse(f"""
[train]
output_dir = "out"
[train.train_policy]
type = "{kind}"
mini_batch = 1
[train.train_policy.dataset]
name = "{folder}"
test_size = 1
{dataset}
[policy]
model_name_or_path = "models/tiny-base"
[custom]
contract = "configs/prompts/{contract}.yaml"
""")


@pytest.mark.parametrize(
    ("loader", "format", "kind", "contract", "dataset"),
    [
        ("cosmos_sft", "hf_sft", "sft", "captions", 'subset = "data"\nsplit = "understanding"'),
        ("cosmos_grpo", "hf_rl", "grpo", "choices", 'subset = "data"\nsplit = "rl"'),
        ("avha_sft_single_caption", "av_folder", "sft", "captions", ""),
        ("llava_sft", "llava", "sft", "captions", ""),
        ("saved_sft", "saved", "sft", "captions", ""),
    ],
)
def test_every_loader_takes_real_clips(loader, format, kind, contract, dataset, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_CACHE", str(tmp_path / "cache"))
    options = {"split": dataset.split('"')[-2]} if dataset else {}
    if format == "av_folder":  # it has one question for all
        options = {"question": samples[0].question}
    formats.write(samples, tmp_path / "out", format, **options)
    settings = config(tmp_path / "out", kind, contract, dataset)
    splits = importlib.import_module(f"data_tools.{loader}").load(settings)
    assert (len(splits["train"]), len(splits["validation"])) == (len(samples) - 1, 1)
    chat = EngineDataset(splits["train"], settings)[0]
    part = next(p for turn in chat if turn["role"] == "user" for p in turn["content"] if p["type"] == "video")
    assert (part["max_pixels"], part["fps"]) == (81920, 1)


@pytest.mark.parametrize("fps", [1, 2, 4])
def test_frames_tokens_and_patches_are_those_of_qwen_vl_utils_and_the_stock_processor(fps, samples):
    from qwen_vl_utils.vision_process import fetch_video

    video_reader.install_reader()
    contract = Contract.load(ROOT / "configs/prompts/captions.yaml")
    contract = Contract(contract.system, contract.answer_format, type(contract.vision)(fps, 3136, 81920))
    encoder = Encoder(
        AutoProcessor.from_pretrained(BASE, trust_remote_code=False, use_fast=True),
        contract,
        AutoConfig.from_pretrained(BASE, trust_remote_code=False),
    )
    # as preprocessor_config.json of the 7B model sets it; its own default would enlarge clips to 100,352 pixels
    stock = Qwen2VLVideoProcessor(min_pixels=3136, max_pixels=12_845_056)
    count = token_counter(BASE, contract)
    for sample in samples[::2]:
        part = contract.conversation(sample.prompt)[-1]["content"][0]
        frames, rate = fetch_video(part, return_video_sample_fps=True)
        want = stock(videos=[frames], do_sample_frames=False, return_tensors="pt")
        ours = encoder.media("video", sample.video)
        assert len(encoder.frames(sample.video)[0]) == len(frames)
        assert list(ours.grid) == want["video_grid_thw"][0].tolist()
        assert ours.seconds_per_step == pytest.approx(2 / rate)
        assert (ours.patches - want["pixel_values_videos"]).abs().max() < 1e-6
        found = passport({"train": [sample]}, cache=None, workers=0, count_tokens=count)
        prompt, answer = found.tokens["train"][0]
        tokens = encoder.tokens(sample)
        assert prompt == len(encoder.tokens(sample, generate=True).ids)
        assert answer == sum(label != -100 for label in tokens.labels)


def test_the_passport_of_real_clips_has_no_errors_and_finds_the_copies(samples):
    found = passport({"train": samples}, cache=None, workers=2)
    assert [f.code for f in found.errors] == []
    assert len(found.facts) == 2 * len(CLIPS) and all(f.frames > 3 and f.fps > 1 for f in found.facts)
    other = passport({"train": samples[::2], "test": samples[1::2]}, cache=None, workers=2)
    assert any("near" in f.code for f in other.findings) and {q.split for q in other.quarantine} == {"train"}
