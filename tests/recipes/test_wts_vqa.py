"""The transportation recipe: WTS's layout, scenes that stay whole, damage that is told, tokens, the toy junction."""

import json
import os
import tracemalloc
from collections import Counter

import numpy as np
import official_layouts as made
import pytest

from cookbook import pipeline
from cookbook.config import Config, clip_tokens
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.runs import ROOT
from data_tools import wts_vqa
from data_tools.worlds import drawing, junction

ROWS = [
    {
        "question": "What is the weather?",
        "a": "Sunny",
        "b": "Rainy",
        "c": "Snowy",
        "d": "Cloudy",
        "correct": "b",
    },
    {"question": "Is there a sidewalk?", "a": "Yes", "b": "No", "correct": "a"},
]


def scene(root, name, split="train", cameras=2, rows=ROWS, trimmed=False):
    """One scene of WTS, as it is downloaded."""
    inner = f"normal_trimmed/{name}" if trimmed else name
    clips = [f"{name}_192.168.0.1{i}-1.mp4" for i in range(cameras)]
    for i, clip in enumerate(clips):
        made.clip(root / "videos" / split / inner / "overhead_view" / clip, i)
    entry = {"id": 7, "overhead_videos": clips, "environment": rows}
    return made.json_file(root / "annotations/vqa" / split / inner / "environment" / f"{name}.json", [entry])


def config(root, **custom):
    contract = {"contract": "configs/prompts/intelligent_transportation.yaml"}
    return Config.load("configs/recipes/intelligent_transportation_sft.toml").edit(
        {"train.train_policy.dataset.name": str(root), "custom": contract | custom}
    )


def test_every_question_is_asked_of_every_camera(tmp_path):
    scene(tmp_path, "20230707_8")
    scene(tmp_path, "20230707_9", trimmed=True, cameras=1)
    scene(tmp_path, "20230707_1", split="val", cameras=1)
    found = wts_vqa.load(config(tmp_path, validate=True))
    assert len(found["train"]) == 2 * 2 + 2 and len(found["validation"]) == 2
    first = found["train"][0]
    assert first.question == "What is the weather?\nA: Sunny\nB: Rainy\nC: Snowy\nD: Cloudy"
    assert (first.target, first.options, first.task) == ("B", ("A", "B", "C", "D"), "weather")
    assert len({s.id for s in found["train"]}) == 6
    assert Counter(s.group for s in found["train"]) == {"20230707_8": 4, "normal_trimmed/20230707_9": 2}
    assert "test" not in found
    plain = wts_vqa.load(config(tmp_path))
    assert plain["validation"] == [] and plain["train"] == found["train"] and plain["test"] == found["validation"]


def test_two_days_of_one_camera_look_alike_and_are_no_leak(tmp_path, runs):
    for split, shade in (("train", 100), ("val", 104)):
        scene(tmp_path, f"{split}_8", split=split, cameras=1)
        clip = next((tmp_path / "videos" / split).rglob("*.mp4"))
        drawing.write_mp4(clip, np.full((4, 32, 32, 3), shade, np.uint8), 2)
    bound = config(tmp_path).edit({pipeline.START: "models/tiny-base"})
    assert pipeline.check_data(bound, "job", "data_tools/wts_vqa.py").quarantine == ()


def test_a_damaged_folder_is_told_and_the_rest_is_read(tmp_path):
    scene(tmp_path, "good")
    none, one = {"question": " ", "a": "x", "b": "y"}, {"question": "?", "a": "x", "correct": "a"}
    bad = [ROWS[0] | {"correct": "e"}, none, one, "no row", ROWS[1]]
    scene(tmp_path, "halves", rows=bad, cameras=1)
    (tmp_path / "videos/train/good/overhead_view/good_192.168.0.11-1.mp4").unlink()
    scene(tmp_path, "cut").write_bytes(b'[{"id": 1, "overhead_videos": [')
    (tmp_path / "annotations/vqa/train/empty").mkdir()
    scene(tmp_path, "outside", cameras=0)
    made.json_file(tmp_path / "annotations/vqa/train/outside/environment/outside.json",
                   [{"id": 1, "overhead_videos": ["../../../../secret.mp4", 5], "environment": ROWS}])  # fmt: skip
    made.clip(tmp_path / "secret.mp4")
    problems = []
    found = wts_vqa.read(tmp_path, "train", problems)
    assert Counter(s.group for s in found) == {"good": 2, "halves": 1}
    told = [name for name, _ in problems]
    assert [n for n in told if n.startswith("halves")] == [f"halves, question {i}" for i in range(4)]
    assert {"train/cut", "train/empty"} <= set(told) and len([n for n in told if n.startswith("outside")]) == 2
    with pytest.raises(DataError, match="annotations/vqa/val"):
        wts_vqa.read(tmp_path, "val")


def test_ten_thousand_questions_in_bounded_memory(tmp_path):
    clip = made.clip(tmp_path / "one.mp4")
    for number in range(500):
        name = f"s{number:04d}"
        folder = tmp_path / "videos/train" / name / "overhead_view"
        folder.mkdir(parents=True)
        clips = [f"{name}_{i}.mp4" for i in range(2)]
        for own in clips:
            os.link(clip, folder / own)
        entry = {"id": number, "overhead_videos": clips, "environment": ROWS * 5, "caption": "x" * 20_000}
        made.json_file(tmp_path / "annotations/vqa/train" / name / "environment" / f"{name}.json", [entry])
    tracemalloc.start()
    found = wts_vqa.read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 10_000 and peak < 60e6


def test_the_published_arithmetic_of_tokens():
    """A clip of 75 s at 1 frame a second: 38 pairs of frames, each of at most max_pixels / 784 tokens."""
    few, many = (
        Contract.load(ROOT / f"configs/prompts/intelligent_transportation{name}.yaml").vision for name in ("", "_8k")
    )
    pairs = (75 + 1) // 2
    assert pairs * (few.max_pixels // 28**2) == 3952
    assert many.total_pixels // 28**2 == 8192
    real = [clip_tokens(75, v.fps, 1920, 1080, v.max_pixels, v.min_pixels, v.total_pixels) for v in (few, many)]
    assert real[0] < 3952 and real[1] < 8192  # sides are multiples of 28, so a wide picture has less
    assert real[1] == clip_tokens(75, 1, 1920, 1080, total_pixels=6_422_528)


# ---- the toy junction -------------------------------------------------------------------------------------------


def test_the_junction_is_read_by_the_same_loader(tmp_path):
    home = junction.build(tmp_path / "w", {"train": 12, "val": 4}, seed=1)
    train, val = (wts_vqa.read(home, split) for split in ("train", "val"))
    assert len(train) == 48 and len(val) == 16 and {s.task for s in train} == set(junction.QUESTIONS)
    for s in train:
        facts = s.question.splitlines()[1 + s.options.index(s.answer)][3:]
        assert facts in junction.OPTIONS[s.task]
    again = junction.build(tmp_path / "again", {"train": 12, "val": 4}, seed=1)
    assert all(p.read_bytes() == (again / p.relative_to(home)).read_bytes() for p in home.rglob("*.mp4"))
    assert json.loads((home / "world.json").read_text())["seed"] == 1


def test_letters_are_worth_nothing(tmp_path):
    home = junction.build(tmp_path / "w", {"train": 100}, seed=0)
    counts = Counter(s.answer for s in wts_vqa.read(home))
    assert all(70 < counts[letter] < 130 for letter in "ABCD")
