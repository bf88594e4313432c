"""The formats: official layouts are read as they are, there and back is the identity, nothing bad enters or is lost."""

import json
import os
import shutil
from itertools import permutations
from pathlib import Path

import datasets
import numpy as np
import official_layouts as made
import pytest

from cookbook.data.contract import Contract
from cookbook.data.samples import DataError, Sample, message, text
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.formats import av_folder, hf_rl, hf_sft, hub, llava, samples_jsonl, saved
from data_tools.worlds import road

ALL = set(formats.FORMATS)
# which formats can hold which kind of sample
HOLDERS = {
    made.caption: ALL - {"hf_rl"},
    made.dialogue: ALL - {"hf_rl", "av_folder"},
    made.choice: ALL - {"av_folder"},
    made.mixed: {"llava", "saved", "samples_jsonl"},
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Clips and images to make samples of; two clips have the same name."""
    root = tmp_path_factory.mktemp("pool").resolve()
    clips = [made.clip(root / "videos" / f"{i}.mp4", i) for i in range(4)] + [made.clip(root / "more" / "0.mp4", 9)]
    return {"video": clips, "image": [made.picture(root / "images" / f"bild {i}.png", i) for i in range(3)]}


@pytest.fixture(autouse=True)
def cosmos_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_CACHE", str(tmp_path / "cosmos"))
    return tmp_path / "cosmos"


def some(kind, pool, seed, count=6):
    rng = np.random.default_rng([seed, *kind.__name__.encode()])
    return [kind(rng, pool, f"{kind.__name__}-{i}") for i in range(count)]


def user_text(sample):
    return [part["text"] for m in sample.messages if m["role"] == "user" for part in m["content"] if "text" in part]


def clip_name(sample):
    return [path.name for _, path in sample.media()]


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
    hub.prepare(root, "robovqa")
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
    for ask in (hub.prepare, lambda *name: next(hub.rows(*name, None, None))):
        with pytest.raises(DataError, match=r"nvidia/Nobody: cannot be loaded from the hub(.|\n)*hf auth login"):
            ask("nvidia/Nobody", "robovqa")
    other = hub._unreachable("nvidia/Nobody", ValueError("BuilderConfig 'x' not found"))
    assert str(other) == "nvidia/Nobody: cannot be loaded from the hub (ValueError: BuilderConfig 'x' not found)"


def test_prepare_goes_on_where_it_was_broken_off(tmp_path, cosmos_cache):
    root = made.sft(tmp_path / "nvidia/SFT", packed=True)
    folder = hub.prepare(root, "robovqa")
    (folder / ".prepared").unlink()
    (folder / "clips/a1.mp4").write_bytes(b"half")
    hub.prepare(root, "robovqa")
    assert len(formats.read(root, split="understanding")) == 3
    assert (folder / "clips/a1.mp4").stat().st_size > 100
    before = (folder / "clips/a1.mp4").stat().st_mtime_ns
    hub.prepare(root, "robovqa")
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


# ---- LLaVA ------------------------------------------------------------------------------------------------------


def llava_item(value="<video>\nWhat?", **fields):
    item = {"video": "v/0.mp4", "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": "Rain."}]}
    return {"id": "x", **item, **fields}


def shape(sample):
    return [[part.get("text", part["type"]) for part in m["content"]] for m in sample.messages]


@pytest.fixture
def llava_folder(tmp_path):
    made.clip(tmp_path / "v/0.mp4")
    for i in range(2):
        made.picture(tmp_path / f"i/{i}.png", i)
    return tmp_path


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (llava_item(), [["video", "What?"], ["Rain."]]),
        (llava_item("What?"), [["video", "What?"], ["Rain."]]),  # no placeholder: it opens the first question
        (llava_item("What is <video> there?"), [["What is ", "video", " there?"], ["Rain."]]),
        (llava_item("Before\n<video>\n\nAfter"), [["Before", "video", "\nAfter"], ["Rain."]]),
        (llava_item("<image>\nA <image>\nB", video=None, image=["i/0.png", "i/1.png"]),
         [["image", "A ", "image", "B"], ["Rain."]]),
        # the warehouse recipe: two images, one placeholder
        (llava_item("<image>\nCount.", video=None, images=["i/0.png", "i/1.png"]),
         [["image", "image", "Count."], ["Rain."]]),
        (llava_item("No picture", video=None), [["No picture"], ["Rain."]]),
        (llava_item(conversations=[{"from": "system", "value": "Be brief."}, {"from": "human", "value": "<video>\nA?"},
                                   {"from": "gpt", "value": "B"}, {"from": "human", "value": "C?"},
                                   {"from": "gpt", "value": "D"}]),
         [["Be brief."], ["video", "A?"], ["B"], ["C?"], ["D"]]),
    ],
)  # fmt: skip
def test_llava_items_become_conversations(item, expected, llava_folder):
    made.json_file(llava_folder / "annotations.json", [item])
    (sample,) = formats.read(llava_folder)
    assert shape(sample) == expected
    if "images" in item:
        assert clip_name(sample) == ["0.png", "1.png"]


def test_llava_keeps_other_fields_and_makes_ids(llava_folder):
    items = [llava_item(category="count", normalized_answer=3, answer=3, label=True), llava_item()]
    del items[0]["id"]
    made.json_file(llava_folder / "train.json", items)
    first, second = formats.read(llava_folder, system="Answer.")
    assert (first.id, first.group, second.id) == ("train-000000", "v/0", "x")
    assert (first.answer, first.label, first.extra) == ("3", "True", {"category": "count", "normalized_answer": 3})
    assert shape(first)[0] == ["Answer."]


def test_bad_llava_items_are_named(llava_folder):
    turns = llava_item()["conversations"]
    bad = [
        (llava_item("<video> <video>"), "more <video>"),
        (llava_item(video="v/gone.mp4"), "no such file"),
        (llava_item(video="../out.mp4"), "leaves the dataset's folder"),
        (llava_item(video="/etc/passwd"), "leaves the dataset's folder"),
        (llava_item(video="https://example.com/a.mp4"), "download"),
        (llava_item(video=3), "neither a path nor a list"),
        (llava_item(conversations=turns[1:]), "does not begin with a question"),
        (llava_item(conversations=[turns[0], {"from": "gpt", "value": " "}]), "assistant turn is empty"),
        (llava_item(conversations=[{"from": "robot", "value": "x"}]), "'robot', none of human"),
        (llava_item(conversations="x"), "not a list of turns"),
        ([1], "not an item"),
    ]
    made.json_file(llava_folder / "annotations.json", [llava_item(), *(item for item, _ in bad), llava_item()])
    problems = []
    (sample,) = formats.read(llava_folder, "llava", problems=problems)
    assert sample.id == "x"
    assert [name for name, _ in problems] == [f"annotations.json, item {i + 1}" for i in range(len(bad))] + ["x"]
    for (_, reason), (_, told) in zip([*bad, (None, "more than once")], problems):
        assert reason in told


def test_media_may_lie_in_a_folder_that_is_named(llava_folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("labels")
    made.json_file(elsewhere / "a.json", [llava_item()])
    with pytest.raises(DataError, match="no such file"):
        formats.read(elsewhere)
    assert len(formats.read(elsewhere, media=llava_folder)) == 1


# ---- save_to_disk -----------------------------------------------------------------------------------------------


def test_saved_folders_of_the_recipes(tmp_path, llava_folder):
    """As the video reward recipe writes them: absolute paths, one column, contents as text or parts; or with splits."""
    clip = str(llava_folder / "v/0.mp4")
    asked = [{"type": "video", "video": clip}, text("Physics?")]
    talk = [{"role": "system", "content": "Rate."}, {"role": "user", "content": asked},
            {"role": "assistant", "content": "<answer>\n4\n</answer>"}]  # fmt: skip
    table = datasets.Dataset.from_dict({"conversations": [json.dumps(talk)] * 2, "pc": [4, None]})
    table.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="name its folder"):
        formats.read(tmp_path / "plain")
    samples = formats.read(tmp_path / "plain", media=llava_folder)
    assert [(r.id, r.group, r.extra) for r in samples] == [
        ("train-000000", "v/0", {"pc": 4}),
        ("train-000001", "v/0", {}),
    ]
    assert shape(samples[0]) == [["Rate."], ["video", "Physics?"], ["<answer>\n4\n</answer>"]]
    ids = [r.id for r in formats.read(tmp_path / "splits", media=llava_folder)]
    assert ids == ["train-000000", "train-000001", "test-000000"]
    assert len(formats.read(tmp_path / "splits/train", media=llava_folder)) == 2
    with pytest.raises(DataError, match="no split dev; it has train, test"):
        formats.read(tmp_path / "splits", split="dev", media=llava_folder)
    with pytest.raises(DataError, match="no column 'messages'; it has conversations, pc"):
        formats.read(tmp_path / "plain", column="messages")


def test_bad_saved_rows_and_folders(tmp_path):
    datasets.Dataset.from_dict({"conversations": ["{", "[]", '[{"role": "user", "content": 3}]']}).save_to_disk(
        tmp_path / "d"
    )
    problems = []
    assert formats.read(tmp_path / "d", problems=problems) == []
    assert [name for name, _ in problems] == [f"d, train[{i}]" for i in range(3)]
    (tmp_path / "d/data-00000-of-00001.arrow").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be loaded from disk"):
        formats.read(tmp_path / "d")


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


# ---- from one kind to the other ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Who?\n(A) cat\n(B) dog\nAnswer with a letter.", ("Who?", {"A": "cat", "B": "dog"})),
        ("Who?\nA) cat\nB) dog\nC) cow", ("Who?", {"A": "cat", "B": "dog", "C": "cow"})),
        (" \n Who? \n A: cat \n B: dog \n ", ("Who?", {"A": "cat", "B": "dog"})),
        ("Who?\nB) dog\nA) cat", ("Who?\nB) dog\nA) cat", {})),
        ("A: the first\nand no more", ("A: the first\nand no more", {})),
        ("Is it red? [Yes/No]", ("Is it red? [Yes/No]", {})),
    ],
)
def test_choices_of_a_question(words, expected):
    assert hf_rl.choices_of(words) == expected


def test_multiple_choice_in_llava_becomes_rl_data(llava_folder, tmp_path):
    """The traffic recipe's items are SFT data; with their letter as the reference they serve RL too."""
    item = llava_item("<video> \n Who? \n A: cat \n B: dog \n \nAnswer with the letter.", answer="B")
    made.json_file(llava_folder / "annotations.json", [item, llava_item("Who?\nA) x\nB) y", id="y")])
    problems = []
    left = formats.write(formats.read(llava_folder), tmp_path / "rl", "hf_rl", problems)
    (sample,) = formats.read(tmp_path / "rl")
    assert sample.extra["qa_pairs"] == {"question": "Who?", "index2ans": {"A": "cat", "B": "dog"}, "answer": "B"}
    assert left["wording of the prompt"] == left["answer in words"] == 1
    assert problems == [("y", "has no reference answer to compare with")]


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
