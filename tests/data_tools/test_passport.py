"""The passport: every damage is named with its file, what is good stays usable, the same data gives the same bytes."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import clip_makers as make
import pytest
from matplotlib.figure import Figure

from cookbook.data.samples import DataError, Sample, message, text
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.passport.__main__ import main
from data_tools.passport.dataset import passport, read_layout
from data_tools.passport.plots import plot_passport
from data_tools.passport.result import read_quarantine
from data_tools.worlds import road

TRAIN, TEST = ("a0", "a1", "a2", "a3"), ("t0", "t1")
BAD = "bad"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder without a fault: four clips to train on, two to test on."""
    folder = tmp_path_factory.mktemp("whole")
    for seed, key in enumerate(TRAIN):
        make.pair(folder, key, seed, split="train")
    for seed, key in enumerate(TEST, start=len(TRAIN)):
        make.pair(folder, key, seed, split="test")
    return folder


@pytest.fixture
def data(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def check(data, **how):
    """The passport of a folder, or of what `read_layout` found in one."""
    return passport(read_layout(data) if isinstance(data, Path) else data, cache=None, workers=0, **how)


def keys(found, folder) -> dict[str, set[str]]:
    """The ids that may be used, by split."""
    return {split: {r.id for r in rows} for split, rows in found.usable(read_layout(folder).samples).items()}


def clip(folder, key=BAD, split="train") -> Path:
    return folder / split / "videos" / f"{key}{VIDEO_SUFFIX}"


def meta(folder, key=BAD, split="train") -> Path:
    return folder / split / "metas" / f"{key}{LABEL_SUFFIX}"


def test_a_whole_folder_has_no_findings(whole):
    found = check(whole)
    assert found.findings == () and found.quarantine == () and "No findings" in found.markdown()
    assert keys(found, whole) == {"train": set(TRAIN), "test": set(TEST)}
    assert found.counts["train"]["samples"] == found.counts["train"]["usable"] == found.counts["train"]["clips"] == 4
    assert found.counts["train"]["seconds"] == 8.0


# Damage of one pair, which lies beside six good ones: what is done to the clip or to the label, and the finding


CLIPS = {
    "cut at 2 %": (lambda p: make.cut(p, 0.02), "corrupt"),
    "cut in half": (lambda p: make.cut(p, 0.5), "corrupt"),
    "cut near the end": (lambda p: make.cut(make.long(p), 0.95), "truncated"),
    "flipped bits": (lambda p: make.flip(make.long(p), seed=1), "corrupt"),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "zeros": (lambda p: p.write_bytes(bytes(4000)), "not-video"),
    "random bytes": (lambda p: p.write_bytes(bytes(range(1, 256)) * 20), "not-video"),
    "text": (lambda p: p.write_text("a note\n" * 100), "not-video"),
    "an error page": (lambda p: p.write_text("<html>404 not found</html>"), "not-video"),
    "a play list": (lambda p: p.write_text("ffconcat version 1.0\nfile other.mp4\n"), "not-video"),
    "sound without a picture": (make.write_sound, "not-video"),
    "an unknown codec": (lambda p: make.replace(p, b"avc1", b"xxxx"), "corrupt"),
    "one frame": (lambda p: make.write(p, make.frames(9, count=1)), "too-few-frames"),
    "a ribbon": (lambda p: make.write(p, make.frames(9, 8, 4400, 16)), "shape"),
    "a folder": (lambda p: p.unlink() or p.mkdir(), "not-a-file"),
    "a pipe": (lambda p: p.unlink() or os.mkfifo(p), "not-a-file"),
    "a link to nothing": (lambda p: p.unlink() or p.symlink_to("nowhere.mp4"), "missing"),
    "a link out of the folder": (lambda p: _move_out(p), "outside"),
    "a loop of links": (lambda p: p.unlink() or p.symlink_to(p.name), "unreadable"),
}
CLIP_WARNINGS = {
    "with sound": (lambda p: make.write(p, make.frames(9), sound=True), "audio"),
    "to be turned": (make.turn, "rotated"),
    "uneven times": (lambda p: make.write(p, make.frames(9), times=[0, 9, 500, 600, 1000, 1250, 1900, 2000]),
                     "variable-rate"),
    "odd sides": (lambda p: make.write(p, make.frames(9, 8, 63, 65), pixels="yuv444p"), "odd-size"),
    "another container": (lambda p: make.write(p, make.frames(9), format="matroska"), "extension"),
}  # fmt: skip
LABELS = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "only spaces": (lambda p: p.write_bytes(b" \n"), "is empty"),
    "not UTF-8": (lambda p: p.write_bytes(b'{"weather": "\xe9t\xe9"}'), "not UTF-8 (byte 13)"),
    "UTF-16": (lambda p: p.write_text('{"weather": "rain"}', encoding="utf-16"), "not UTF-8"),
    "cut off": (lambda p: make.cut(p, 0.7), "not valid JSON"),
    "Python's spelling": (lambda p: p.write_text("{'weather': 'rain'}"), "not valid JSON"),
    "a list": (lambda p: p.write_text('[{"weather": "rain"}]'), "a list"),
    "a number": (lambda p: p.write_text("4"), "a number"),
    "no fields": (lambda p: p.write_text("{}"), "is empty"),
    "not a number": (lambda p: p.write_text('{"speed": NaN}'), "NaN"),
    "nested without end": (lambda p: p.write_text("[" * 200_000), "nested too deeply"),
    "a folder": (lambda p: p.unlink() or p.mkdir(), "not a file"),
    "a link to nothing": (lambda p: p.unlink() or p.symlink_to("nowhere.json"), "a symlink to nothing"),
    "a link out of the folder": (lambda p: _move_out(p), "outside of the data folder"),
    "larger than memory": (lambda p: p.write_bytes(b" ") and os.truncate(p, 1 << 30), "larger than"),
}


