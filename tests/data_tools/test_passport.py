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
import official_layouts as made
import pytest
from helpers import BAD, TEST, TRAIN, check, clip, keys, llava_item, meta
from matplotlib.figure import Figure

from cookbook.data.samples import DataError, Sample, message, text, video
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.passport import passport, read_layout, read_quarantine
from data_tools.passport.__main__ import main
from data_tools.passport.plots import plot_passport


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


def quick(*arguments) -> int:
    return main([*map(str, arguments), "--workers", "0", "--cache", str(Path(arguments[0]).parent / "cache")])


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("apart", [False, True], ids=["one", "splits"])
def test_the_command_takes_what_the_loaders_take_and_leaves_its_file_beside_it(name, apart, data, tmp_path, capsys):
    if name == "hf_rl":
        rows = [Sample(f"q{i}", f"c{i}", (message("user", video(clip(data, k, s)), text("What?\n(A) a\n(B) b")),), "A")
                for i, (k, s) in enumerate((("a0", "train"), ("a1", "train"), ("t0", "test")))]  # fmt: skip
    else:
        rows = [s for rows in read_layout(data).samples.values() for s in rows][-3:]
    out = tmp_path / "out"
    if apart and name not in formats.BY_FILE:
        formats.write(rows[:2], out / "train", name), formats.write(rows[2:], out / "test", name)
    else:
        formats.write(rows, out, name)
    for _ in range(2):  # the second time with a passport in the folder
        assert quick(out, "--out", out / "passport.json") == 0, capsys.readouterr().out
        assert "3 of 3 samples usable" in capsys.readouterr().out
    home = out / "train" if (out / "train").is_dir() else out
    assert len(formats.read(home)) == (2 if home != out else 3)


def test_the_command_names_bad_rows_and_takes_archives_and_files(tmp_path, capsys):
    assert quick(made.sft(tmp_path / "nvidia/SFT", packed=True), "--subset", "robovqa") == 0
    folder = tmp_path / "llava"
    made.clip(folder / "v/0.mp4")
    made.json_file(folder / "a.json", [llava_item(), llava_item(id="y", video="v/gone.mp4")])
    capsys.readouterr()
    for place in (folder, folder / "a.json"):
        assert quick(place) == 1
        lines = capsys.readouterr().out.splitlines()
        assert "a.json, item 1: left-out: no such file" in lines[0] and "1 of 1 samples usable" in lines[-1]
    assert quick(folder / "a.json", "--subset", "x") == 2 and "takes no subset" in capsys.readouterr().err


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("name", ["", "train.csv"])
def test_a_table_is_refused_by_the_name_of_the_loader_that_reads_it(name, tmp_path, capsys):
    (tmp_path / "train.csv").write_text("video_url,caption,pc\nhttps://a/b.mp4,x,4\n")
    assert main([str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert "train.csv is a table, and no format: data_tools/videophy2.py reads one" in told and told.count("\n") == 1


def test_the_command_refuses_what_is_no_dataset(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2 and "holds neither videos/" in capsys.readouterr().err
    assert main([str(tmp_path), "--max-length", "9"]) == 2 and "--model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data", "--out", "."], "is a folder; name a file, such as"),
        (["data", "--out", "/dev/null/p.json"], "/dev/null"),
        (["data", "--max-length", "9", "--model", "gone"], "--model gone: no such folder"),
        (["data", "--max-length", "9", "--model", "cut"], "its tokenizer does not load"),
        (["data", "--max-length", "9", "--model", "models/tiny-base", "--contract", "gone.yaml"], "gone.yaml"),
        (["data", "--max-length", "9", "--model", "models/tiny-base", "--contract", "cut.yaml"], "is not YAML"),
        (["/dev/null"], "is neither a file nor a folder"),
        (["loop"], "loop"),
        (["x" * 300], "too long"),
    ],
)
def test_the_command_ends_in_one_line_for_what_it_cannot_read_or_write(arguments, told, data, tmp_path, capfd):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    shutil.copytree(ROOT / "models/tiny-base", tmp_path / "cut")
    (tmp_path / "cut/tokenizer.json").write_text("{")
    (tmp_path / "cut.yaml").write_text("a: [")
    there = {"data": data, "cut": tmp_path / "cut", "cut.yaml": tmp_path / "cut.yaml", "loop": tmp_path / "loop"}
    assert quick(*(there.get(word, word) for word in arguments)) == 2
    err = capfd.readouterr().err
    assert told in err and err.count("\n") == 1


def test_a_model_is_named_from_the_projects_root_wherever_one_stands(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert quick(data, "--max-length", "4096", "--model", "models/tiny-base") == 0
    with pytest.raises(SystemExit):
        main([str(data), "--workers", "-3"])
    assert "--workers: -3: takes a finite number from 0 on" in capsys.readouterr().err


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
