"""The video-rewards recipe: VideoPhy-2's layout, clips that stay with their rows, balance, and the toy world."""

import csv
import http.server
import json
import os
import threading
import tracemalloc
from collections import Counter

import numpy as np
import official_layouts as made
import pytest

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.runs import ROOT
from cookbook.training.rewards import require_gold, reward_weights
from data_tools import videophy2, videophy2_download
from data_tools.worlds import falling

URL = "https://clips.invalid/{}/video.mp4"  # the last part is the same for all, as it may well be


@pytest.fixture(scope="module")
def bound():
    return Contract.load(ROOT / "configs/prompts/video_rewards.yaml")


def folder(root, scores, name="train.csv"):
    """VideoPhy-2 as it is published, with each clip under the name of its address."""
    rows = [{"video_url": URL.format(i), "caption": "A cup, falling", "sa": 3, "pc": s} for i, s in enumerate(scores)]
    for i, row in enumerate(rows):
        made.clip(root / "videos" / videophy2.clip_name(row["video_url"]), i)
    path = root / name
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    elif name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def config(place, **custom):
    contract = {"contract": "configs/prompts/video_rewards.yaml"}
    return Config.load("configs/recipes/video_rewards_rl.toml").edit(
        {"train.train_policy.dataset.name": str(place), "custom": contract | custom}
    )


@pytest.mark.parametrize("name", ["train.csv", "videophy2_train.parquet", "rows.jsonl"])
def test_every_row_keeps_its_score_and_its_own_clip(tmp_path, bound, name):
    path = folder(tmp_path, [4, 4, 1, 5, 3], name)
    samples = videophy2.read(path, bound)
    assert [s.answer for s in samples] == ["4", "4", "1", "5", "3"]
    for i, sample in enumerate(samples):
        expected = made.clip(tmp_path / "expected.mp4", i)
        assert sample.video.read_bytes() == expected.read_bytes()
    assert samples[2].target == "<think></think>\n\n<answer>1</answer>"
    require_gold(samples, reward_weights(config(tmp_path)), bound)


def test_balance_repeats_a_rare_score_with_its_own_clip(tmp_path, bound):
    folder(tmp_path, [4] * 12 + [3] * 5 + [2, 5, 1])
    plain = videophy2.load(config(tmp_path))["train"]
    before = {answer: {s.video for s in plain if s.answer == answer} for answer in "12345"}
    found = videophy2.load(config(tmp_path, balance=True))["train"]
    assert Counter(s.answer for s in found) == dict.fromkeys("12345", 4)
    assert all(s.video in before[s.answer] for s in found)
    assert len({s.id for s in found}) == len(found) == 20
    assert len({s.group for s in found if s.answer == "1"}) == 1  # so a split can never part the copies


def test_the_test_rows_are_a_split_of_their_own_that_nothing_trains_on(tmp_path, bound):
    folder(tmp_path, [4, 1, 5], "videophy2_test.csv")
    with pytest.raises(DataError, match=r"no train\.csv"):
        videophy2.load(config(tmp_path))  # the only file there is, but not of that split
    made.clip(tmp_path / "videos" / videophy2.clip_name(f"{URL.format(9)}"), 9)
    (tmp_path / "rows.csv").write_text(f"video_url,pc\n{URL.format(9)},2\n")
    found = videophy2.load(config(tmp_path, balance=True))
    assert {name: [s.answer for s in samples] for name, samples in found.items()} == {
        "train": ["2"], "validation": [], "test": ["4", "1", "5"],
    }  # fmt: skip
    found = videophy2.load(config(tmp_path / "rows.csv", media=str(tmp_path / "videos")))
    assert "test" not in found and len(found["train"]) == 1  # a file is one split