def _move_out(path: Path) -> None:
    other = path.parents[3] / f"elsewhere{path.suffix}"
    path.rename(other)
    path.symlink_to(other)


def assert_only_bad_is_out(found, data):
    assert [(q.split, q.id) for q in found.quarantine] == [("train", BAD)]
    assert keys(found, data) == {"train": set(TRAIN), "test": set(TEST)}
    assert found.counts["train"]["usable"] == 4 and found.counts["test"]["usable"] == 2


@pytest.mark.parametrize("damage", CLIPS)
def test_a_bad_clip_is_named_and_the_others_stay(data, damage):
    act, code = CLIPS[damage]
    make.pair(data, BAD, 9, split="train")
    act(clip(data))
    found = check(data)
    assert (code, f"train/videos/{BAD}{VIDEO_SUFFIX}") in {(f.code, f.name) for f in found.errors}
    assert {f.name for f in found.findings} == {f"train/videos/{BAD}{VIDEO_SUFFIX}"}
    assert all(f"{finding.code}: {finding.name}" in found.quarantine[0].reason for finding in found.errors)
    assert_only_bad_is_out(found, data)


@pytest.mark.parametrize("damage", CLIP_WARNINGS)
def test_an_unusual_clip_is_named_and_used(data, damage):
    act, code = CLIP_WARNINGS[damage]
    make.pair(data, BAD, 9, split="train")
    act(clip(data))
    found = check(data)
    assert [(f.code, f.severity, f.name) for f in found.findings] == [
        (code, "warning", f"train/videos/{BAD}{VIDEO_SUFFIX}")
    ]
    assert keys(found, data)["train"] == {*TRAIN, BAD} and not found.quarantine


@pytest.mark.parametrize("damage", LABELS)
def test_a_bad_label_is_named_and_the_others_stay(data, damage):
    act, words = LABELS[damage]
    make.pair(data, BAD, 9, split="train")
    act(meta(data))
    found = check(data)
    (finding,) = found.findings
    assert (finding.code, finding.name) == ("label", f"train/metas/{BAD}{LABEL_SUFFIX}") and words in finding.message
    assert_only_bad_is_out(found, data)
    formats.read(data / "train", problems=(told := []))
    assert told == [(f"metas/{BAD}{LABEL_SUFFIX}", finding.message)]  # one reader, so the loader says the same


