"""The warehouse recipe: COCO masks, marks on the picture, the official layout, damage, size, the world, the scores."""

import json
import tarfile
import tracemalloc
from collections import Counter
from statistics import median

import huggingface_hub
import numpy as np
import official_layouts as made
import pytest
from PIL import Image
from small_recipes import defined

from cookbook.config import Config, lint
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.data.vision import image_tokens
from cookbook.evaluation.metrics import measure
from cookbook.evaluation.metrics.structures import numbers
from cookbook.evaluation.predictions import judge
from cookbook.runs import ROOT
from data_tools import formats, warehouse_vqa
from data_tools.region_masks import COLORS, decode, draw_marks, encode
from data_tools.worlds import warehouse

FULL = "configs/recipes/warehouse_spatial_sft.toml"


# ---- masks ------------------------------------------------------------------------------------------------------


def test_run_lengths_come_back_whatever_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random(rng.integers(1, 70, 2)) < rng.random()
        assert (decode(encode(mask)) == mask).all()
        flat = mask.T.reshape(-1)
        runs = np.diff(np.flatnonzero(np.diff(flat, prepend=not flat[0], append=not flat[-1]))).tolist()
        assert (decode({"size": list(mask.shape), "counts": ([0] if flat[0] else []) + runs}) == mask).all()


def test_text_is_read_as_pycocotools_writes_it():
    """From pycocotools 2.0: a 4 × 5 mask with a 2 × 3 box, and one run that is longer than a thousand pixels."""
    box = np.zeros((4, 5), bool)
    box[1:3, 1:4] = True
    assert encode(box)["counts"] == "5220003" and (decode({"size": [4, 5], "counts": "5220003"}) == box).all()
    wide = np.zeros((1080, 1920), bool)
    wide[100:900, 300:1500] = True
    assert (decode(json.loads(json.dumps(encode(wide)))) == wide).all()


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        ({"size": [4, 5], "counts": "52"}, "cover 7 pixels of 4 × 5"),
        ({"size": [4, 5], "counts": "5\x01"}, "character"),
        ({"size": [4, 5], "counts": "5P"}, "middle of a number"),
        ({"size": [4], "counts": "5"}, "height, width"),
        ({"size": [10**6, 10**6], "counts": "5"}, "the most"),
        ({"size": [4, 5], "counts": [5, -1, 16]}, "lengths"),
        ({"size": [4, 5]}, "lengths"),
        (None, "size is None"),
    ],
)
def test_damaged_masks_are_refused_with_the_reason(rle, words):
    with pytest.raises(DataError, match=words):
        decode(rle)


def test_a_mark_has_the_colour_of_its_number_inside_its_mask_and_nothing_outside():
    picture = Image.new("RGB", (200, 120), (120, 120, 120))
    masks = [np.zeros((120, 200), bool) for _ in range(3)]
    for number_, mask in enumerate(masks):
        mask[20:100, 10 + 65 * number_ : 60 + 65 * number_] = True
    marked = np.asarray(draw_marks(picture, masks)).astype(int)
    outside = ~(masks[0] | masks[1] | masks[2])
    assert (marked[outside] == 120).all()
    for number_ in range(3):
        corner = marked[24, 14 + 65 * number_]
        assert np.abs(corner - (np.array(list(COLORS.values())[number_]) + 120) / 2).max() <= 1
        middle = marked[50:70, 25 + 65 * number_ : 45 + 65 * number_].reshape(-1, 3)
        assert (middle > 200).all(1).any() and (middle < 60).all(1).any()  # the number, white with a black rim


def test_the_number_of_a_bent_region_stands_inside_it():
    bent = np.zeros((100, 100), bool)
    bent[10:90, 10:24] = bent[76:90, 10:90] = True
    marked = np.asarray(draw_marks(Image.new("RGB", (100, 100), (90, 90, 90)), [bent]))
    y, x = np.argwhere((marked > 200).all(2)).mean(0)
    assert bent[int(y), int(x)]


def test_a_mask_of_another_size_is_stretched_and_an_empty_one_refused():
    small = np.zeros((54, 96), bool)
    small[27:, 48:] = True
    marked = np.asarray(draw_marks(Image.new("RGB", (960, 540)), [small]))
    assert marked[300:, 500:].any() and not marked[:260].any()
    with pytest.raises(DataError, match="region 1 is empty"):
        draw_marks(Image.new("RGB", (96, 54)), [small, ~small & False])


