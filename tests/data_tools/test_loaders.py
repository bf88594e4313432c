"""The loader files: the same samples for both engines, in the shape that cosmos-rl's packer takes."""

import importlib
import json
import logging
import shutil

import official_layouts as made
import pytest
from helpers import VISION, config

from cookbook.config import lint
from cookbook.config.custom import options
from cookbook.data.samples import DataError, text
from cookbook.runs import ROOT
from data_tools import formats
from data_tools.formats.av_folder import VIDEO_SUFFIX
from data_tools.loading import contract, custom, load, loader, loader_for, require_step
from data_tools.loading.engine import EngineDataset
from data_tools.passport import passport
from data_tools.passport.dataset import read_layout

LOADERS = ("cosmos_sft", "cosmos_grpo", "avha_sft_single_caption", "llava_sft", "saved_sft")


def ids(samples):
    return [r.id for r in samples]


# ---- load -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_gives_training_and_validation_by_clip(name, folders):
    kind, folder, dataset = folders[name]
    splits = importlib.import_module(f"data_tools.{name}").load(config(folder, kind, dataset))
    assert list(splits) == ["train", "validation"]
    held = int(dataset[-1])
    assert len(splits["validation"]) == held and len(splits["train"]) == (10 if held == 3 else 3) - held
    groups = [{r.group for r in part} for part in splits.values()]
    assert not groups[0] & groups[1]
    assert all(path.is_file() for part in splits.values() for r in part for _, path in r.media())
    samples = EngineDataset(splits["train"], config(folder, kind))
    assert [m["role"] for m in samples[0]][-1] == ("assistant" if kind == "sft" else "user")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def load(config):\n    return 5\n", r"load\(config\) gives 5; it must give"),
        ("def load(config):\n    return {}\n", r"gives \{\}; it must give"),
        ("def load(config):\n    return {'train': [5], 'validation': []}\n", r"gives \{'train': \[5\].*; it must give"),
        ("def load(config):\n    return {'train': 5, 'validation': []}\n", "it must give"),
        ("\ndef load(config:\n    return 5\n", r"own\.py:2: does not run, .*SyntaxError: '\(' was never closed"),
        ("import os\nimport there_is_none\n", r"own\.py:2: does not run, .*No module named 'there_is_none'"),
        ("x = 1\n\nx.y\n", r"own\.py:3: does not run, .*AttributeError"),
    ],
)
def test_a_loader_file_of_ones_own_that_fails_is_named(text, told, tmp_path, av):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(DataError, match=told):
        loader(tmp_path / "own.py").load(config(av))


@pytest.mark.fault("inputs")
def test_what_is_held_out_does_not_follow_the_seed_of_the_training(av):
    seeds = [config(av, dataset="test_size = 3").edit({"train.seed": seed}) for seed in (0, 1)]
    assert len({tuple(ids(load(c, "av_folder")["validation"])) for c in seeds}) == 1


def test_how_much_is_held_out(av):
    sizes = {"": 1, "test_size = 0": 0, "test_size = 4": 4, "test_size = 0.5": 5}
    found = {dataset: len(load(config(av, dataset=dataset), "av_folder")["validation"]) for dataset in sizes}
    assert found == sizes
    assert load(config(av, dataset="", validation=False), "av_folder")["validation"] == []