JSON = {  # a label's bytes: whether it is one
    b'{"a": 1}': True, b'\xef\xbb\xbf{"a": 1}': True, b' {"a": 1e308}\n': True, b'{"a": "\\ud83d\\ude97"}': True,
    b'{"a": null}': True, b'{"a": NaN}': False, b'{"a": -Infinity}': False, b'{"a": 1e999}': False,
    b'{"a": "\\ud83d"}': False, b'{"\\uDC00": 1}': False, b'{"a": "\xff"}': False, b'{"a": 1,}': False,
    b'{"a": 1} {}': False, b"[" * 9999: False, b'{"a": "\n"}': False,
    b"": False, b"\n": False, b"{}": False, b"[]": False, b"null": False, b'["a"]': False, b'"a"': False,
}  # fmt: skip


@pytest.mark.parametrize("label", JSON, ids=lambda label: ascii(label)[2:22])
def test_the_passport_finds_the_labels_that_the_loader_refuses(whole, label, tmp_path):
    folder = shutil.copytree(whole / "train", tmp_path / "data")
    (folder / f"metas/a1{LABEL_SUFFIX}").write_bytes(label)
    loaded, found = formats.read(folder, problems=(told := [])), check(folder)
    assert [name for name, _ in told] == [f.name for f in found.findings] == [f"metas/a1{LABEL_SUFFIX}"][JSON[label] :]
    assert {s.id for s in loaded} == keys(found, folder)["train"]


def test_clips_without_labels_and_labels_without_clips_are_named(data):
    make.pair(data, "b1", 9, split="train")
    make.pair(data, "b2", 10, split="test")
    meta(data, "b1").unlink()
    clip(data, "b2", "test").unlink()
    found = check(data)
    assert {(f.code, f.name) for f in found.errors} == {
        ("no-label", f"train/videos/b1{VIDEO_SUFFIX}"),
        ("no-video", f"test/metas/b2{LABEL_SUFFIX}"),
    }
    assert [(q.split, q.id) for q in found.quarantine] == [("test", "b2"), ("train", "b1")]
    assert keys(found, data) == {"train": set(TRAIN), "test": set(TEST)}


def test_files_with_other_endings_are_named_and_hidden_ones_are_not(data):
    shutil.copy(clip(data, "a0"), data / "train/videos/plain.mp4")
    (data / "train/metas/notes.txt").write_text("x")
    (data / "train/videos/.DS_Store").write_text("x")
    found = check(data)
    assert {(f.code, f.severity, f.name) for f in found.findings} == {
        ("stray", "warning", "train/videos/plain.mp4"),
        ("stray", "warning", "train/metas/notes.txt"),
    }


def test_other_endings_can_be_asked_for(tmp_path):
    for part in ("videos", "metas"):
        (tmp_path / part).mkdir()
    make.write(tmp_path / "videos/x.mp4")
    (tmp_path / "metas/x.json").write_text('{"weather": "rain"}')
    layout = read_layout(tmp_path, video_suffix=".mp4", label_suffix=".json", label="weather")
    found = check(layout)
    assert not found.findings and found.labels == {"train": {"rain": 1}}
    (sample,) = layout.samples["train"]
    assert json.loads(sample.target) == {"weather": "rain"}


def test_a_path_with_spaces_and_other_alphabets_is_fine(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "données d'été 日本")
    make.pair(folder, "clé 日本", 9, split="train")
    found = check(folder)
    assert not found.findings and keys(found, folder)["train"] == {*TRAIN, "clé 日本"}


# Duplicates and leaks


def test_the_same_bytes_under_two_names_are_named(data):
    make.pair(data, BAD, 9, split="train")
    shutil.copy(clip(data, "a1"), clip(data))
    (finding,) = [f for f in check(data).findings if f.code == "duplicate-clip"]
    assert finding.severity == "warning" and finding.name == f"train/videos/a1{VIDEO_SUFFIX}"
    assert f"train/videos/{BAD}{VIDEO_SUFFIX}" in finding.message


def test_one_question_to_one_clip_with_two_answers_is_named(data):
    make.pair(data, BAD, 9, split="train", label={"weather": "snow"})
    shutil.copy(clip(data, "a1"), clip(data))
    (finding,) = [f for f in check(data).findings if f.code == "contradiction"]
    assert finding.name == "train/a1" and f"train/{BAD}" in finding.message


