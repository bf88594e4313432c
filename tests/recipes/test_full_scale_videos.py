"""The two recipes of clips at full scale, on samples in the official layouts: every command runs, weights alone are tiny.

Configurations, contracts and generation settings are the published ones. The start is the tiny base, made to fall
silent after a few words: untrained under a long prompt it would fill thousands of tokens.
"""

import csv
import http.server
import json
import shutil
import threading
from functools import partial

import datasets
import nbformat
import official_layouts as made
import pytest

from cookbook import pipeline
from cookbook.config import Config
from cookbook.runs import FOLDER, ROOT, read_jsonl
from cookbook.tutorial import execute
from data_tools import videophy2, videophy2_download, wts_vqa

SCORES = {"train": [4, 4, 1, 5, 3, 2, 4, 5, 3, 4], "test": [4, 1, 5, 3]}
QUESTIONS = [
    {"question": "What is the weather?", "a": "Sunny", "b": "Rainy", "c": "Snowy", "d": "Cloudy", "correct": "b"},
    {"question": "Is there a sidewalk?", "a": "Yes", "b": "No", "correct": "a"},
]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Jobs go to a folder of their own, in the notebooks' kernels too."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The tiny base, for which every other word is the end."""
    place = shutil.copytree(ROOT / "models/tiny-base", tmp_path_factory.mktemp("base") / "silent")
    file = place / "generation_config.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(words | {"eos_token_id": [*words["eos_token_id"], *range(0, 600, 2)]}))
    return place


def video_rows(split, site="https://clips.invalid"):
    """Rows with the published field names."""
    return [
        {"caption": "A cup, falling", "video_url": f"{site}/{split}/{i}/video.mp4", "sa": 3, "pc": score, "joint": 0,
         "action": "falling", "physics_rules_followed": ["gravity"]}
        for i, score in enumerate(SCORES[split])
    ]  # fmt: skip


def videophy(root):
    """VideoPhy-2 as it lies on the disk once it was fetched."""
    for split in SCORES:
        rows = video_rows(split)
        for i, row in enumerate(rows):
            made.clip(root / "videos" / videophy2.clip_name(row["video_url"]), i + 20 * (split == "test"))
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return root


def wts(root):
    """WTS as it is downloaded: five scenes, three of them to learn from."""
    for i, (split, name) in enumerate([("train", "s1"), ("train", "s2"), ("train", "normal_trimmed/s3"),
                                       ("val", "s4"), ("val", "normal_trimmed/s5")]):  # fmt: skip
        clip = f"{name[-2:]}_192.168.0.11-1.mp4"
        made.clip(root / "videos" / split / name / "overhead_view" / clip, i)
        entry = {"id": i, "overhead_videos": [clip], "environment": QUESTIONS}
        made.json_file(root / "annotations/vqa" / split / name / "environment" / f"{name[-2:]}.json", [entry])
    return root


def run(recipe, out, data, base, **wanted):
    """Runs the notebook at full scale for two steps. Returns all that it printed."""
    notebook = ROOT / f"notebooks/recipes/{recipe}.ipynb"
    short = {"scale": "full", "data": str(data), "base": str(base), "engine": "local", "steps": 2}
    execute(notebook, out, short | wanted)
    cells = nbformat.read(out / notebook.name, 4).cells
    assert not [o for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def manifest(place):
    return json.loads((place / "manifest.json").read_text())


def test_video_rewards_at_full_scale(runs, tmp_path, silent):
    data = videophy(tmp_path / "videophy2")
    told = run("video_rewards", tmp_path / "out", data, silent, sft_steps=2)
    home = runs / "video_rewards_full"
    sft, rl = manifest(home / "sft"), manifest(home / "balanced_kl/rl")
    assert (sft["data"], sft["start"], sft["steps"]) == (rl["data"], rl["start"], rl["steps"]) == (str(data), str(silent), 2)
    trained = Config.load(home / "balanced_kl/rl/config.toml")
    published = Config.load("configs/recipes/video_rewards_rl.toml")
    kept = ("train.train_policy.kl_beta", "train.optm_lr", "rollout.max_response_length", "policy.model_max_length")
    assert {key: trained[key] for key in kept} == {key: published[key] for key in kept}
    assert trained.table("custom")["balance"] is True
    test = {s.id for s in videophy2.load(published.edit({pipeline.DATASET: str(data)}))["test"]}
    files = {"base": home, "sft": home, "balanced_kl": home / "balanced_kl"}
    for name, place in files.items():
        rows = read_jsonl(place / f"evaluation/predictions_{name}.jsonl")
        assert {row["id"] for row in rows} == test and len(rows) == 4
        assert all("at 0.6" in row["decoding"] and "4096 tokens" in row["decoding"] for row in rows)
    assert not test & {row["id"] for row in read_jsonl(home / "balanced_kl/rl/generations.jsonl")}
    assert "RL, step 900" in told and "SFT, step 60" in told and "zero-shot" in told
    assert not list(runs.rglob("*.mp4"))


def test_intelligent_transportation_at_full_scale(runs, tmp_path, silent):
    data = wts(tmp_path / "WTS")
    told = run("intelligent_transportation", tmp_path / "out", data, silent, job="crossing")
    for name in ("few", "more"):
        done = manifest(runs / f"crossing/{name}/sft")
        assert (done["data"], done["start"], done["steps"]) == (str(data), str(silent), 1)  # one epoch, as published
        assert Config.load(runs / f"crossing/{name}/sft/config.toml")["policy.model_max_length"] == 32768
        rows = read_jsonl(runs / f"crossing/{name}/evaluation/predictions_{name}.jsonl")
        assert {row["group"] for row in rows} == {"s4", "normal_trimmed/s5"} and len(rows) == 4
    contracts = {name: manifest(runs / f"crossing/{name}/sft")["contract"] for name in ("few", "more")}
    assert contracts["few"] != contracts["more"]
    assert "8,192 tokens a clip" in told and "81,920 pixels a frame" in told
    assert not list(runs.rglob("*.mp4"))