def test_splits_that_are_folders(tmp_path, av):
    samples = formats.read(av)
    for name, part in (("train", samples[:6]), ("validation", samples[6:8]), ("test", samples[8:])):
        formats.write(part, tmp_path / "split" / name, "llava")
    found = load(config(tmp_path / "split", dataset=""), "llava")
    assert (ids(found["train"]), ids(found["validation"])) == (ids(samples[:6]), ids(samples[6:8]))
    found = load(config(tmp_path / "split", dataset='split = ["train[:2]", "test"]'), "llava")
    assert ids(found["train"]) == ["train-c0", "train-c1", "test-c8", "test-c9"]
    assert ids(found["validation"]) == ["c6", "c7"]
    more = f'[validation.dataset]\nname = "{tmp_path.as_posix()}/split/test"\nsplit = "[-1:]"'
    found = load(config(tmp_path / "split", more=more), "llava")
    assert (len(found["train"]), ids(found["validation"])) == (6, ["c9"])
    with pytest.raises(DataError, match="no such split"):
        load(config(tmp_path / "split", dataset='split = "dev"'), "llava")
    with pytest.raises(DataError, match=r"write train or train\[:100\]"):
        load(config(tmp_path / "split", dataset='split = "train+test"'), "llava")


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_splits_that_are_files_of_one_folder(tmp_path, av, suffix):
    """`train.json` beside the clips, which may lie in a folder of the split's name."""
    root, lines = tmp_path / "own", {}
    for name, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        (root / name).mkdir(parents=True)
        for n in numbers:
            shutil.copy(av / f"videos/c{n}{VIDEO_SUFFIX}", root / name / f"c{n}.mp4")
        items = [{"video": f"{name}/c{n}.mp4", "question": "What falls?", "answer": f"Rain {n}."} for n in numbers]
        lines[name] = json.dumps(items) if suffix == ".json" else "\n".join(map(json.dumps, items))
        (root / f"{name}{suffix}").write_text(lines[name])
    assert loader_for(str(root)) == "data_tools/llava_sft.py"
    found = load(config(root, dataset=""), "llava")
    assert {split: [s.target for s in rows] for split, rows in found.items()} == {
        "train": [f"Rain {n}." for n in range(6)],
        "validation": ["Rain 6.", "Rain 7."],
        "test": ["Rain 8.", "Rain 9."],
    }
    assert {split: len(rows) for split, rows in read_layout(root).samples.items()} == dict(
        train=6, validation=2, test=2
    )
    found = load(config(root, dataset='split = ["train", "val"]'), "llava")
    assert len(found["train"]) + len(found["validation"]) == 8 and len(found["test"]) == 2
    for name in ("train", "val", "test"):
        (root / f"{name}{suffix}").unlink()
    (root / f"all{suffix}").write_text(lines["train"])
    assert len(load(config(root, dataset="test_size = 0"), "llava")["train"]) == 6, "a folder of clips is no split"


def rows_of(folder, name, numbers, **more):
    """Write a file of questions about the clips of `av`, which lie beside it; `more` in each."""
    shutil.copytree(folder.parent / "av/videos", folder / "clips", dirs_exist_ok=True)
    rows = [{"video": f"clips/c{n}{VIDEO_SUFFIX}", "question": "What?", "answer": f"Rain {n}."} | more for n in numbers]
    (folder / name).write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(("files", "told"), [
    (("train.jsonl", "train.json"), "train.json and train.jsonl could each be its split train"),
    (("train.jsonl", "val.jsonl", "dev.jsonl"), "dev.jsonl and val.jsonl could each be its split validation"),
])  # fmt: skip
def test_two_files_of_one_split_are_refused(tmp_path, av, files, told):
    for name in files:
        rows_of(tmp_path / "own", name, range(4))
    with pytest.raises(DataError, match=told):
        load(config(tmp_path / "own"), "llava")


@pytest.mark.parametrize(("text", "told"), [("", "is empty"), ('{"data": [{}]}', "its fields are data")])
def test_a_split_that_cannot_be_read_is_not_replaced_by_another(tmp_path, av, text, told):
    rows_of(tmp_path / "own", "train.jsonl", range(8))
    (tmp_path / "own/Test.json").write_text(text)
    with pytest.raises(DataError, match=f"Test.json: is the split test, and no sample of it can be used.*{told}"):
        load(config(tmp_path / "own"), "llava")


def test_a_file_that_is_no_split_is_told_and_validation_has_its_own(tmp_path, av, caplog):
    rows_of(tmp_path / "own", "train.jsonl", range(6))
    rows_of(tmp_path / "own", "val.jsonl", range(6, 8))
    rows_of(tmp_path / "own", "test_2024.jsonl", range(8, 10))
    same = f'[validation.dataset]\nname = "{(tmp_path / "own").as_posix()}"'
    found = load(config(tmp_path / "own", more=same, dataset=""), "llava")
    assert (len(found["train"]), [s.target for s in found["validation"]]) == (6, ["Rain 6.", "Rain 7."])
    assert "not read, for no split has such a name: test_2024.jsonl" in caplog.text