LEAKS = {
    "the same content under another name": ("leak", BAD, lambda d: shutil.copy(clip(d, "t1", "test"), clip(d))),
    "the same id": ("leak", "t1", lambda d: make.pair(d, "t1", 9, split="train")),
    "another encoding": ("near-leak", BAD, lambda d: make.write(clip(d), make.frames(5), codec="mpeg4", format="avi")),
    "half the size": ("near-leak", BAD, lambda d: make.write(clip(d), make.frames(5)[:, ::2, ::2])),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_test_clip_in_the_training_set_is_kept_out_of_training(data, kind):
    code, key, leak = LEAKS[kind]
    if key == BAD:
        make.pair(data, BAD, 9, split="train")
    leak(data)
    found = check(data)
    (finding,) = [f for f in found.findings if f.code in ("leak", "near-leak")]
    assert (finding.code, finding.name) == (code, f"train/{key}") and "kept in test" in finding.message
    assert [(q.split, q.id) for q in found.quarantine] == [("train", key)]
    assert keys(found, data) == {"train": set(TRAIN), "test": set(TEST)}


def test_of_three_splits_the_test_keeps_its_clip_whatever_the_order(data):
    rows = read_layout(data).samples
    shared = rows["test"][0]
    samples = {"test": rows["test"], "validation": [shared], "train": [*rows["train"], shared]}
    found = passport(samples, cache=None, workers=0)
    assert {(q.split, q.id) for q in found.quarantine} == {("train", "t0"), ("validation", "t0")}
    assert "train and validation and test" in found.errors[0].message


def test_looks_are_compared_only_where_asked_and_only_between_splits(data):
    make.pair(data, BAD, 9, split="train")
    make.write(clip(data), make.frames(5)[:, ::2, ::2])
    assert not check(data, near=0).findings
    make.write(clip(data), make.frames(1)[:, ::2, ::2])  # looks like a1, which is for training too
    assert not check(data).findings


def test_a_world_of_like_clips_has_no_leak(tmp_path):
    """Clips of one toy world look alike to people; none is another's copy."""
    road.build(tmp_path, {"train": 40, "test": 20}, seed=3)
    found = passport(folder=tmp_path, cache=None, workers=2)
    assert found.findings == () and found.counts["train"]["usable"] == 40


# Samples of any source


def sample(key="r", video="x.mp4", question="What?", target="It rains.", **more) -> Sample:
    turns = [message("user", {"type": "video", "video": str(video)}, text(question))]
    turns += [] if target is None else [message("assistant", text(target))]
    return Sample(key, more.pop("group", key), tuple(turns), **more)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [make.write(folder / f"{i}.mp4", make.frames(20 + i)) for i in range(3)]


def of(*samples: Sample, **how):
    return passport({"train": samples}, cache=None, workers=0, **how)


SAFE = ["a", "7", "-rf", "a.b", "a ", "clé 日本", "夜\u3000道", "🚗\u200d🚦", "CON", "x" * 150, "é" * 75, "🚗" * 37]
UNSAFE = ["../up", "/etc/passwd", "a//b", "a/", "a\\b", "..", "a..b", ".", ".hidden", "", "  ", "\u3000"]
UNSAFE += ["line\nbreak", "nul\0", "a\x1b[2Jb", "\x7f", "\x85", "\u2028", "\ud800", "x" * 151, "é" * 76, "🚗" * 38]
UNSAFE += ["x" * 180, None, True, 1.5]


@pytest.mark.parametrize("key", SAFE + UNSAFE, ids=lambda key: ascii(key)[:20])
def test_the_passport_and_a_loader_refuse_the_same_ids(key, videos):
    """An id that only one of them takes is either lost in training, or never found before it."""
    line = {"id": key, "group": "g", "messages": [message("user", text("?"))]}
    (videos[0].parent / "samples.jsonl").write_text(json.dumps(line))
    loaded = formats.read(videos[0].parent, "samples_jsonl", [])
    found = of(sample(key, videos[0]))
    assert bool(loaded) == (not found.quarantine) == (key in SAFE)


@pytest.mark.parametrize("key", [key for key in UNSAFE if isinstance(key, str)], ids=lambda key: ascii(key)[:20])
def test_unsafe_ids_are_kept_out(videos, key, tmp_path):
    found = of(sample("good", videos[0]), sample(key, videos[1]))
    (finding,) = found.findings
    assert finding.code == "unsafe-id" and finding.name.startswith("train/") and finding.name.isprintable()
    assert [q.id for q in found.quarantine] == [key]
    assert [r.id for r in found.usable({"train": [sample("good"), sample(key)]})["train"]] == ["good"]
    assert json.loads(found.write(tmp_path / "passport.json").read_text())["quarantine"][0]["split"] == "train"
    assert found.markdown()


def test_an_unsafe_file_name_in_a_folder_is_kept_out(data):
    for key in ("up..down", "x" * 205, "line\nbreak"):
        make.pair(data, key, 9 + len(key), split="train")
    found = check(data)
    assert {f.code for f in found.findings} == {"unsafe-id"} and len(found.findings) == 3
    assert all("\n" not in str(f) for f in found.findings)
    assert keys(found, data)["train"] == set(TRAIN)


def test_ids_that_stand_twice_are_kept_out(videos):
    found = of(sample("a", videos[0]), sample("b", videos[1]), sample("a", videos[2]))
    (finding,) = found.findings
    assert (finding.code, finding.name) == ("duplicate-id", "train/a") and "2 samples" in finding.message
    assert [q.id for q in found.quarantine] == ["a"]


BROKEN = {
    "no messages": Sample("bad", "bad", ()),
    "no content": Sample("bad", "bad", ({"role": "user"},)),
    "content of words": Sample("bad", "bad", ({"role": "user", "content": "What?"},)),
    "a part without a type": Sample("bad", "bad", (message("user", {"text": "What?"}),)),
    "a list of frames": Sample("bad", "bad", (message("user", {"type": "video", "video": ["1.jpg", "2.jpg"]}),)),
    "a message that is none": Sample("bad", "bad", (None,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_records_that_are_no_conversations_are_kept_out(videos, kind):
    found = of(sample("good", videos[0]), BROKEN[kind], count_tokens=lambda r, f: (1, 1), max_length=5)
    (finding,) = found.findings
    assert (finding.code, finding.name) == ("sample", "train/bad")
    assert [q.id for q in found.quarantine] == ["bad"] and found.counts["train"]["usable"] == 1


def test_empty_targets_and_answers_that_cannot_be_given_are_kept_out(videos):
    found = of(
        sample("good", videos[0]),
        sample("rl", videos[0], question="Which?", target=None, answer="A", options=("A", "B")),
        sample("empty", videos[0], target=" \n"),
        sample("nothing", videos[0], target=None),
        sample("no-answer", videos[0], target=None, answer=""),
        sample("other", videos[0], question="Who?", target=None, answer="E", options=("A", "B")),
    )
    assert {(f.code, f.name) for f in found.errors} == {
        ("empty-target", "train/empty"),
        ("empty-target", "train/nothing"),
        ("empty-target", "train/no-answer"),
        ("answer", "train/other"),
    }
    assert found.counts["train"]["usable"] == 2


def test_one_bad_clip_keeps_out_every_record_that_shows_it(videos, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    found = of(sample("a", bad, group="g"), sample("b", bad, question="Who?", group="g"), sample("c", videos[0]))
    assert [f.code for f in found.findings] == ["empty"] and [q.id for q in found.quarantine] == ["a", "b"]


def test_what_a_loader_left_out_is_a_finding(videos):
    found = of(sample("a", videos[0]), problems=[("metas/x.json", "is empty"), ("rows.json:4", "no\nvideo")])
    assert [str(f) for f in found.findings] == [
        "metas/x.json: left-out: is empty",
        "rows.json:4: left-out: no\\nvideo",
    ]


def test_an_empty_split_is_an_error_and_nothing_to_check_is_refused(tmp_path):
    assert [f.code for f in of().errors] == ["no-samples"]
    for refused in ({}, {"folder": tmp_path / "nowhere"}, {"folder": tmp_path}):
        with pytest.raises(DataError):
            passport(**refused)
    with pytest.raises(DataError, match="holds no split dev"):
        read_layout(tmp_path, splits=["dev"])


# Lengths


def test_each_sample_that_would_be_cut_is_named(videos):
    rows = [sample(f"s{n}", videos[0], question=f"{n}?", group="g") for n in (1, 5, 6, 30)]

    def count(row, facts):
        assert [f.path for f in facts] == [videos[0]] and facts[0].frames == 8
        return (20, int(row.id[1:])) if row.id != "s30" else (30, 4)

    found = of(*rows, max_length=25, count_tokens=count)
    assert [(f.code, f.name) for f in found.findings] == [("too-long", "train/s30"), ("too-long", "train/s6")]
    assert "all of its answer would be cut off" in found.findings[0].message
    assert "20 + 6 tokens, the limit is 25: the last 1 of its answer" in found.findings[1].message
    assert [r.id for r in found.usable({"train": rows})["train"]] == ["s1", "s5"]
    assert found.counts["train"]["longest"] == 34 and sorted(found.tokens["train"])[-1] == (30, 4)


def test_a_count_that_fails_is_a_finding_and_bad_clips_are_not_counted(videos, tmp_path):
    def count(row, facts):
        assert all(f.usable for f in facts)
        raise ValueError("no template")

    found = of(sample("a", videos[0]), sample("b", tmp_path / "none.mp4"), max_length=5, count_tokens=count)
    assert {(f.code, f.name) for f in found.errors} == {("tokens", "train/a"), ("missing", str(tmp_path / "none.mp4"))}


# Balance


def test_a_label_that_dominates_is_named(videos):
    rows = [sample(f"r{i}", videos[0], question=f"{i}?", group="g", label="yn"[i < 2]) for i in range(20)]
    found = of(*rows)
    assert [(f.code, f.severity) for f in found.findings] == [("unbalanced", "warning")]
    assert "18 of 20 samples have the label 'y'" in found.findings[0].message
    assert found.labels["train"] == {"y": 18, "n": 2} and not of(*rows[:12:2], *rows[1:4:2]).findings


def test_a_letter_that_is_right_too_often_is_named_and_the_majority_counted(videos):
    def asked(letters):
        return [sample(f"r{i}", videos[0], question=f"{i}?", target=None, answer=a, options=tuple("ABCD"), group="g")
                for i, a in enumerate(letters)]  # fmt: skip

    even, habit = of(*asked("ABCD" * 10)), of(*asked("B" * 25 + "ABCD" * 4))
    assert not even.findings and even.counts["train"]["majority"] == 0.25
    assert [f.code for f in habit.findings] == ["answer-habit"] and "'B' is right in 29 of 41" in str(habit.findings[0])
    assert habit.counts["train"]["majority"] == pytest.approx(29 / 41, abs=1e-4)
    assert habit.answers["train"] == {"B": 29, "A": 4, "C": 4, "D": 4}
    assert not of(*asked("BBAB")).findings  # four questions prove nothing


# The result


def test_the_same_data_gives_the_same_bytes_wherever_it_lies(data, whole, tmp_path):
    again = [check(folder).as_dict() for folder in (whole, data)]
    assert json.dumps(again[0]) == json.dumps(again[1])
    cached = [passport(folder=data, cache=tmp_path / "cache", workers=n) for n in (2, 0)]
    assert {found.hash for found in cached} == {check(whole).hash}
    written = json.loads(cached[0].write(tmp_path / "out/passport.json").read_text())
    assert written["hash"] == cached[0].hash and written["decode_seconds"]["train"] > 0
    assert str(tmp_path) not in json.dumps(written)


def test_the_quarantine_is_read_back_from_the_file(data, tmp_path):
    make.pair(data, BAD, 9, split="train")
    clip(data).write_bytes(b"")
    written = check(data).write(tmp_path / "passport.json")
    assert read_quarantine(written) == {"train": {BAD: f"empty: train/videos/{BAD}{VIDEO_SUFFIX}: holds no bytes"}}
    for words in ("", "[]", '{"quarantine": [4]}'):
        written.write_text(words)
        with pytest.raises(DataError, match="is no passport"):
            read_quarantine(written)


CHANGES = {
    "a pixel of a clip": lambda d: make.write(clip(d, "a0"), make.frames(0) ^ 1),
    "a label": lambda d: meta(d, "a0").write_text('{"video_id": "a0", "weather": "fog"}'),
    "a name": lambda d: (clip(d, "a0").rename(clip(d, "b0")), meta(d, "a0").rename(meta(d, "b0"))),
    "one pair less": lambda d: (clip(d, "a0").unlink(), meta(d, "a0").unlink()),
    "a stray file": lambda d: (d / "train/videos/x.txt").write_text(""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_changes_with(data, whole, change):
    CHANGES[change](data)
    assert check(data).hash != check(whole).hash


def test_the_tables_say_what_a_person_needs(data):
    make.pair(data, BAD, 9, split="train")
    clip(data).write_bytes(b"")
    found = check(data, max_length=99, count_tokens=lambda r, f: (60, 7))
    table = found.markdown()
    assert "| train | 5 | 4 | 4 |" in table and "67 tokens" in table and found.hash in table
    assert f"| empty | error | 1 | `train/videos/{BAD}{VIDEO_SUFFIX}`: holds no bytes |" in table
    assert found._repr_markdown_() == table


def test_the_figure_shows_labels_tokens_and_seconds(data):
    layout = read_layout(data, label="weather")
    found = check(layout, max_length=80, count_tokens=lambda r, f: (60, len(r.id) + 7))
    figure = plot_passport(found)
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")
    balance, tokens, seconds = figure.axes
    assert [t.get_text() for t in balance.get_xticklabels()] == ["rain", "sun"]
    assert sum(bar.get_height() for bar in balance.patches) == pytest.approx(2)  # two splits of shares that add to 1
    assert tokens.lines[0].get_xdata()[0] == 80
    assert sum(bar.get_height() for bar in seconds.patches) == 6
    assert plot_passport(replace(found, labels={}, answers={}, tokens={}, facts=()))._repr_png_()


# The command


def test_the_command_prints_one_finding_a_line_and_exits_1_for_an_error(data, tmp_path, capsys):
    arguments = [str(data), "--workers", "0", "--cache", str(tmp_path / "cache"), "--label", "weather"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "6 of 6 samples usable" in out
    make.pair(data, BAD, 9, split="train")
    clip(data).write_bytes(b"")
    (data / "train/metas/x.txt").write_text("")
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"train/videos/{BAD}{VIDEO_SUFFIX}: empty: holds no bytes" and lines[1].endswith("(warning)")
    assert lines[2].startswith("1 errors, 1 warnings; 6 of 7 samples usable; passport ") and len(lines) == 3
    assert main([*arguments, "--json", "--out", str(tmp_path / "p.json")]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["hash"] == json.loads((tmp_path / "p.json").read_text())["hash"] == lines[2].split()[-1]


def test_the_command_refuses_what_is_no_dataset(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2 and "holds neither videos/" in capsys.readouterr().err
    assert main([str(tmp_path), "--max-length", "9"]) == 2 and "--model" in capsys.readouterr().err


def test_the_command_runs_from_a_shell_with_workers_and_counts_tokens(data, tmp_path):
    command = [sys.executable, "-m", "data_tools.passport", str(data), "--cache", str(tmp_path / "c"),
               "--max-length", "60", "--model", str(ROOT / "models/tiny-base"),
               "--contract", str(ROOT / "configs/prompts/road.yaml")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7 and all("too-long" in line and "the limit is 60" in line for line in lines[:6])


# Size


def test_ten_thousand_files_are_each_accounted_for_in_seconds(tmp_path):
    for part, suffix in (("videos", VIDEO_SUFFIX), ("metas", LABEL_SUFFIX)):
        (tmp_path / part).mkdir()
        for i in range(5000):
            (tmp_path / part / f"{i:05d}{suffix}").write_bytes(b'{"weather": "rain"}' if part == "metas" else b"")
    start = time.monotonic()
    found = check(tmp_path)
    assert time.monotonic() - start < 30
    assert [f.code for f in found.findings] == ["empty"] * 5000 and len(found.quarantine) == 5000


def test_many_copies_of_one_clip_give_few_short_findings(videos, tmp_path):
    for i in range(200):
        shutil.copy(videos[i % 2], tmp_path / f"{i}.mp4")
    rows = [sample(f"r{i}", tmp_path / f"{i}.mp4", question=f"{i}?") for i in range(200)]
    found = passport({"train": rows[:100], "test": rows[100:]}, cache=None, workers=0)
    assert sorted(f.code for f in found.findings) == ["duplicate-clip"] * 2 + ["leak"] * 2
    assert all(len(f.message) < 700 for f in found.findings) and found.counts["test"]["usable"] == 100