# ---- the official layout ----------------------------------------------------------------------------------------


def row(name, category="distance", answer=3.5, masks=2, **changes):
    """A row as the dataset has it."""
    box = np.zeros((32, 32), bool)
    box[4:20, 4:20] = True
    asked = "<image>\nHow far is " + " from ".join(["<mask>"] * masks) + "?"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "About that far."}]
    return {
        "id": name,
        "image": "000001.png",
        "conversations": turns,
        "rle": [encode(box)] * masks,
        "category": category,
        "normalized_answer": answer,
        "freeform_answer": "About that far.",
    } | changes


def official(root, rows, split="train"):
    made.picture(root / split / "images/000001.png", 1)
    made.json_file(root / f"{split}.json", rows)
    return root


def test_the_official_layout_becomes_a_picture_pair_and_a_short_answer(tmp_path):
    rows = [row("a"), row("b", "left_right", "Left"), row("c", "mcq", 2, masks=3), row("d", "count", 4, masks=1)]
    official(tmp_path / "data", rows)
    official(tmp_path / "data", [row("v")], "val")
    for split in ("train", "val"):
        done = warehouse_vqa.convert(tmp_path / "data", tmp_path / "out", split)
        assert not done.problems
    config = Config.load(FULL).edit({"train.train_policy.dataset.name": str(tmp_path / "out")})
    splits = warehouse_vqa.load(config)
    found = {s.id: s for s in splits["train"]}
    assert [s.id for s in splits["validation"]] == ["v"]
    assert {s.id: (s.target, s.answer, s.task, s.group) for s in found.values()} == {
        "a": ("3.5", "3.5", "distance", "train-000001"),
        "b": ("left", "left", "left_right", "train-000001"),
        "c": ("2", "2", "mcq", "train-000001"),
        "d": ("4", "4", "count", "train-000001"),
    }
    assert found["c"].options == ("0", "1", "2") and found["b"].options == ("left", "right")
    shown = [path.name for _, path in found["a"].media()]
    assert shown == ["000001.png", "a.png"]
    assert "How far is Region 0 from Region 1?" in found["a"].question and "<" not in found["a"].question
    assert splits["validation"][0].group == "val-000001"  # another picture of the same name
    original, marked = (np.asarray(Image.open(path)).astype(int) for _, path in found["a"].media())
    assert (original[25:, 25:] == marked[25:, 25:]).all() and (original[5:18, 5:18] != marked[5:18, 5:18]).any()


BAD = {
    "no id": row("x", id=None),
    "path as id": row("../x"),
    "no picture": row("p", image="missing.png"),
    "picture outside": row("o", image="../../../etc/passwd"),
    "unknown category": row("k", "colour"),
    "no answer": row("n", answer=None),
    "words for a number": row("w", answer="far"),
    "infinite": row("i", answer=float("1e400")),
    "up": row("u", "left_right", "up"),
    "too few masks": row("f", rle=[]),
    "rle no list": row("r", rle="52203"),
    "damaged mask": row("m", rle=[{"size": [32, 32], "counts": "5"}] * 2),
    "no turns": row("t", conversations=[]),
    "only a picture": row("q", conversations=[{"from": "human", "value": "<image>"}], masks=0),
    "not a row": ["a", "b"],
    "a list as category": row("l") | {"category": ["mcq"]},
    "a list as id": row("x", id=["x"]),
    "the same id": row("good"),
}


def test_a_damaged_folder_costs_the_damaged_rows_only_and_each_is_named(tmp_path):
    rows = [row("good"), *BAD.values(), row("last")]
    text = json.dumps(rows).replace("Infinity", "1e400")
    official(tmp_path / "data", [])
    (tmp_path / "data/train.json").write_text(text)
    done = warehouse_vqa.convert(tmp_path / "data", tmp_path / "out")
    assert [s.id for s in formats.read(tmp_path / "out/train", "llava")] == ["good", "last"]
    told = (tmp_path / "out/train/left_out.txt").read_text().splitlines()
    assert len(told) == len(done.problems) == len(BAD)
    for number_, line in enumerate(told, start=1):
        assert line.startswith(f"train.json, item {number_}: ")