def test_splits_of_nvidias_formats_may_be_files_too_and_the_format_is_that_of_train(tmp_path, av):
    turns = [{"role": "user", "content": "What falls?"}, {"role": "assistant", "content": "Rain."}]
    for name, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 10))):
        rows_of(tmp_path / "own", f"{name}.jsonl", numbers, conversations=turns)
    assert loader_for(str(tmp_path / "own")) == "data_tools/cosmos_sft.py"
    found = load(config(tmp_path / "own", dataset=""), "hf_sft")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 5, "validation": 2, "test": 3}
    assert {s: len(rows) for s, rows in read_layout(tmp_path / "own").samples.items()} == {
        k: len(v) for k, v in found.items()
    }
    rows_of(tmp_path / "own", "a_test.jsonl", range(2))  # of another format, and first in the alphabet
    assert loader_for(str(tmp_path / "own")) == "data_tools/cosmos_sft.py"


def test_what_is_in_quarantine_stays_there_where_several_splits_are_trained_on(tmp_path, av):
    rows_of(tmp_path / "own", "train.jsonl", range(6))
    rows_of(tmp_path / "own", "val.jsonl", [*range(5, 9)])  # clip 5 leaks
    checked = passport(folder=tmp_path / "own", workers=0)
    checked.write(tmp_path / "own/passport.json")
    assert [(q.split, q.id) for q in checked.quarantine]
    both = config(tmp_path / "own", dataset='split = ["train", "val"]\ntest_size = 0', custom="accept_left_out = 0.5")
    kept = {s.id for s in load(both, "llava")["train"]}
    assert len(kept) == 10 - len(checked.quarantine) and not {f"{q.split}-{q.id}" for q in checked.quarantine} & kept


def test_start_small(av):
    assert len(load(config(av, custom='subset = "train[:4]"'), "av_folder")["train"]) == 4


ACCEPT = "accept_left_out = 0.1"


def test_bad_rows_are_told_and_the_rest_trains(av, caplog):
    (av / "metas/c3.label.json").write_bytes(b"\xff")
    with caplog.at_level(logging.WARNING):
        assert len(load(config(av, custom=ACCEPT), "av_folder")["train"]) == 9
    assert "1 rows cannot be used, such as metas/c3.label.json: is not UTF-8" in caplog.text
    for path in (av / "metas").iterdir():
        path.write_text("{}")
    with pytest.raises(DataError, match=r"holds nothing to train on\. metas/c0\.label\.json: is empty"):
        load(config(av), "av_folder")
    with pytest.raises(DataError, match=r"dataset\.name is empty"):
        load(config(""), "av_folder")


@pytest.mark.fault("inputs")
def test_more_left_out_than_is_accepted_is_refused_with_what_helps(av):
    (av / "metas/c3.label.json").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"1 of 10 samples.*metas/c3.*UTF-8.*accept_left_out = 0\.1 below \[custom\]"):
        load(config(av), "av_folder")
    for wrong in ("1.5", "-1.0", "true"):
        with pytest.raises(DataError, match="accept_left_out"):
            custom(config(av, custom=f"accept_left_out = {wrong}"))


def test_what_is_held_out_leaves_enough_to_train_on(av):
    with pytest.raises(DataError, match=r"test_size = 0\.97 holds out 9 of 10 samples, and leaves 1.*smaller"):
        load(config(av, dataset="test_size = 0.97"), "av_folder")
    splits = load(config(av, dataset="test_size = 3"), "av_folder")
    with pytest.raises(DataError, match="7 samples are left to train on, 3 are held out, and one step takes 8; lower"):
        require_step(config(av).edit({"train.train_batch_per_replica": 8}), splits)
    require_step(config(av).edit({"train.train_batch_per_replica": 7}), splits)
    require_step(
        config(av).edit({"train.train_batch_per_replica": 99}), splits
    )  # too few even if nothing were held out


def test_the_loaders_options(av, tmp_path):
    module = importlib.import_module("data_tools.avha_sft_single_caption")
    words = 'question = "What?"\ndrop_fields = ["n"]'
    (sample, *_) = module.load(config(av, custom=words))["train"]
    assert sample.messages[0]["content"][1] == text("What?") and json.loads(sample.target) == {"weather": "rain"}
    module = importlib.import_module("data_tools.cosmos_grpo")
    rl = made.rl(tmp_path / "rl")
    (rl / "robovqa/clips").rename(tmp_path / "elsewhere")
    (tmp_path / "far").mkdir()
    with pytest.raises(DataError, match=r"no clip named a1\.mp4"):
        module.load(config(rl, "grpo", custom=f'media = "{tmp_path}/far"'))
    assert len(module.load(config(rl, "grpo", custom=f'media = "{tmp_path}/elsewhere"'))["train"]) == 3


