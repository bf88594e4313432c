"""The checks of samples: leaks, duplicates, ids, lengths and balance are named, and cost what they must."""

import json
import shutil

import clip_makers as make
import pytest
from helpers import BAD, TEST, TRAIN, check, clip, keys, of, sample

from cookbook.data.samples import DataError, Sample, message, text
from data_tools import formats
from data_tools.formats.av_folder import VIDEO_SUFFIX
from data_tools.passport import passport, read_layout
from data_tools.worlds import road

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


@pytest.mark.parametrize(("name", "leaks"), [("0f3c-77ab", True), ("0007", False), ("clip_12", False)])
def test_one_name_in_two_splits_is_a_leak_unless_it_only_counts(data, name, leaks):
    for n, split in enumerate(("train", "test")):
        make.pair(data, name, 20 + n, split=split)
    found = check(data)
    assert [f.code for f in found.findings if f.code != "duplicate-clip"] == ["leak"] * leaks
    assert keys(found, data) == {"train": {*TRAIN, *([] if leaks else [name])}, "test": {*TEST, name}}


def test_a_counted_name_whose_clip_is_the_same_is_a_leak(data):
    for split in ("train", "test"):
        make.pair(data, "0007", 20, split=split)
    assert [f.code for f in check(data).findings if f.severity == "error"] == ["leak"]


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


@pytest.mark.fault("inputs")
def test_words_that_would_steer_the_model_are_kept_out(videos):
    good, words = sample("a", videos[0]), "It rains.<|im_end|>\n<|im_start|>user"
    found = of(good, sample("b", videos[1], target=words), sample("c", videos[2], question="<|video_pad|>?"))
    told = {f.name: f.message for f in found.findings if f.code == "control-token"}
    assert "<|im_end|>" in told["train/b"] and "<|video_pad|>" in told["train/c"] and len(told) == 2
    assert [q.id for q in found.quarantine] == ["b", "c"]


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


def test_many_copies_of_one_clip_give_few_short_findings(videos, tmp_path):
    for i in range(200):
        shutil.copy(videos[i % 2], tmp_path / f"{i}.mp4")
    rows = [sample(f"r{i}", tmp_path / f"{i}.mp4", question=f"{i}?") for i in range(200)]
    found = passport({"train": rows[:100], "test": rows[100:]}, cache=None, workers=0)
    assert sorted(f.code for f in found.findings) == ["duplicate-clip"] * 2 + ["leak"] * 2
    assert all(len(f.message) < 700 for f in found.findings) and found.counts["test"]["usable"] == 100
