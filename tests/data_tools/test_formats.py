"""The formats: official layouts are read as they are, there and back is the identity, nothing bad enters or is lost."""

import contextlib
import json
import os
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import official_layouts as made
import pytest
from helpers import llava_item
from pace import linear

from cookbook.data.samples import DataError, Sample, message, text
from data_tools import formats
from data_tools.formats import av_folder, hf_rl, hf_sft, hub, llava, samples_jsonl, saved
from data_tools.formats.source import read_rows

ALL = set(formats.FORMATS)
# which formats can hold which kind of sample
HOLDERS = {
    made.caption: ALL - {"hf_rl"},
    made.dialogue: ALL - {"hf_rl", "av_folder"},
    made.choice: ALL - {"av_folder"},
    made.mixed: {"llava", "saved", "samples_jsonl"},
}


def some(kind, pool, seed, count=6):
    rng = np.random.default_rng([seed, *kind.__name__.encode()])
    return [kind(rng, pool, f"{kind.__name__}-{i}") for i in range(count)]


# ---- there and back ---------------------------------------------------------------------------------------------

PAIRS = [(kind, a, b) for kind, holders in HOLDERS.items() for a, b in permutations(sorted(holders), 2)]


@pytest.mark.parametrize(("kind", "first", "second"), PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_there_and_back_is_the_identity(kind, first, second, pool, tmp_path):
    for seed in range(2):
        samples = some(kind, pool, seed)
        for step, name in enumerate((first, second, first)):
            place = tmp_path / f"{seed}-{step}"
            assert not formats.write(samples, place, name)  # nothing was left out
            assert formats.detect(place) == name
            before, samples = samples, formats.read(place)
            assert made.by_content(samples) == made.by_content(before)
            assert all(path.is_relative_to(place) for sample in samples for _, path in sample.media())


def test_a_saved_sample_file_moves_with_its_folder(pool, tmp_path):
    samples = some(made.mixed, pool, 3)
    formats.write(samples, tmp_path / "here", "samples_jsonl")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert made.by_content(formats.read(tmp_path / "there")) == made.by_content(samples)


def test_clips_of_one_name_stay_apart(pool, tmp_path):
    """Recipes that name clips by number hand one sample the clip of another; here content follows the sample."""
    samples = [
        Sample(str(i), str(i), (message("user", {"type": "video", "video": str(path)}, text("?")),))
        for i, path in enumerate([pool["video"][0], pool["video"][4], pool["video"][0]])
    ]
    assert pool["video"][0].name == pool["video"][4].name
    for name in ("llava", "saved", "hf_sft", "samples_jsonl"):
        formats.write(samples, tmp_path / name, name)
        assert made.by_content(formats.read(tmp_path / name)) == made.by_content(samples)
        assert len(list((tmp_path / name).rglob("*.mp4"))) == 2  # and no clip is stored twice


@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_is_overwritten(name, pool, tmp_path):
    kind = next(kind for kind, holders in HOLDERS.items() if name in holders)
    formats.write(some(kind, pool, 0), tmp_path, name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match="is there already"):
        formats.write(some(kind, pool, 1), tmp_path, name)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_has_no_place_is_counted_or_refused(pool, tmp_path):
    samples = some(made.caption, pool, 0, 2) + some(made.mixed, pool, 0, 2)
    samples[0] = Sample(**{**vars(samples[0]), "label": "day", "extra": {"by": "me"}})
    problems = []
    left = formats.write(samples, tmp_path / "av", "av_folder", problems)
    assert left == {"label": 1, "extra": 1}
    assert [name for name, _ in problems] == ["mixed-0", "mixed-1"]
    assert [r.id for r in formats.read(tmp_path / "av")] == ["caption-0", "caption-1"]
    with pytest.raises(DataError, match="mixed-0"):
        formats.write(samples, tmp_path / "strict", "av_folder")


def test_limits_on_a_clip_are_kept_where_they_can_be(pool, tmp_path):
    part = {"type": "video", "video": str(pool["video"][0]), "fps": 4}
    samples = [Sample("a", "a", (message("user", part, text("?")), message("assistant", text("!"))))]
    assert formats.write(samples, tmp_path / "llava", "llava") == {"fps": 1}
    assert formats.write(samples, tmp_path / "saved", "saved") == {}
    assert formats.read(tmp_path / "saved")[0].messages[0]["content"][0]["fps"] == 4


# ---- what is recognised, what is refused ------------------------------------------------------------------------


def test_detect_says_what_it_looked_for(tmp_path):
    assert formats.detect("nvidia/Cosmos-Reason1-SFT-Dataset") == "hf_sft"
    assert formats.detect("nvidia/Cosmos-Reason1-RL-Dataset") == "hf_rl"
    made.json_file(tmp_path / "a.json", [{"foo": 1}])
    with pytest.raises(DataError, match=r"videos/ with metas/.*samples\.jsonl.*qa_pairs.*Found a\.json"):
        formats.detect(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        formats.detect(tmp_path / "gone")
    with pytest.raises(DataError, match="unknown format 'csv'; the formats are av_folder"):
        formats.read(tmp_path, "csv")
    (tmp_path / "a.json").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="no format is recognised"):
        formats.detect(tmp_path)


IDS = [
    "..",
    "a/../b",
    "a/b",
    "a\\b",
    "a\x00b",
    "a\nb",
    "a\x1b[2Jb",
    "\u2028",
    " ",
    "",
    "x" * 200,
    None,
    1.5,
    True,
    ["a"],
]


@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name)[:20])
def test_refused_ids(name, pool, tmp_path):
    made.json_file(tmp_path / "annotations.json", [{"id": name, "conversations": [{"from": "human", "value": "?"}]}])
    problems = []
    assert formats.read(tmp_path, "llava", problems=problems) == []
    assert len(problems) == 1 and problems[0][1].isprintable()
    turns = (message("user", {"type": "video", "video": str(pool["video"][0])}, text("?")),)
    for to in ("saved", "samples_jsonl"):
        with pytest.raises(DataError):
            formats.write([Sample(name, "g", turns)], tmp_path / to, to)
        assert not list(tmp_path.rglob("*.mp4"))


