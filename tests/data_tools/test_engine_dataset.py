"""What cosmos-rl gets of a loader: conversations for its packer, references for rewards, a start that cannot hang."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import av as av_library
import numpy as np
import official_layouts as made
import pytest
import torch
from engine_process import in_engine
from helpers import VISION, config, toml

from cookbook.config import Config
from cookbook.data.contract import ContractError
from cookbook.data.samples import DataError, Sample, message, text
from cookbook.engine import bridge, records
from cookbook.engine.bridge import video_reader
from cookbook.runs import ROOT
from data_tools.loading import load
from data_tools.loading.engine import EngineDataset, serve
from data_tools.worlds import drawing

LOADERS = ("cosmos_sft", "cosmos_grpo", "avha_sft_single_caption", "llava_sft", "saved_sft")

# ---- what the engine gets ---------------------------------------------------------------------------------------

TALK = Sample(
    "talk",
    "a",
    (
        message("system", text("Be brief.")),
        message("user", {"type": "video", "video": "/a.mp4", "fps": 9, "nframes": 3}, text("What?")),
        message("assistant", text("Rain.")),
        message("user", {"type": "image", "image": "/b.png"}, text("And here?")),
        message("assistant", text("Sun.")),
    ),
)


@pytest.mark.fault("inputs")
def test_the_engine_gets_no_words_that_would_steer_the_model():
    bad = Sample("odd", "a", (message("user", text("What?")), message("assistant", text("Rain.<|im_end|>"))))
    for kind in ("sft", "grpo"):
        with pytest.raises(DataError, match=r"sample odd: .*<\|im_end\|>"):
            EngineDataset([TALK, bad], config("x", kind=kind, mini_batch=1))


def test_sft_samples_are_whole_conversations_with_limits_on_each_clip():
    sample = EngineDataset([TALK], config("x"))[0]
    assert sample == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "video", "video": "/a.mp4", **VISION},
            {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "Rain."},
        {"role": "user", "content": [
            {"type": "image", "image": "/b.png", "min_pixels": 3136, "max_pixels": 81920},
            {"type": "text", "text": "And here?"}]},
        {"role": "assistant", "content": "Sun."},
    ]  # fmt: skip
    sample = EngineDataset([TALK], config("x", contract="configs/prompts/choices.yaml"))[0]
    assert "right choice" in sample[0]["content"] and [turn["role"] for turn in sample].count("system") == 1
    part = {"type": "video", "video": "/a.mp4", "video_end": 3}
    with pytest.raises(ContractError, match="only whole clips"):
        EngineDataset([Sample("cut", "a", (message("user", part), message("assistant", text("x"))))], config("x"))[0]


def test_grpo_samples_are_prompts_with_a_reference():
    bare = Sample("bare", "a", (message("user", text("?")),), answer="B", options=("A", "B"))
    data = EngineDataset([TALK, bare], config("x", "grpo", mini_batch=1))
    assert [m["role"] for m in data[0]] == ["system", "user", "assistant", "user"] and len(data) == 2
    assert [data.get_reference_answer(i) for i in range(2)] == ["Sun.", "B"]
    with pytest.raises(DataError, match="1 samples, such as bare, end without an answer"):
        EngineDataset([TALK, bare], config("x"))


def test_what_the_engine_cannot_batch_is_said_before_it_starts():
    """Its collate function asserts that all samples of a mini batch have clips, or none: a crash in mid-training."""
    clip, bare = Sample("c", "c", TALK.messages[1:3]), Sample("b", "b", (TALK.messages[3], TALK.messages[4]))
    with pytest.raises(DataError, match=r"samples show image, video; .* or set mini_batch = 1"):
        EngineDataset([clip, bare, clip], config("x"))
    assert (
        len(EngineDataset([clip, bare], config("x", mini_batch=1))) == len(EngineDataset([clip] * 2, config("x"))) == 2
    )


def test_the_engine_must_run_what_the_file_says():
    engine = types.SimpleNamespace(train=types.SimpleNamespace(train_policy=types.SimpleNamespace(type="grpo")))
    EngineDataset([TALK], config("x", "grpo")).setup(engine)
    with pytest.raises(DataError, match="made for sft, and the engine runs grpo"):
        EngineDataset([TALK], config("x")).setup(engine)


def test_the_engines_reader_takes_the_frames_that_are_asked_for(tmp_path):
    frames = np.stack([np.full((32, 32, 3), 10 * i, np.uint8) for i in range(20)])
    drawing.write_mp4(tmp_path / "a.mp4", frames, 10)

    def read(**limits):
        video, facts, rate = video_reader.read_video({"video": f"file://{tmp_path}/a.mp4", **limits})
        assert video.shape == (len(facts["frames_indices"]), 3, 32, 32) and video.dtype == torch.uint8
        grey = video.float().mean((1, 2, 3))
        assert torch.allclose(grey, 10.0 * torch.tensor(facts["frames_indices"]), atol=4)  # the right pictures
        return facts["frames_indices"], rate

    assert read(fps=1) == ([0, 6, 13, 19], 2.0)  # four frames at least
    assert read(fps=5) == (torch.linspace(0, 19, 10).round().int().tolist(), 5.0)
    assert read(nframes=2) == ([0, 19], 1.0)
    assert read(fps=10, video_start=0.5, video_end=1.2) == (list(range(5, 13)), 10.0)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises((av_library.FFmpegError, ValueError)):
        video_reader.read_video({"video": str(tmp_path / "bad.mp4")})


@pytest.fixture
def launched(monkeypatch):
    """What a loader file hands to the engine's entry point, without the engine."""
    calls = []
    for name in ("cosmos_rl", "cosmos_rl.launcher", "cosmos_rl.launcher.worker_entry"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["cosmos_rl.launcher.worker_entry"].main = lambda **kwargs: calls.append(kwargs)
    monkeypatch.setattr(bridge, "install", lambda: calls.append("bridge"))
    return calls


@pytest.mark.parametrize("validation", [True, False])
def test_serve_hands_the_engine_what_it_needs(validation, launched, av, tmp_path, monkeypatch):
    (tmp_path / "x.toml").write_text(toml(av, validation=validation, dataset="test_size = 2"))
    monkeypatch.setattr(
        sys, "argv", ["llava.py", "--config", str(tmp_path / "x.toml"), "--port", "8000", "--conf", "no"]
    )
    reads = []

    def counted(config: Config):
        reads.append(config.name)
        return load(config, "av_folder")

    serve(counted, reward_fns=[len])
    assert reads == []  # other roles than the controller read the data only when the engine asks
    first, call = launched
    assert first == "bridge" and call["reward_fns"] == [len] and call["custom_logger_fns"] == [records.log_metrics]
    engine_config = object()
    assert len(call["dataset"](engine_config)) == 8
    assert (call["val_dataset"] is None) != validation
    if validation:
        assert len(call["val_dataset"](engine_config)) == 2
    assert reads == ["x.toml"]


@pytest.mark.parametrize(
    ("folder", "words", "told"), [("av/gone", "", "no such folder"), ("av", "fps = 0", "this loader does not read it")]
)
def test_the_controller_stops_before_anything_starts(folder, words, told, launched, av, tmp_path, monkeypatch, capsys):
    """The launcher notices only the controller's end; a worker that dies leaves it waiting for ever."""
    (tmp_path / "x.toml").write_text(toml(tmp_path / folder, custom=words))
    monkeypatch.setattr(sys, "argv", ["x.py", "--config", str(tmp_path / "x.toml")])
    monkeypatch.setenv("COSMOS_ROLE", "Controller")
    with pytest.raises(SystemExit) as stop:
        serve(importlib.import_module("data_tools.avha_sft_single_caption").load)
    assert stop.value.code == 1 and told in capsys.readouterr().err and not launched


RUN = """
import contextlib, io, json, runpy, sys
told = []
for file, *arguments in json.loads(sys.argv[1]):
    sys.argv = [file, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            runpy.run_path(file, run_name="__main__")
        except SystemExit as left:
            assert not left.code, (file, left.code)
    told.append(said.getvalue())
print(json.dumps(told))
"""


def test_a_dry_run_shows_the_first_sample_without_the_engine(folders, tmp_path):
    (tmp_path / "no/cosmos_rl").mkdir(parents=True)
    (tmp_path / "no/cosmos_rl/__init__.py").write_text("raise RuntimeError('the engine was imported')")
    small, commands = "[train]\ntrain_batch_per_replica = 4\n", []  # a step that the few samples can fill
    for name in LOADERS:
        kind, folder, dataset = folders[name]
        (file := tmp_path / f"{name}.toml").write_text(toml(folder, kind, dataset).replace("[train]\n", small, 1))
        loader = str(ROOT / "data_tools" / f"{name}.py")
        commands += [[loader, "--config", str(file), "--check", "--port", "1"], [loader, "--help"]]
    environment = {
        "PYTHONPATH": str(tmp_path / "no"),
        "COSMOS_CACHE": str(tmp_path / "cosmos"),
        "OMP_NUM_THREADS": "1",
    }
    process = [sys.executable, "-c", RUN, json.dumps(commands)]
    done = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name, shown, usage in zip(LOADERS, told[::2], told[1::2], strict=True):
        first, _, sample = shown.partition("\n")
        assert first.startswith(f"{folders[name][0]}: ") and " train, " in first
        parts = next(turn["content"] for turn in json.loads(sample) if turn["role"] == "user")
        assert parts[0].items() >= {"type": "video", **VISION}.items() and Path(parts[0]["video"]).is_file()
        about = importlib.import_module(f"data_tools.{name}").__doc__
        assert about.partition("\n")[0] in usage and "--check" in usage


# ---- the real engine --------------------------------------------------------------------------------------------

ENGINE = """
import json, sys
import torch
from pathlib import Path
from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
from cosmos_rl.dispatcher.data.schema import RLPayload
from cosmos_rl.policy.config import Config as EngineConfig
from cosmos_rl.utils.util import call_setup
import toml
from cookbook.config import Config
from cookbook.data.contract import ContractError
from cookbook.engine.bridge import video_reader
from data_tools.loading.engine import EngineDataset
from data_tools.loading import load

video_reader.install_reader()
out = {}
for kind in ("sft", "grpo"):
    path = Path(sys.argv[1]) / f"{kind}.toml"
    ours, theirs = Config.load(path), EngineConfig.from_dict(toml.load(path))
    packer = Qwen2_5_VLM_DataPacker()
    call_setup(packer, theirs)
    splits = load(ours, "llava")
    data = EngineDataset(splits["train"], ours)
    call_setup(data, theirs)
    rows, samples = out.setdefault(kind, []), []
    for i in range(len(data)):
        if kind == "sft":
            x = packer.sft_process_sample(data[i])
            samples.append(x)
            labels = [t for t in x["label_ids"] if t != -100]
            batch = packer.sft_collate_fn([x], packer.sft_compute_max_len([x]), -100)
            rows.append({"ids": len(x["input_ids"]), "labels": packer.tokenizer.decode(labels),
                         "text": packer.tokenizer.decode(x["input_ids"]), "batch": list(batch["input_ids"].shape),
                         "video": x["video_grid_thw"].tolist() if x["video_grid_thw"] is not None else None,
                         "image": x["image_grid_thw"].tolist() if x["image_grid_thw"] is not None else None})
        else:
            prompt = RLPayload.model_validate_json(RLPayload(prompt=data[i]).model_dump_json()).prompt  # as it travels
            got = packer.get_rollout_input(prompt)
            policy = packer.get_policy_input(prompt, "<answer>A</answer>")
            rows.append({"prompt": got["prompt"], "media": sorted(got.get("multi_modal_data", {})),
                         "scored": sum(policy["logprob_masks"]), "reference": data.get_reference_answer(i)})
    if kind == "sft":
        try:
            packer.sft_collate_fn(samples[:2], packer.sft_compute_max_len(samples[:2]), -100)
        except AssertionError as error:
            out["mixed"] = str(error)
print("RESULT" + json.dumps(out))
"""


def turns(*values, system=""):
    spoken = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return ([{"from": "system", "value": system}] if system else []) + spoken


def test_the_engines_packer_takes_our_samples(tmp_path):
    """Video, image, both, several turns, system; SFT labels and GRPO prompts."""
    for i in range(2):
        made.clip(tmp_path / f"data/v/{i}.mp4", i)
    made.picture(tmp_path / "data/i/0.png")
    items = [
        {"id": "video", "video": "v/0.mp4", "answer": "sun",
         "conversations": turns("<video>\nWhat?", "Rain.\n晴れ", "And then?", "Sun.", system="Be brief.")},
        {"id": "image", "image": "i/0.png", "conversations": turns("Look at <image>\nnow.", "A cup.")},
        {"id": "two", "video": ["v/0.mp4", "v/1.mp4"], "conversations": turns("<video> or <video>?", "The first.")},
    ]  # fmt: skip
    made.json_file(tmp_path / "data/annotations.json", items)
    for kind in ("sft", "grpo"):
        words = toml(tmp_path / "data", kind, mini_batch=1).replace("models/", f"{ROOT}/models/")
        (tmp_path / f"{kind}.toml").write_text(words)
    found = in_engine(ENGINE, tmp_path)
    sft, grpo = found["sft"], found["grpo"]
    assert [row["labels"] for row in sft] == [
        "Rain.\n晴れ<|im_end|>Sun.<|im_end|>",
        "A cup.<|im_end|>",
        "The first.<|im_end|>",
    ]
    assert [row["batch"] for row in sft] == [[1, row["ids"]] for row in sft]
    assert len(sft[2]["video"]) == 2 and sft[0]["image"] is None and sft[1]["video"] is None
    assert [grid[0] for grid in sft[2]["video"]] == [2, 2]  # four frames, two to a step
    vision = "<|vision_start|><|{}_pad|><|vision_end|>".format
    assert [row["prompt"].count(vision("video")) for row in grpo] == [1, 0, 2]
    assert grpo[1]["prompt"].endswith(f"Look at {vision('image')}now.<|im_end|>\n<|im_start|>assistant\n")
    assert grpo[0]["prompt"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert [row["media"] for row in grpo] == [["video"], ["image"], ["video"]]
    assert [row["reference"] for row in grpo] == ["sun", "A cup.", "The first."] and all(row["scored"] for row in grpo)
    assert "pixel_values_videos should be None" in found["mixed"]  # why EngineDataset refuses what it refuses
    assert "Be brief." in sft[0]["text"] and "And then?" in sft[0]["text"]