# ---- [custom] ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('subsets = "[:9]"', r"x\.toml:\d+: custom\.subsets: this loader does not read it; did you mean subset"),
        ("zzz = 3", r"it reads accept_left_out, contract, loader, passport, subset, test_share"),
        ("subset = 3", r"is 3; it is a text like \"\[:100\]\""),
        ('subset = "[:9"', "it is a text like"),
        ('test_share = "0.2"', "is '0.2'; it is a share from 0 to 1"),
        ("test_share = true", "is True; it is a share"),
        ("test_share = 20", "is 20; it is a share"),
        ("[custom.passport]\nhash = 3", "custom.passport.hash: this loader does not read it; did you mean passport"),
    ],
)
def test_custom_keys_that_no_loader_reads(words, told):
    with pytest.raises(DataError, match=told):
        custom(config("x", custom=words))


LOADERS = sorted(file.stem for file in (ROOT / "data_tools").glob("*.py") if "serve(load)" in file.read_text())


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_states_its_keys_where_the_lint_reads_them(name):
    """And refuses, by the type that it states, what the lint refuses: of each key a value that no key takes."""
    module, file = importlib.import_module(f"data_tools.{name}"), ROOT / "data_tools" / f"{name}.py"
    assert options(file) == module.OPTIONS
    for key in [*module.OPTIONS, "no_such_key"]:
        wrong = config("x", custom=f'{key} = -1.5\nloader = "data_tools/{name}.py"')
        with pytest.raises(DataError, match=rf"custom\.{key}") as refused:
            module.load(wrong)
        told = [f.message for f in lint(wrong) if f.key == f"custom.{key}"]
        assert len(told) == 1 and told[0].rpartition(";")[2] in str(refused.value)


def test_the_contract_must_be_named_and_readable(tmp_path):
    assert contract(config("x")).vision.max_pixels == VISION["max_pixels"]
    with pytest.raises(DataError, match=r"custom\.contract is not stated"):
        contract(config("x", contract=""))
    (tmp_path / "c.yaml").write_text("system: a\n")
    for name in (tmp_path / "c.yaml", tmp_path / "none.yaml"):
        with pytest.raises(DataError, match="cannot be read"):
            contract(config("x", contract=name))


# ---- the passport -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [False, True])
def test_a_loader_leaves_out_what_the_passport_has_in_quarantine(stated, av, tmp_path, caplog):
    clip = av / "videos" / f"c3{VIDEO_SUFFIX}"
    clip.write_bytes(clip.read_bytes()[:300])
    path = tmp_path / "elsewhere.json" if stated else av / "passport.json"
    passport(folder=av, cache=None, workers=0).write(path)
    words = f'{ACCEPT}\npassport = "{path}"' if stated else ACCEPT
    with pytest.raises(DataError, match=r"1 of 10 samples \(10\.0%\) would be left out.*c3: .*accept_left_out = 0\.1 "):
        load(config(av, custom=words.replace(ACCEPT, "")), "av_folder")
    found = load(config(av, dataset="test_size = 3", custom=words), "av_folder")
    assert sorted(ids(found["train"]) + ids(found["validation"])) == [f"c{i}" for i in range(10) if i != 3]
    assert "1 of" in caplog.text and str(path) in caplog.text


@pytest.mark.fault("inputs")
def test_the_passport_of_other_data_is_refused(av, tmp_path):
    passport(folder=av, cache=None, workers=0).write(av / "passport.json")
    assert len(load(config(av), "av_folder")["train"]) == 10
    clip = av / "videos" / f"c3{VIDEO_SUFFIX}"
    clip.write_bytes(clip.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"passport\.json: is the passport of other data.*c3\."):
        load(config(av), "av_folder")
    (av / "passport.json").write_text('{"quarantine": []}')
    with pytest.raises(DataError, match=r"passport\.json: is no passport \(it has no hash\)"):
        load(config(av), "av_folder")


def test_a_passport_that_is_named_must_be_there(av):
    with pytest.raises(DataError, match="is no passport"):
        load(config(av, custom='passport = "nowhere.json"'), "av_folder")