def test_a_file_name_that_is_no_text_is_told_in_printable_words(tmp_path):
    root = made.av(tmp_path, {"good": {"a": 1}})
    odd = os.fsencode(root / "videos") + b"/\xff.camera_front_wide_120fov.mp4"
    try:
        os.link(root / "videos/good.camera_front_wide_120fov.mp4", odd)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    problems = []
    assert len(formats.read(root, problems=problems)) == 1
    ((name, reason),) = problems
    assert "udcff" in name and "control character" in reason and (name + reason).isprintable()


@pytest.mark.parametrize("inner", [True, False])
def test_links_may_not_leave_the_folder(inner, tmp_path, tmp_path_factory):
    target = made.clip(tmp_path / "store/c.mp4" if inner else tmp_path_factory.mktemp("outside") / "c.mp4")
    made.json_file(tmp_path / "annotations.json", [llava_item()])
    (tmp_path / "v").mkdir()
    (tmp_path / "v/0.mp4").symlink_to(target)
    problems = []
    samples = formats.read(tmp_path, problems=problems)
    assert len(samples) == inner and len(problems) == (not inner)
    assert inner or "leaves the dataset's folder" in problems[0][1]
    root = made.rl(tmp_path / "rl")
    (root / "robovqa/clips/a1.mp4").unlink()
    (root / "robovqa/clips/a1.mp4").symlink_to(target)
    assert "leaves" in (formats.read(root, problems=(bad := [])) and bad[0][1])
    (tmp_path / "v/0.mp4").unlink()
    (tmp_path / "v/0.mp4").symlink_to(tmp_path / "v/0.mp4")  # in a circle
    with pytest.raises(DataError, match=r"annotations\.json, item 0"):
        formats.read(tmp_path, "llava")


def items(count=3, **odd):
    rows = [llava_item(id=f"s{i}") for i in range(count)]
    rows[1] |= odd
    return rows


def read_items(folder, words, name="annotations.json", encoding="utf-8"):
    """Returns (ids that are read, what is told of the others) of a file with this text."""
    made.clip(folder / "v/0.mp4")
    (folder / name).write_bytes(words.encode(encoding))
    found = formats.read(folder, formats.detect(folder), bad := [])
    return [sample.id for sample in found], [f"{place}: {reason}" for place, reason in bad]


ALL_ITEMS = ["s0", "s1", "s2"]
LIST = json.dumps(items())
LINES = "\n".join(json.dumps(item) for item in items())


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.jsonl", "a.JSONL"])
@pytest.mark.parametrize(
    "words", [LINES, LINES.replace("\n", "\r\n"), LIST, LIST[:-1] + ",\n]", json.dumps(items(), indent=1)]
)
def test_one_reader_takes_a_list_or_lines_whatever_the_name_and_the_mark(words, name, encoding, tmp_path):
    assert read_items(tmp_path, words, name, encoding) == (ALL_ITEMS, [])