def test_rows_that_are_drawn_at_once_stay_in_order_and_share_their_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(warehouse_vqa, "WINDOW", 7)
    names = [f"r{i:02d}" for i in range(30)]
    bad = {5: {"rle": []}, 20: {"category": "colour"}}
    rows = [row(name, image=f"{i % 3}.png", **bad.get(i, {})) for i, name in enumerate(names)]
    for i in range(3):
        made.picture(tmp_path / f"data/train/images/{i}.png", i)
    made.json_file(tmp_path / "data/train.json", [*rows, rows[0]])
    done = warehouse_vqa.convert(tmp_path / "data", tmp_path / "out")
    found = formats.read(tmp_path / "out/train", "llava")
    assert [s.id for s in found] == [name for i, name in enumerate(names) if i not in bad]
    assert [name for name, _ in done.problems] == [f"train.json, item {i}" for i in (5, 20, 30)]
    assert len(list((tmp_path / "out/train/images").iterdir())) == 3
    assert [[path.stem for _, path in s.media()] for s in found] == [[str(int(s.id[1:]) % 3), s.id] for s in found]


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    official(tmp_path / "data", [row("a"), row("b", image="b.png")])
    (tmp_path / "data/train/images/b.png").write_bytes(b"\x89PNG, and then nothing")
    done = warehouse_vqa.convert(tmp_path / "data", tmp_path / "out")
    assert sum(done.written.values()) == 1 and "b.png: cannot be read as a picture" in done.problems[0][1]


def test_a_file_that_is_cut_off_gives_the_rows_before_the_cut(tmp_path):
    official(tmp_path / "data", [])
    (tmp_path / "data/train.json").write_text(json.dumps([row("a"), row("b"), row("c")])[:-60])
    done = warehouse_vqa.convert(tmp_path / "data", tmp_path / "out")
    assert sum(done.written.values()) == 2 and "cut off" in done.problems[0][1]


@pytest.mark.parametrize("text", ["", "{}", "null", "not json"])
def test_what_is_no_list_is_refused_in_one_line(tmp_path, text, capsys):
    official(tmp_path / "data", [])
    (tmp_path / "data/train.json").write_text(text)
    with pytest.raises(SystemExit) as end:
        warehouse_vqa.main(["convert", str(tmp_path / "data"), str(tmp_path / "out")])
    assert end.value.code == 1 and "is not a list of rows" in capsys.readouterr().err


def test_ten_thousand_rows_go_through_in_bounded_memory(tmp_path):
    """Twice 10,000 rows of 3 kB: the peak does not follow the file, and each category has its number of rows."""
    free = "x" * 2500

    def peak(count):
        root = tmp_path / str(count)
        made.picture(root / "data/train/images/000001.png", 1)
        with (root / "data/train.json").open("w") as file:
            names = ("left", "left_right"), (1, "mcq"), (2, "count"), (3.5, "distance")
            for i in range(count):
                answer, category = names[i % 4]
                item = row(f"id{i}", category, answer, freeform_answer=free)
                file.write(("[" if i == 0 else ",\n") + json.dumps(item))
            file.write("]")
        tracemalloc.start()
        done = warehouse_vqa.convert(root / "data", root / "out", per_category=50, seed=1)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done.written == {"left_right": 50, "mcq": 50, "count": 50, "distance": 50}
        return size

    small, large = peak(1_000), peak(10_000)
    assert large < 16e6 and large < 2.5 * small
    again = warehouse_vqa.pick(tmp_path / "10000/data/train.json", 50, 1)
    assert (
        len(again) == 200
        and max(again) > 9_000
        and again == warehouse_vqa.pick(tmp_path / "10000/data/train.json", 50, 1)
    )


def test_a_conversion_that_stands_complete_is_not_made_again(tmp_path):
    data, out = official(tmp_path / "data", [row("a"), row("b")], "val"), tmp_path / "out"
    told = warehouse_vqa.converted(data, out, "val", "test", per_category=1)
    assert told.startswith("1 rows") and len(formats.read(out / "test", "llava")) == 1
    (out / "test/annotations.jsonl").touch()
    before = (out / "test/annotations.jsonl").stat().st_mtime_ns
    assert warehouse_vqa.converted(data, out, "val", "test", per_category=1) == told
    assert (out / "test/annotations.jsonl").stat().st_mtime_ns == before
    assert warehouse_vqa.converted(data, out, "val", "test", per_category=2).startswith("2 rows")  # asked otherwise
    (out / "test/.converted").unlink()  # broken off
    assert warehouse_vqa.converted(data, out, "val", "test", per_category=2).startswith("2 rows")


