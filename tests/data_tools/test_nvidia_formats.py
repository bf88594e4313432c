"""NVIDIA's datasets and the guide's folder are read as they lie on the hub, in the cache, or in a folder."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import official_layouts as made
import pytest
from helpers import clip_name, user_text

from cookbook.data.contract import Contract
from cookbook.data.samples import DataError, Sample, text
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.formats import av_folder, hub
from data_tools.worlds import road


def some(kind, pool, seed, count=6):
    rng = np.random.default_rng([seed, *kind.__name__.encode()])
    return [kind(rng, pool, f"{kind.__name__}-{i}") for i in range(count)]


# ---- the guide's folder -----------------------------------------------------------------------------------------


def test_av_entries_are_the_guides_with_valid_json(tmp_path):
    label = {"weather": "Regen ☔", "z": True, "a": None, "critical_object": "x"}
    root = made.av(tmp_path, {"b": label, "a.1": {"weather": "sun"}})
    first, second = av_folder.entries(root, drop_fields=["critical_object"])
    assert list(second) == ["video_id", "video_path", "caption_data"]
    assert (first["video_id"], second["video_id"]) == ("a.1", "b")
    assert second["video_path"] == str(root.resolve() / "videos/b.camera_front_wide_120fov.mp4")
    assert (
        second["caption_data"] == '{\n  "weather": "Regen ☔",\n  "z": true,\n  "a": null\n}'
    )  # not Python's True, None
    (_, sample) = formats.read(root, "av_folder", drop_fields=["critical_object"])
    assert (sample.id, sample.group, sample.target) == ("b", "b", second["caption_data"])
    assert user_text(sample) == ["Describe what you see in this video."]


def test_av_reads_the_toy_world_and_other_suffixes(tmp_path):
    world = road.build(tmp_path / "world", {"train": 3, "validation": 1, "test": 1}, seed=5)
    samples = formats.read(world / "train")
    assert len(samples) == 3
    label = json.loads((world / "train/metas" / f"{samples[0].id}{road.LABEL_SUFFIX}").read_text())
    assert json.loads(samples[0].target) == label
    made.clip(tmp_path / "videos/x.mp4")
    made.json_file(tmp_path / "metas/x.json", {"a": 1})
    (sample,) = av_folder.read(tmp_path, video_suffix=".mp4", label_suffix=".json", question="What?")
    assert (sample.id, user_text(sample)) == ("x", ["What?"])


BAD_LABELS = {
    "latin": ("Straße".encode("latin-1"), "not UTF-8"),
    "broken": (b'{"a": ', "not valid JSON"),
    "nothing": (b"", "is empty"),
    "nan": (b'{"a": NaN}', "NaN"),
    "huge": (b'{"a": 1e999}', "not valid JSON"),
    "half": (b'{"a": "\\ud83d"}', "half of a character"),
    "deep": (b"[" * 100_000, "nested"),
    "list": (b'["a"]', "not an object"),
    "empty": (b"{}", "empty"),
}


def test_av_names_every_bad_file_and_keeps_the_good(tmp_path):
    root = made.av(tmp_path / "data", {name: {"a": 1} for name in [*BAD_LABELS, "good", "no_label"]})
    for name, (content, _) in BAD_LABELS.items():
        (root / "metas" / f"{name}.label.json").write_bytes(content)
    (root / "metas/no_label.label.json").unlink()
    made.json_file(root / "metas/no_clip.label.json", {"a": 1})
    (root / "videos/other.avi").write_bytes(b"")
    (root / "videos/.DS_Store").write_bytes(b"")
    problems = []
    samples = formats.read(root, problems=problems)
    assert [r.id for r in samples] == ["good"]
    told = dict(problems)
    for name, (_, reason) in BAD_LABELS.items():
        assert reason in told.pop(f"metas/{name}.label.json")
    assert set(told) == {"metas/no_clip.label.json", "videos/no_label.camera_front_wide_120fov.mp4", "videos/other.avi"}
    with pytest.raises(DataError, match=r"^videos/other\.avi: "):
        formats.read(root)


# ---- NVIDIA's datasets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_sft_dataset_as_cloned_from_the_hub(packed, tmp_path, cosmos_cache):
    root = made.sft(tmp_path / "nvidia/Cosmos-Reason1-SFT-Dataset", packed)
    hub.unpack_clips(root, "robovqa")
    samples = formats.read(root, subset="robovqa", split="understanding")
    assert [r.id for r in samples] == [f"understanding-{i:06d}" for i in range(3)]
    assert [r.group for r in samples] == ["clips/a1", "clips/b2", "clips/c3"]
    assert [m["role"] for m in samples[1].messages] == ["system", "user", "assistant"]
    video, question = samples[1].messages[1]["content"]
    assert question == text("What does the robot do in b2?") and Path(video["video"]).name == "b2.mp4"
    assert samples[1].extra == {"metadata": {"num_frames": 4, "uid": "u-b2"}}
    # where the engine looks for them, if they had to be unpacked
    home = cosmos_cache / "datasets/nvidia/Cosmos-Reason1-SFT-Dataset/robovqa/video_clips" if packed else root
    assert Path(video["video"]).is_relative_to(home) and (home / ".prepared").exists() == packed
    assert len(formats.read(root)) == 5  # both splits, the shards of `reasoning` as one; the only subset
    assert [r.id for r in formats.read(root, split=["reasoning"])] == ["reasoning-000000", "reasoning-000001"]


def test_a_hub_that_cannot_be_reached_is_told_with_what_helps(monkeypatch, cosmos_cache):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (hub.unpack_clips, lambda *name: next(hub.rows(*name, None, None))):
        with pytest.raises(DataError, match=r"nvidia/Nobody: cannot be loaded from the hub(.|\n)*hf auth login"):
            ask("nvidia/Nobody", "robovqa")
    other = hub._unreachable("nvidia/Nobody", ValueError("BuilderConfig 'x' not found"))
    assert str(other) == "nvidia/Nobody: cannot be loaded from the hub (ValueError: BuilderConfig 'x' not found)"


def test_prepare_goes_on_where_it_was_broken_off(tmp_path, cosmos_cache):
    root = made.sft(tmp_path / "nvidia/SFT", packed=True)
    folder = hub.unpack_clips(root, "robovqa")
    (folder / ".prepared").unlink()
    (folder / "clips/a1.mp4").write_bytes(b"half")
    hub.unpack_clips(root, "robovqa")
    assert len(formats.read(root, split="understanding")) == 3
    assert (folder / "clips/a1.mp4").stat().st_size > 100
    before = (folder / "clips/a1.mp4").stat().st_mtime_ns
    hub.unpack_clips(root, "robovqa")
    assert (folder / "clips/a1.mp4").stat().st_mtime_ns == before  # not unpacked again


def test_rl_dataset_gives_questions_and_the_contract_shows_the_rewarded_format(tmp_path):
    root = made.rl(tmp_path)
    samples = formats.read(root)
    assert formats.detect(root) == "hf_rl"
    assert [(r.answer, r.options) for r in samples] == [("A", tuple("AB")), ("B", tuple("ABC")), ("A", tuple("ABCD"))]
    assert all(r.target is None for r in samples)
    (prompt,) = user_text(samples[1])
    assert prompt == "What comes next in b2?\n(A) lift\n(B) turn\n(C) wait"
    contract = Contract.load(ROOT / "configs/prompts/choices.yaml")
    shown = contract.conversation(samples[1].prompt)[0]["content"][0]["text"]
    assert contract.is_well_formed(shown[shown.index("<think>") :])
    assert contract.is_well_formed(contract.write_answer("…", "B"))


@pytest.mark.parametrize("layout", [made.sft, made.rl])
def test_json_parquet_and_the_datasets_library_give_the_same_samples(layout, tmp_path, monkeypatch):
    """A table gives every row the columns and choices of all others, as empty cells; they must not become choices."""
    root = layout(tmp_path / "json")
    expected = formats.read(root)
    other = tmp_path / "parquet/robovqa"
    shutil.copytree(root / "robovqa/clips", other / "clips")
    tables = datasets.DatasetDict()
    for split in dict.fromkeys(r.id.rpartition("-")[0] for r in expected):
        files = sorted((root / "robovqa").glob(f"robovqa_{split}*.json"))
        rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
        tables[split] = datasets.Dataset.from_list(rows)
        tables[split].to_parquet(other / f"{split}-00000-of-00001.parquet")
    assert layout is not made.rl or tables["rl"][0]["qa_pairs"]["index2ans"]["D"] is None  # the trap is really there
    assert made.by_content(formats.read(tmp_path / "parquet")) == made.by_content(expected)

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **_: asked.append(names) or tables)
    name = "nvidia/Cosmos-Reason1-RL-Dataset" if layout is made.rl else "nvidia/Cosmos-Reason1-SFT-Dataset"
    shutil.copytree(root / "robovqa/clips", hub.cache_folder(name, "robovqa") / "clips")
    assert made.by_content(formats.read(name, subset="robovqa")) == made.by_content(expected)
    assert asked == [(name, "robovqa")]
    split = expected[-1].id.rpartition("-")[0]
    chosen = formats.read(name, subset="robovqa", split=split)
    assert made.by_content(chosen) == [r for r in made.by_content(expected) if r.id.startswith(split)]


@pytest.mark.parametrize(("name", "kind"), [("hf_sft", made.dialogue), ("hf_rl", made.choice)])
def test_datasets_loads_what_we_write_in_the_hubs_layout(name, kind, pool, tmp_path):
    samples = [
        Sample(**{**vars(r), "extra": {k: v for k, v in r.extra.items() if k == "qa_pairs"}})
        for r in some(kind, pool, 1)
    ]
    formats.write(samples, tmp_path / "out", name, subset="robovqa", split="train")
    loaded = datasets.load_dataset(str(tmp_path / "out"), "robovqa", cache_dir=str(tmp_path / "cache"))
    assert [row["id"] for row in loaded["train"]] == [r.id for r in samples]
    column = "conversations" if name == "hf_sft" else "qa_pairs"
    first = loaded["train"][0][column]
    assert first["question"] if name == "hf_rl" else first[-1]["content"] == samples[0].target


def test_bad_rows_of_nvidias_datasets_are_named(tmp_path):
    root = made.rl(tmp_path / "rl")
    good = made.rl_row("a1", {"A": "x", "B": "y"}, "A")
    bad = {
        1: (good | {"video": "clips/gone.mp4"}, "no clip named gone.mp4"),
        2: (made.rl_row("a1", {"A": "x", "B": "y"}, "C"), "'C' is none of the choices A, B"),
        3: ({"video": "clips/a1.mp4"}, "not a question"),
        4: ({"qa_pairs": good["qa_pairs"]}, "names no video"),
        5: ("text", "not a row"),
        6: (good | {"id": "../up"}, "separator"),
        7: (good | {"video": "../../../../etc/a9.mp4"}, "no clip named a9.mp4"),
    }
    made.json_file(root / "robovqa/robovqa_rl_qa_pairs.json", [good, *(row for row, _ in bad.values())])
    (root / "robovqa/robovqa_more.json").write_bytes(b'[{"video": "\xff"}]')
    problems = []
    samples = formats.read(root, problems=problems)
    assert [r.id for r in samples] == ["rl-000000"]
    told = dict(problems)
    assert "not UTF-8" in told.pop("robovqa_more.json")
    for number, (_, reason) in bad.items():
        assert reason in told.pop(f"robovqa_rl_qa_pairs.json, item {number}")
    assert not told
    with pytest.raises(DataError, match=r"has no rows of the split test; it has more, rl"):
        formats.read(root, split="test", problems=problems)
    with pytest.raises(DataError, match=r"name a subset; it has robovqa"):
        formats.read(root, "hf_rl", subset="av")


def test_two_clips_of_one_name_are_a_problem_and_av_names_end_at_the_first_dot(tmp_path):
    root = made.rl(tmp_path)
    made.clip(root / "robovqa/again/b2.mp4", 30)
    made.clip(root / "robovqa/clips/d4.camera_front.mp4", 31)
    rows = [made.rl_row(name, {"A": "x", "B": "y"}, "A") for name in ("b2", "d4")]
    rows.append(rows[0] | {"video": "b2.mp4"})
    made.json_file(root / "robovqa/robovqa_rl_qa_pairs.json", rows)
    problems = []
    samples = formats.read(root, problems=problems)
    assert [clip_name(r) for r in samples] == [["b2.mp4"], ["d4.camera_front.mp4"]]  # the whole path says which b2
    assert problems == [("robovqa_rl_qa_pairs.json, item 2", problems[0][1])] and "2 clips are named" in problems[0][1]


def test_a_row_with_several_questions_gives_several_samples(tmp_path):
    root = made.rl(tmp_path)
    row = made.rl_row("a1", {"A": "x", "B": "y"}, "A")
    made.json_file(root / "robovqa/robovqa_rl_qa_pairs.json", [row | {"qa_pairs": [row["qa_pairs"]] * 2}])
    assert [r.id for r in formats.read(root)] == ["rl-000000-0", "rl-000000-1"]