@pytest.mark.fault("inputs")
def test_utf_16_is_refused_with_what_helps(tmp_path):
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_items(tmp_path, LIST, encoding="utf-16")
    assert "UTF-16" in formats.read(tmp_path, "llava", bad := []) or "UTF-16" in bad[0][1]


@pytest.mark.fault("inputs")
def test_an_object_alone_is_one_item(tmp_path):
    assert read_items(tmp_path, json.dumps(llava_item(id="s0"), indent=1)) == (["s0"], [])


ODD = [
    ('{"id": "s1", "score": NaN}', "item 1: holds NaN"),
    ('{"id": "s1", "score": 1e999}', "item 1: holds 1e999"),
    ('{"id": "s1", "score": 1' + "0" * 5000 + "}", "item 1: is not valid JSON"),
    ('{"id": "s1", "id": "s9"}', "item 1: holds the key 'id' twice"),
    ('{"id": "s1", "a": "\\ud83d"}', "item 1: holds half of a character"),
    ('{"id": "s1", "a": ' + "[" * 90 + "]" * 90 + "}", "item 1: is nested too deeply"),
    (json.dumps(items(answer=["A"])[1]), "item 1: answer is ['A']; it is a text or a number"),
    (json.dumps(items(group={"a": 1})[1]), "item 1: group is {'a': 1}"),
    (json.dumps(items(options={"A": "rain"})[1]), "item 1: options is {'A': 'rain'}; write a list"),
    (json.dumps(items(options=["A", None])[1]), "item 1: options is ['A', None]; write a list"),
    (json.dumps(items(conversations=[{"from": "human", "value": 3}])[1]), "item 1: conversations is not a list"),
    ("null", "item 1: is not an item"),
]


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(("item", "told"), ODD, ids=[told[8:30] for _, told in ODD])
def test_one_odd_item_is_named_and_the_others_stay(item, told, tmp_path):
    good, _, last = map(json.dumps, items())
    ids, bad = read_items(tmp_path, f"[{good},\n{item}, {last}]")
    assert ids == ["s0", "s2"] and len(bad) == 1 and told in bad[0]


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(("item", "told"), [
    ({"conversations": []}, "does not begin with a question"), ({"conversations": [[]]}, "is not a list of turns"),
    ({"video": "v/0.MP4"}, "v/0.MP4; 0.mp4 is there, write it so"), ({"video": "v/ 0.mp4"}, "0.mp4 is there"),
    ({"conversations": [{"from": "human", "value": "<video> ?"}, {"from": "gpt", "value": "\u200b\ufeff"}]},
     "the assistant turn is empty"),
])  # fmt: skip
def test_the_first_item_may_be_the_odd_one(item, told, tmp_path):
    first, *others = items()
    ids, bad = read_items(tmp_path, json.dumps([first | item, *others]))
    assert ids == [other["id"] for other in others] and len(bad) == 1 and told in bad[0]