def test_what_is_tested_on_is_a_split_of_its_own(tmp_path):
    official(tmp_path / "data", [row("a"), row("b", image="2.png")])
    made.picture(tmp_path / "data/train/images/2.png", 2)
    official(tmp_path / "data", [row("v")], "val")
    for split in ("train", "val"):
        arguments = ["convert", str(tmp_path / "data"), str(tmp_path / "out"), "--split", split]
        assert warehouse_vqa.main(arguments + ["--into", "test"] * (split == "val")) == 0
    splits = warehouse_vqa.load(Config.load(FULL).edit({"train.train_policy.dataset.name": str(tmp_path / "out")}))
    assert [s.id for s in splits["test"]] == ["v"] and len(splits["train"]) == 1 and len(splits["validation"]) == 1


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that gives the official files, archives and all. Returns what it was asked for."""
    asked = []

    def snapshot(name, *, repo_type, allow_patterns, local_dir):
        asked.append((name, repo_type, allow_patterns))
        if len(asked) == 1:
            raise ConnectionError("the line was cut")
        for split in ("train", "val"):
            official(local_dir, [row(split)], split)
        picture = local_dir / "train/images/000001.png"
        with tarfile.open(picture.with_name("chunk_000.tar.gz"), "w:gz") as archive:
            archive.add(picture, picture.name)
        picture.unlink()
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_the_official_data_are_downloaded_and_unpacked_once(hub, tmp_path):
    with pytest.raises(DataError, match=r"cannot be loaded from the hub .*the line was cut"):
        warehouse_vqa.official(tmp_path / "data")
    (tmp_path / "data/train.json").write_text("[")  # some files may have come
    (tmp_path / "data/val.json").write_text("[")
    for _ in range(2):
        data = warehouse_vqa.official(tmp_path / "data")
        assert sum(warehouse_vqa.convert(data, tmp_path / "out", "val", into=f"v{_}").written.values()) == 1
    assert (data / "train/images/000001.png").is_file() and len(hub) == 2
    assert hub[1] == ("nvidia/PhysicalAI-Spatial-Intelligence-Warehouse", "dataset", warehouse_vqa.WANTED)
    assert not [pattern for pattern in warehouse_vqa.WANTED if "depths" in pattern]


def test_an_empty_folder_is_no_data_where_the_hub_is_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, *, local_dir, **_: str(local_dir))
    for _ in range(2):
        with pytest.raises(DataError, match=r"data: has no train\.json and no val\.json, .* cannot be reached"):
            warehouse_vqa.official(tmp_path / "data")


# ---- the world, the contract, the configuration -----------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return warehouse.build(tmp_path_factory.mktemp("warehouse"), {"train": 80, "val": 8, "test": 8}, seed=3)


def test_the_world_is_in_the_official_layout_and_its_answers_are_true(world):
    rows = json.loads((world / "train.json").read_text())
    assert set(rows[0]) == set(row("a"))
    for item in rows:
        masks = [decode(rle) for rle in item["rle"]]
        centres = [np.argwhere(mask).mean(0) / warehouse.SIZE for mask in masks]
        answer = item["normalized_answer"]
        if item["category"] == "left_right":
            assert answer == ("left" if centres[0][1] < centres[1][1] else "right")
        if item["category"] == "mcq":
            assert int(answer) == min(range(3), key=lambda i: centres[i][0])
        if item["category"] == "distance":
            assert abs(float(answer) - 10 * centres[0][0]) < 0.2
    counts = [item["normalized_answer"] for item in rows if item["category"] == "count"]
    assert set(counts) == {"1", "2", "3", "4"}


def test_the_world_repeats_with_its_seed_and_its_splits_differ(world, tmp_path):
    again = warehouse.build(tmp_path / "again", {"train": 80, "val": 8, "test": 8}, seed=3)
    assert (again / "train.json").read_text() == (world / "train.json").read_text()
    assert (again / "train/images/000003.png").read_bytes() == (world / "train/images/000003.png").read_bytes()
    assert (world / "val/images/000003.png").read_bytes() != (world / "test/images/000003.png").read_bytes()


def test_both_contracts_say_the_same_and_published_sizes_hold():
    full, tiny = (
        Contract.load(ROOT / f"configs/prompts/{name}.yaml") for name in ("warehouse_spatial", "warehouse_tiny")
    )
    assert (full.system, full.answer_format) == (tiny.system, tiny.answer_format)
    # 960 × 540 are the published 646 tokens, from 1080p too
    for width, height in ((960, 540), (1920, 1080)):
        assert image_tokens(width, height, full.vision.max_pixels, full.vision.min_pixels) == 646


def test_the_full_scale_file_has_the_published_values():
    config = Config.load(FULL)
    wanted = {
        "train.optm_lr": 1e-5, "train.optm_impl": "foreach", "train.resume": True, "train.epsilon": 1e-8,
        "train.train_batch_per_replica": 32, "train.train_policy.mini_batch": 4, "policy.model_max_length": 8192,
        "train.train_policy.dataloader_num_workers": 8, "train.train_policy.dataloader_prefetch_factor": 8,
        "train.ckpt.save_freq": 50, "policy.parallelism.dp_shard_size": 8, "validation.enable": False, "train.epoch": 1,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    assert not lint(config, gpus=8, samples=80_000)


# ---- scores -----------------------------------------------------------------------------------------------------


def test_numbers_count_what_is_unread_as_zero():
    rows = [{"id": "a", "answer": "about 3,5 m", "reference": "3.5"}, {"id": "b", "answer": None, "reference": "2.0"},
            {"id": "c", "answer": "5.2", "reference": "5.0"}]  # fmt: skip
    found = numbers(rows)
    assert found["mean_absolute_error"] == pytest.approx((0 + 2 + 0.2) / 3)
    assert (found["exact"], found["unread"], found["within_10_percent"]) == (1 / 3, 1 / 3, 2 / 3)


def scored(share, error, n=40):
    rows = []
    for task, right, wrong in (("left_right", "left", "right"), ("mcq", "1", "0"), ("count", "2", "3")):
        for i in range(n):
            answer = right if i < share * n else wrong
            rows.append(
                {"task": task, "kind": "mcq", "answer": answer, "reference": right, "correct": answer == right,
                 "group": str(i)}
            )  # fmt: skip
    for i in range(n):
        told = f"{4 + i % 5 + error:.1f}"
        row = {"id": str(i), "task": "distance", "kind": "number", "group": str(i)}
        rows.append(row | {"answer": told, "reference": f"{4 + i % 5}"})
    return rows


def test_every_category_has_its_own_score_and_the_habit_that_is_its_bar(world, tmp_path):
    for split in ("train", "test"):
        warehouse_vqa.convert(world, tmp_path / "out", split, brief=True)
    train = formats.read(tmp_path / "out/train", "llava")
    by_category = defined("warehouse_spatial", "by_category")
    before, after = (by_category(scored(*x), train) for x in ((0.1, 5), (0.95, 0.1)))
    assert set(after) == set(warehouse_vqa.CATEGORIES) and all(found["n"] == 40 for found in after.values())
    assert (before["distance"]["score"], after["distance"]["score"]) == pytest.approx((5, 0.1))
    usual = median(float(s.answer) for s in train if s.task == "distance")
    assert after["distance"]["habit"] == pytest.approx(sum(abs(usual - (4 + i % 5)) for i in range(40)) / 40)
    for category, reference in (("left_right", "left"), ("mcq", "1"), ("count", "2")):
        assert (before[category]["score"], after[category]["score"]) == (0.1, 0.95)
        # all references of the fakes are the same answer, which the habit may earn too
        seen = Counter(s.answer for s in train if s.task == category)
        most = min(answer for answer in seen if seen[answer] == max(seen.values()))
        assert before[category]["habit"] == after[category]["habit"] == (most == reference)
        assert after[category]["ci95"][0] < 0.95 < after[category]["ci95"][1]


def test_stored_answers_of_every_category_can_be_scored_again(world, tmp_path):
    """`python -m cookbook.evaluation score` on the rows that the recipe leaves."""
    warehouse_vqa.convert(world, tmp_path / "out", "test", brief=True)
    contract = Contract.load(ROOT / "configs/prompts/warehouse_tiny.yaml")
    rows = [judge(s, s.target, contract) for s in formats.read(tmp_path / "out/test", "llava")]
    assert {row["kind"] for row in rows} == {kind for kind, _, _ in warehouse_vqa.CATEGORIES.values()}
    assert all(row["correct"] for row in rows)
    assert (found := measure(rows))["number"]["mean_absolute_error"] == 0 and found["mcq"]["accuracy"] == 1