def test_a_damaged_folder_is_told_row_by_row(tmp_path, bound):
    path = folder(tmp_path, [4, "", 6, 2.0, "good", 3, 5])
    (tmp_path / "videos" / videophy2.clip_name(URL.format(5))).unlink()
    problems = []
    found = videophy2.read(path, bound, problems)
    assert [s.answer for s in found] == ["4", "2", "5"]
    told = dict(problems)
    assert list(told) == [f"train.csv, row {i}" for i in (2, 3, 5, 6)]
    assert "from 1 to 5" in told["train.csv, row 3"] and "no such file" in told["train.csv, row 6"]
    path.write_bytes(b"video_url,pc\n\xff\xfe\n")
    with pytest.raises(DataError, match="nothing to train on"):
        videophy2.load(config(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match=r"no train\.csv"):
        videophy2.load(config(tmp_path))


def test_the_recipes_own_numbered_clips_are_read_in_their_order(tmp_path, bound):
    path = folder(tmp_path, [4, 1])
    for i in (1, 2):
        made.clip(tmp_path / "video_data" / f"{i}.mp4", i)
    found = videophy2.read(path, bound, media=tmp_path / "video_data", numbered=True)
    assert [s.video.name for s in found] == ["1.mp4", "2.mp4"]


def test_thousands_of_rows_in_bounded_memory(tmp_path, bound):
    (tmp_path / "videos").mkdir()
    clip = made.clip(tmp_path / "one.mp4")
    with (tmp_path / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video_url", "pc", "caption"])
        for i in range(4_000):
            os.link(clip, tmp_path / "videos" / videophy2.clip_name(URL.format(i)))
            table.writerow([URL.format(i), i % 5 + 1, "x" * 2_000])  # 8 MB that nobody needs to keep
    tracemalloc.start()
    found = videophy2.read(tmp_path / "train.csv", bound)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 4_000 and peak < 16e6
    assert len(videophy2.even(found)) == 4_000


def test_clips_are_fetched_once_and_failures_are_told(tmp_path):
    made.clip(tmp_path / "site/a.mp4")
    made.clip(tmp_path / "site/half.mp4")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "site")

        def log_message(self, *args):
            pass

        def send_header(self, name, value):  # the connection breaks before the end of half.mp4
            more = 99 if name == "Content-Length" and "half" in self.path else 0
            super().send_header(name, str(int(value) + more) if more else value)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "rows.csv").write_text(
            f"video_url,pc\n{site}/a.mp4,4\n{site}/gone.mp4,3\nnone,2\n{site}/half.mp4,1\n"
        )
        problems = []
        urls = videophy2_download.addresses(tmp_path / "rows.csv", problems)
        failed = videophy2_download.download(urls, tmp_path / "videos")
        server.shutdown()
    assert [name for name, _ in problems] == ["rows.csv, row 3"]
    assert [url for url, _ in failed] == [f"{site}/gone.mp4", f"{site}/half.mp4"]
    assert "404" in failed[0][1] and "IncompleteRead" in failed[1][1]
    assert [p.name for p in (tmp_path / "videos").iterdir()] == [videophy2.clip_name(f"{site}/a.mp4")]
    assert videophy2_download.download(urls[:1], tmp_path / "videos") == []  # there already: the server is gone


# ---- the toy world ----------------------------------------------------------------------------------------------


def test_the_world_is_skewed_as_it_says_and_reads_back(tmp_path, bound):
    home = falling.build(tmp_path / "w", {"train": 100, "test": 10, "sft": 10}, seed=3)
    train, test, sft = (videophy2.read(home / f"{split}.csv", bound) for split in ("train", "test", "sft"))
    assert Counter(s.answer for s in train) == {"4": 60, "5": 15, "3": 12, "2": 8, "1": 5}
    assert Counter(s.answer for s in test) == Counter(s.answer for s in sft) == dict.fromkeys("12345", 2)
    assert all("<think></think>" in s.target for s in train) and not any("<think></think>" in s.target for s in sft)
    again = falling.build(tmp_path / "again", {"train": 100, "test": 10, "sft": 10}, seed=3)
    one, other = (sorted((p / "videos").iterdir()) for p in (home, again))
    assert [p.name for p in one] == [p.name for p in other]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]


@pytest.mark.parametrize("score", falling.THOUGHTS)
def test_what_happens_is_what_the_score_says(score):
    for seed in range(20):
        xy = falling.path_of(score, 0.1, np.random.default_rng(seed))
        down, aside, fall = xy[-1, 1] - xy[0, 1], np.ptp(xy[:, 0]), np.ptp(xy[:, 1])
        assert {5: down > 0.4, 4: abs(down) < 0.05 and fall > 0.4, 3: fall == 0, 2: fall == 0, 1: down < -0.4}[score]
        assert (aside > 0.6) == (score == 2) and (aside == 0) == (score != 2)
        assert xy.min() > 0.05 and xy[:, 0].max() < 0.95
