"""The recipes of clips at full scale, on samples in the official layouts: every command runs, the weights are tiny.

Configurations, contracts and generation settings are the published ones. The start is the tiny base, made to fall
silent after a few words: untrained under a long prompt it would fill thousands of tokens.
"""

import csv
import http.server
import json
import threading
from contextlib import contextmanager
from functools import partial

import datasets
import nbformat
import official_layouts as made
import pytest

from cookbook import pipeline
from cookbook.config import Config
from cookbook.config.models import family_of
from cookbook.display.settings import read_parameters
from cookbook.runs import FOLDER, ROOT, read_jsonl
from cookbook.tutorial import execute
from data_tools import videophy2, videophy2_download

SCORES = {"train": [4, 4, 1, 5, 3, 2, 4, 5, 3, 4], "test": [4, 1, 5, 3], "validation": (2, 4)}
QUESTIONS = [
    {"question": "What is the weather?", "a": "Sunny", "b": "Rainy", "c": "Snowy", "d": "Cloudy", "correct": "b"},
    {"question": "Is there a sidewalk?", "a": "Yes", "b": "No", "correct": "a"},
]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Jobs go to a folder of their own, in the notebooks' kernels too."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "runs"))
    return tmp_path / "runs"


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
            made.clip(root / "videos" / videophy2.clip_name(row["video_url"]), i + 20 * list(SCORES).index(split))
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


@contextmanager
def serving(folder):
    """Yields the address of a server of a folder's files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_videophy2_is_fetched_by_one_command_which_goes_on(tmp_path, monkeypatch, capsys):
    def fetch(*words):
        monkeypatch.setattr("sys.argv", ["videophy2_download", *map(str, words)])
        return videophy2_download.main()

    data, asked = tmp_path / "videophy2", []
    for split, scores in SCORES.items():
        for i in range(len(scores)):
            made.clip(tmp_path / f"site/{split}/{i}/video.mp4", i + 20 * list(SCORES).index(split))
    late = (tmp_path / "site/test/1/video.mp4").rename(tmp_path / "late.mp4")
    with serving(tmp_path / "site") as site:

        def hub(name, subset=None):
            asked.append(name)
            split = name.rpartition("_")[2]
            return datasets.DatasetDict({split: datasets.Dataset.from_list(video_rows(split, site))})

        monkeypatch.setattr(datasets, "load_dataset", hub)
        assert fetch(data) == 1
        told = capsys.readouterr().out
        assert "14 addresses, 1 problems" in told and f"{site}/test/1/video.mp4: 404" in told
        late.rename(tmp_path / "site/test/1/video.mp4")
        before = {clip: clip.stat().st_mtime_ns for clip in (data / "videos").iterdir()}
        assert fetch(data) == 0 and asked == ["videophysics/videophy2_train", "videophysics/videophy2_test"]
    assert len(before) == 13 and all(clip.stat().st_mtime_ns == time for clip, time in before.items())
    config = Config.load("configs/recipes/video_rewards_rl.toml").edit({pipeline.DATASET: str(data)})
    found = videophy2.load(config)
    assert [s.answer for s in found["test"]] == list(map(str, SCORES["test"]))
    assert not {s.video for s in found["test"]} & {s.video for s in found["train"]}
    assert sorted(s.answer for s in found["train"]) == list("1122334455")  # balanced

    def unreachable(*_):
        raise ConnectionError("Couldn't reach 'videophysics/videophy2_train' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert fetch(tmp_path / "empty") == 2 and "hf auth login" in capsys.readouterr().err
    assert not list((tmp_path / "empty").glob("*.jsonl"))


@pytest.mark.slow
def test_video_rewards_at_full_scale(runs, tmp_path, silent):
    data = videophy(tmp_path / "videophy2")
    told = run("video_rewards", tmp_path / "out", data, silent, sft_steps=2)
    home = runs / "video_rewards_full"
    sft, rl = manifest(home / "sft"), manifest(home / "balanced_kl/rl")
    for done in (sft, rl):
        assert (done["data"], done["start"], done["steps"]) == (str(data), str(silent), 2)
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
    own = ("SFT, step 60", "RL, step 900") if family_of(str(silent)).native else ("SFT, step 80", "SFT, step 40")
    assert all(words in told for words in (*own, "zero-shot"))
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


@pytest.mark.parametrize("wanted", [{"scale": "huge"}, {"scale": "full"}])
@pytest.mark.parametrize("recipe", ["video_rewards", "intelligent_transportation"])
def test_a_scale_that_cannot_be_is_one_sentence(recipe, wanted):
    """The cell that picks the configuration, with the defaults of the notebook's own parameters."""
    cells = nbformat.read(ROOT / f"notebooks/recipes/{recipe}.ipynb", 4).cells
    declared = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    space = {name: p.default for name, p in read_parameters(declared).items()} | wanted
    picks = next(cell.source for cell in cells if "FILES = " in cell.source)
    with pytest.raises(ValueError, match="it is tiny, or full with its data"):
        exec(picks, space)