@pytest.mark.fault("inputs")
def test_numbers_are_answers_and_options_too(tmp_path):
    made.clip(tmp_path / "v/0.mp4")
    made.json_file(tmp_path / "a.json", [llava_item(answer=1, options=[0, 1])])
    (found,) = formats.read(tmp_path)
    assert (found.answer, found.options, found.extra) == ("1", ("0", "1"), {})


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(("words", "told"), [
    (json.dumps(items())[:-40], "item 2 .line 1. or what follows it is not valid JSON"),
    (json.dumps(items()) + json.dumps(items()), "more behind the end"),
    ("[" * 100_000, "is not valid JSON"), ("// mine\n" + json.dumps(items()), "is not valid JSON"),
    ("", "is empty"),
    ("[ ]", "is empty"), (json.dumps({"data": items()}), "fields data"), (json.dumps([items()]), "begins with list"),
    ("[\0]", "NUL"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_says_why(words, told, tmp_path):
    with pytest.raises(DataError, match=told):
        ids, bad = read_items(tmp_path, words)
        raise DataError(f"{ids} {bad}")


@pytest.mark.fault("inputs")
def test_any_damage_to_a_file_is_told_and_raises_nothing_else(tmp_path):
    made.clip(tmp_path / "v/0.mp4")
    sample = {"id": "a", "group": "g", "messages": [message("user", text("?"))], "options": ["A"], "extra": {}}
    row = {"id": "b", "video": "v/0.mp4", "qa_pairs": {"question": "?", "index2ans": {"A": "x"}, "answer": "A"}}
    talk = {"id": "c", "video": "v/0.mp4", "conversations": [message("user", text("?"))] * 2}
    plain = {"llava": items(), "samples_jsonl": [sample] * 3, "hf_rl": [row] * 3, "hf_sft": [talk]}
    rng = np.random.default_rng(0)
    for name, rows in plain.items():
        whole = json.dumps(rows).encode()
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(data), rng.integers(0, 4)):
                data[place] = rng.choice(list(b'{}[],":0\\ nN\xff\x00'))
            (tmp_path / "a.jsonl").write_bytes(data)
            for how in (None, name):
                with contextlib.suppress(DataError):
                    formats.read(tmp_path / "a.jsonl", how, [])


@pytest.mark.fault("load")
def test_a_file_of_many_items_is_read_in_linear_time(tmp_path):
    def file_of(count: int) -> Path:
        (tmp_path / f"{count}.json").write_text(json.dumps([{"id": i} for i in range(count)]))
        return tmp_path / f"{count}.json"

    assert len(read_rows(file_of(8_000), None)) == 8_000 and linear(lambda file: read_rows(file, None), file_of, 8_000)


@pytest.mark.fault("inputs")
def test_rows_that_share_the_id_of_their_clip_are_all_kept(tmp_path):
    for k in range(2):
        made.clip(tmp_path / f"v{k}.mp4", k)
    rows = [
        llava_item(f"<video>\n{q}", id=f"v{k}", video=f"v{k}.mp4") for k in range(2) for q in ("What?", "Why?", "Who?")
    ]
    rows.append(llava_item("<video>\nHow?", id="v0-2", video="v0.mp4"))
    made.json_file(tmp_path / "a.json", [*rows, rows[1]])
    found = formats.read(tmp_path, problems=(bad := []))
    assert [s.id for s in found] == ["v0", "v0-3", "v0-4", "v1", "v1-2", "v1-3", "v0-2"]
    assert [s.question for s in found] == ["What?", "Why?", "Who?"] * 2 + ["How?"]
    assert {s.group for s in found} == {"v0", "v1"}
    assert len(bad) == 1 and "same row" in bad[0][1] and bad[0][0] == "v0"  # the last, which is the second again


@pytest.mark.fault("inputs")
def test_suffixes_in_capitals_are_taken(tmp_path):
    root = made.av(tmp_path, {"a": {"n": 1}, "b": {"n": 2}})
    for part, end in (("videos", av_folder.VIDEO_SUFFIX), ("metas", av_folder.LABEL_SUFFIX)):
        (root / part / f"a{end}").rename(root / part / f"a{end.upper()}")
    assert [s.id for s in formats.read(root)] == ["a", "b"]
    shutil.copy(root / "metas" / f"a{av_folder.LABEL_SUFFIX.upper()}", root / "metas" / f"a{av_folder.LABEL_SUFFIX}")
    found = formats.read(root, problems=(bad := []))
    assert len(found) == 2 and len(bad) == 1 and "has the name of" in bad[0][1]


def test_bad_lines_of_a_sample_file(tmp_path):
    good = {"id": "a", "group": "g", "messages": [message("user", text("?"))]}
    lines = [
        good,
        good | {"id": 5, "surprise": 1},
        {"id": "b"},
        good | {"id": "c", "answer": 3},
        good | {"id": "d", "extra": []},
    ]
    words = [json.dumps(line) for line in lines]
    (tmp_path / "samples.jsonl").write_text("\n".join([*words, "null", "{", "", json.dumps(good | {"id": "é"})]))
    problems = []
    assert [r.id for r in formats.read(tmp_path, problems=problems)] == ["a", "é"]
    assert sorted(name for name, _ in problems) == [f"samples.jsonl, line {i}" for i in (2, 3, 4, 5, 6, 7)]


def test_ten_thousand_files(tmp_path):
    clip = made.clip(tmp_path / "clip.mp4")
    for folder in ("videos", "metas"):
        (tmp_path / "av" / folder).mkdir(parents=True)
    for i in range(10_000):
        os.link(clip, tmp_path / f"av/videos/c{i}.camera_front_wide_120fov.mp4")
        (tmp_path / f"av/metas/c{i}.label.json").write_text('{"a": 1}')
    samples = formats.read(tmp_path / "av")
    assert len({r.id for r in samples}) == 10_000


def test_modules_take_no_pickles_and_run_no_remote_code():
    for module in (av_folder, hf_sft, hf_rl, hub, llava, saved, samples_jsonl):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert "pickle" not in source and "trust_remote_code" not in source and "eval(" not in source
