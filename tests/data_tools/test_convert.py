"""The command: any format to any other, with what was read, written, left out and wrong in print."""

import json
import subprocess
import sys
from itertools import product

import official_layouts as made
import pytest

from cookbook.data.samples import DataError
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.convert import convert, main, read_shares
from data_tools.formats.sink import alone


@pytest.fixture
def source(tmp_path):
    """Ten captions, of which seven are of rain; and one clip without a label."""
    labels = {f"c{i}": {"weather": "rain" if i < 7 else "sun", "n": i} for i in range(10)}
    root = made.av(tmp_path / "source", labels)
    made.clip(root / "videos/alone.camera_front_wide_120fov.mp4")
    return root


def pairs(samples):
    """{content of the clip: answer}: what must never be torn apart."""
    return {made.by_content([r])[0].messages[0]["content"][0]["video"]: r.target for r in samples}


@pytest.mark.parametrize(("first", "second"), list(product(["llava", "hf_sft", "saved", "samples_jsonl"], repeat=2)))
def test_from_the_guides_folder_over_two_formats_and_back(first, second, source, tmp_path, capsys):
    steps = [(source, tmp_path / "1", first), (tmp_path / "1", tmp_path / "2", second)]
    for start, end, name in [*steps, (tmp_path / "2", tmp_path / "3", "av_folder")]:
        assert main([str(start), str(end), "--to", name]) == 0
    assert made.by_content(formats.read(tmp_path / "3")) == made.by_content(formats.read(source, problems=[]))
    words = capsys.readouterr().out
    assert words.count("wrote 10 samples of 10 clips") == 3 and words.count("problems: 1\n") == 1
    assert "  videos/alone.camera_front_wide_120fov.mp4: has no label metas/alone.label.json" in words


@pytest.mark.parametrize("seed", range(3))
def test_split_and_balance_keep_clip_and_answer_together(seed, source, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--to", "llava", "--split", "train=0.5,test=0.5", "--balance", "weather", "--seed", str(seed)]
    assert main([str(source), str(out), *arguments]) == 0
    parts = {name: formats.read(out / name) for name in ("train", "test")}
    answers = [json.loads(r.target)["weather"] for part in parts.values() for r in part]
    assert sorted(answers) == ["rain"] * 3 + ["sun"] * 3
    assert len(pairs(parts["train"]) | pairs(parts["test"])) == 6  # no clip twice
    assert (pairs(parts["train"]) | pairs(parts["test"])).items() <= pairs(formats.read(source, problems=[])).items()
    assert "balanced: rain: 3 of 7\nbalanced: sun: 3 of 3\n" in capsys.readouterr().out
    assert parts["train"][0].label is None  # the field that was counted is not written into the data
    main([str(source), str(tmp_path / "again"), *arguments])
    again = [r.id for r in formats.read(tmp_path / "again/train")]
    assert again == [r.id for r in parts["train"]]


def test_subset_starts_small(source, tmp_path):
    main([str(source), str(tmp_path / "out"), "--to", "samples_jsonl", "--subset", "train[:3]"])
    assert [r.id for r in formats.read(tmp_path / "out")] == ["c0", "c1", "c2"]
    assert len(list((tmp_path / "out").rglob("*.mp4"))) == 3


def test_the_source_is_left_alone_and_clips_take_no_space_twice(source, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    convert(source, tmp_path / "out", "llava")
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    name = "videos/c0.camera_front_wide_120fov.mp4"
    assert (source / name).samefile(tmp_path / "out" / name)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone", "--to", "llava"], "no such file, folder or dataset"),
        ([".", "--to", "llava"], "no format is recognised"),
        (["source", "--to", "hf_rl"], "none of 10 samples can be written in this format; c9: has no reference answer"),
        (["source", "--to", "llava", "--balance"], "has no label to balance by"),
        (["source", "--to", "llava", "--balance", "fog"], "has no field 'fog'"),
        (["source", "--to", "llava", "--subset", "[10]"], "is no subset"),
        (["source", "--to", "llava", "--split", "a=0.5"], "with a sum of 1"),
        (["source", "--to", "llava", "--media", "x"], "the format av_folder takes no media"),
        (["source", "--to", "llava", "--from", "saved"], "cannot be loaded from disk"),
        (["/dev/null", "--to", "llava"], "is neither a file nor a folder"),
        (["x" * 300, "--to", "llava"], "too long"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(arguments, told, source, tmp_path, capsys):
    start = tmp_path if arguments[0] == "." else tmp_path / arguments[0]
    assert main([str(start), str(tmp_path / "out"), *arguments[1:]]) == 1
    shown = capsys.readouterr()
    assert told in shown.err and shown.err.startswith("convert: ") and shown.err.count("\n") == 1 and not shown.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/x", "taken"])
def test_a_place_that_cannot_be_a_folder_is_said_in_one_line(out, source, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert main([str(source), str(tmp_path / out), "--to", "llava"]) == 1
    told = capsys.readouterr().err
    assert "cannot be written" in told and told.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("name", ["llava", "hf_sft", "saved", "samples_jsonl"])
def test_a_full_disk_is_said_in_one_line_and_leaves_no_half_file_of_rows(name, source, tmp_path):
    small = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    program = f"{small}from data_tools.convert import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "out"), "--to", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1
    assert not [*(tmp_path / "out").rglob("*.json"), *(tmp_path / "out").rglob("*.jsonl")]


def test_a_folder_is_written_by_one_at_a_time(source, tmp_path):
    with alone(tmp_path / "out"), pytest.raises(DataError, match="is being written by another process"):
        convert(source, tmp_path / "out", "llava")
    assert convert(source, tmp_path / "out", "llava").written == {str(tmp_path / "out"): (10, 10)}


def test_clips_and_subsets_of_the_source_can_be_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COSMOS_CACHE", str(tmp_path / "cache"))
    root = made.rl(tmp_path / "rl")
    (root / "robovqa/clips").rename(tmp_path / "clips")
    made.json_file(root / "av/av_rl_qa_pairs.json", [made.rl_row("a1", {"A": "x", "B": "y"}, "A")])
    extra = ["--media", str(tmp_path / "clips"), "--hub-subset", "robovqa"]
    assert main([str(root), str(tmp_path / "out"), "--to", "llava", *extra]) == 0
    assert len(formats.read(tmp_path / "out")) == 3
    capsys.readouterr()
    assert main([str(root), str(tmp_path / "out2"), "--to", "llava"]) == 1
    assert "name a subset; it has av, robovqa" in capsys.readouterr().err


def test_shares():
    assert read_shares("train=0.8, test=.2") == {"train": 0.8, "test": 0.2}
    with pytest.raises(Exception, match="is not of the form"):
        read_shares("0.8,0.2")


def test_help_names_the_formats():
    done = subprocess.run([sys.executable, "-m", "data_tools.convert", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in formats.FORMATS)


def test_nothing_to_read_is_said_with_the_reason(tmp_path):
    root = made.av(tmp_path / "source", {"a": {"x": 1}})
    (root / "metas/a.label.json").write_text("{")
    with pytest.raises(
        DataError, match=r"no sample can be read as av_folder\. metas/a\.label\.json: is not valid JSON"
    ):
        convert(root, tmp_path / "out", "llava")
