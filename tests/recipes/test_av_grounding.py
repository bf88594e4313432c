"""The grounding recipe: the official layout, damage, rounding, size, the toy road and its camera, published values."""

import json
import re
import tracemalloc

import numpy as np
import official_layouts as made
import pytest

from cookbook.config import Config, lint
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.data.vision import image_tokens
from cookbook.evaluation.metrics.boxes import boxes, detections, projected
from cookbook.evaluation.predictions import judge
from cookbook.runs import ROOT
from data_tools import av_grounding
from data_tools.worlds import lanes

FULL = "configs/recipes/av_3d_grounding_sft.toml"
TINY = "configs/recipes/av_3d_grounding_tiny.toml"
PUBLISHED = [-8.962420703794697, -0.15224466668225012, 18.004403863124224, 5.301581382751465, 2.187917470932007,
             2.0336594581604004, 0.005443232293758353, 0.6511561857044312, -0.009069517922754287]  # fmt: skip


def vehicle(label="car", **at):
    """A vehicle as the published page shows one; `at` replaces numbers by their place, as _3=0.0."""
    values = list(PUBLISHED)
    for place, value in at.items():
        values[int(place[1:])] = value
    return {"label": label, "bbox_3d": values}


def config(root, file=FULL, **custom):
    bound = Config.load(file).edit({"train.train_policy.dataset.name": str(root)})
    return bound.edit({f"custom.{key}": value for key, value in custom.items()})


@pytest.mark.parametrize("key", ["text", "conversation"])
def test_the_answer_has_the_published_form_and_rounded_numbers(tmp_path, key):
    made.grounding(tmp_path, {"f0": [vehicle(), vehicle("truck")], "f1": []}, key)
    first, empty = av_grounding.read(tmp_path)
    written = '{"bbox_3d":[-8.96,-0.15,18.0,5.3,2.19,2.03,0.01,0.65,-0.01],"label":"car"}'
    assert first.target == f"[{written},{written.replace('car', 'truck')}]" and empty.target == "[]"
    assert [kind for kind, _ in first.media()] == ["image"] and first.question == av_grounding.QUESTION
    true = json.loads(first.answer)
    assert boxes(first.answer)[0] == ("car", PUBLISHED) and true["camera_params"]["fy"] == 540.7505167122987


def test_rounding_is_asked_for_and_scored_against_what_is_true(tmp_path):
    made.grounding(tmp_path, {"f0": [vehicle()]})
    contract, figures = Contract.load(ROOT / "configs/prompts/av_3d_grounding.yaml"), {}
    for decimals in (0, 1, 2):
        (sample,) = av_grounding.load(config(tmp_path, decimals=decimals))["train"]
        figures[decimals] = detections([judge(sample, sample.target, contract)])["mean_iou"]
    assert sample.target.count(".") == 9 and figures[0] < 0.85 < figures[1] < 0.99 < figures[2] < 1


def test_splits_are_folders_and_nothing_is_held_out(tmp_path):
    for number, (split, count) in enumerate((("train", 4), ("validation", 2), ("test", 3))):
        made.grounding(tmp_path / split, {f"{split}{i}": [vehicle(_0=number + i)] for i in range(count)})
    sizes = {name: len(part) for name, part in av_grounding.load(config(tmp_path)).items()}
    assert sizes == {"train": 4, "validation": 2, "test": 3}
    flat = av_grounding.load(config(tmp_path / "train"))
    assert {name: len(part) for name, part in flat.items()} == {"train": 4, "validation": 0}
    with pytest.raises(DataError, match="decimal"):
        av_grounding.load(config(tmp_path, decimal=2))


BAD = {
    "eight": ([{"label": "car", "bbox_3d": PUBLISHED[:8]}], "bbox_3d of a car is 8 values, not nine numbers"),
    "no_box": ([{"label": "car"}], "bbox_3d of a car is no list, not nine numbers"),
    "no_label": ([{"bbox_3d": PUBLISHED}], "a vehicle has no label"),
    "blank": ([vehicle(" ")], "a vehicle has no label"),
    "nan": ([vehicle(_2=float("nan"))], "holds NaN, which is not valid JSON"),
    "null": ([vehicle(_2=None)], "holds 'None', which is no number"),
    "flat": ([vehicle(_4=0.0)], "a car has a size of 0.0; sizes are above 0"),
    "negative": ([vehicle(_5=-2)], "a car has a size of -2; sizes are above 0"),
    "thin": ([vehicle(_4=0.004)], "a size of a car is 0 with 2 decimals; raise custom.decimals"),
    "not_a_list": ({"car": 1}, "has no list of annotations"),
}


def test_damage_costs_its_own_image_and_is_named_in_one_line(tmp_path):
    labels = {"good": [vehicle()], "gone": [vehicle()], **{name: value for name, (value, _) in BAD.items()}}
    made.grounding(tmp_path, labels | {"blind": [vehicle()], "cut": [vehicle()]})
    (tmp_path / "images/gone.png").unlink()
    (tmp_path / "text/cut.json").write_text('{"frame_id": 0, "ann')
    told = json.loads((tmp_path / "text/blind.json").read_text())
    made.json_file(tmp_path / "text/blind.json", told | {"camera_params": told["camera_params"] | {"fy": 0}})
    entries = json.loads((tmp_path / "meta.json").read_text())
    good = {"id": "again", "media": "images/good.png", "text": "text/good.json"}
    odd = ["no entry", {"id": "odd", "media": "images/good.png"}, good | {"id": "a/b"}, good | {"media": "../x.png"}]
    made.json_file(tmp_path / "meta.json", entries + odd)
    found = av_grounding.read(tmp_path, problems := [])
    reasons = [reason for _, reason in problems]
    assert [s.id for s in found] == ["good"] and len(reasons) == len(entries) - 1 + len(odd)
    wanted = [*(words for _, words in BAD.values()), "no such file", "camera_params has no fy that",
              "is not valid JSON", "names no file of annotations", "the id a/b holds",
              "leaves the dataset's folder"]  # fmt: skip
    for words in wanted:
        assert any(words in reason for reason in reasons), words
    assert not any("\n" in reason for reason in reasons)
    with pytest.raises(DataError, match=r"meta.json, item 1.*no such file"):
        av_grounding.read(tmp_path)
    with pytest.raises(DataError, match=r"would be left out, more than 5\.0%"):
        av_grounding.load(config(tmp_path))
    with pytest.raises(DataError, match=r"meta\.json: cannot be read"):
        av_grounding.load(config(tmp_path / "nowhere"))


def test_two_thousand_images_in_bounded_memory(tmp_path):
    made.grounding(tmp_path, {"f": [vehicle() for _ in range(5)]})
    entry = json.loads((tmp_path / "meta.json").read_text())[0]
    made.json_file(tmp_path / "meta.json", [entry | {"id": f"f{i}"} for i in range(2_000)])
    tracemalloc.start()
    assert len(av_grounding.read(tmp_path)) == 2_000
    assert tracemalloc.get_traced_memory()[1] < 2_000 * 8_000
    tracemalloc.stop()


# ---- the world, the contract, the configurations ----------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return lanes.build(tmp_path_factory.mktemp("lanes"), {"train": 40, "test": 10}, seed=2, most=2)


def test_the_world_is_the_official_layout_and_repeats_with_its_seed(world, tmp_path):
    found = av_grounding.read(world / "train")
    assert len(found) == 40 and {len(boxes(s.answer)) for s in found} == {1, 2}
    entry = json.loads((world / "train/meta.json").read_text())[0]
    told = json.loads((world / "train" / entry["text"]).read_text())
    assert set(entry) == {"id", "media", "text"}
    assert set(told) == {"frame_id", "camera", "camera_params", "annotations"}
    again = lanes.build(tmp_path, {"train": 40, "test": 10}, seed=2, most=2)
    assert (again / "train" / entry["media"]).read_bytes() == (world / "train" / entry["media"]).read_bytes()


def test_whole_metres_say_the_toys_boxes_exactly(world):
    for sample in av_grounding.load(config(world, TINY))["train"]:
        assert boxes(sample.target) == boxes(sample.answer) and re.fullmatch(r"[^.]*", sample.target)
        assert [label for label, _ in boxes(sample.answer)] == [label for label, _ in boxes(sample.target)]


def test_what_is_drawn_lies_where_the_camera_projects_the_box():
    """Against an empty road under the same light: what differs fills the projected box, and nothing beyond it."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        (vehicle_,) = lanes.plan(rng)
        seed = int(rng.integers(1000))
        drawn, empty = (np.asarray(lanes.render(v, np.random.default_rng(seed)), int) for v in ([vehicle_], []))
        rows, columns = np.nonzero(abs(drawn - empty).sum(2) > 6)
        least, most = projected(vehicle_[1], lanes.CAMERA)
        most = np.minimum(most, lanes.SIZE)
        assert (columns.min(), rows.min()) == pytest.approx(np.maximum(least, 0), abs=1.5)
        assert (columns.max() + 1, rows.max() + 1) == pytest.approx(most, abs=1.5)


def test_the_far_one_is_hidden_by_the_near_one_and_no_lane_is_taken_twice(world):
    near, far = ("car", [0, 1, 9, 2, 2, 4, 0, 0, 0]), ("car", [0, 1, 30, 2, 2, 4, 0, 0, 0])
    empty, *drawn = (np.asarray(lanes.render(v, np.random.default_rng(0)), int) for v in ([], [near, far], [near]))
    covered = [abs(picture - empty).sum(2) > 6 for picture in drawn]
    assert (covered[0] != covered[1]).mean() < 0.001 < covered[0].mean()
    for sample in av_grounding.read(world / "train"):
        places = [values[0] for _, values in boxes(sample.answer)]
        assert len(places) == len(set(places))


def test_published_frames_and_pixels():
    vision = Contract.load(ROOT / "configs/prompts/av_3d_grounding.yaml").vision
    assert (vision.fps, vision.max_pixels) == (1, 40960)
    assert image_tokens(1280, 720, vision.max_pixels, vision.min_pixels) == 45


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("", {"train.epoch": 2, "train.optm_lr": 2e-7, "train.train_batch_per_replica": 16, "train.seed": 42,
              "train.optm_warmup_steps": 0.03, "train.optm_decay_type": "cosine", "train.ckpt.max_keep": 30,
              "policy.model_name_or_path": "nvidia/Cosmos-Reason2-8B"}),
        ("_reason1", {"train.epoch": 5, "train.train_batch_per_replica": 32, "train.fsdp_offload": True,
                      "train.ckpt.max_keep": 3, "policy.model_name_or_path": "nvidia/Cosmos-Reason1-7B"}),
    ],
)  # fmt: skip
def test_the_full_scale_files_have_the_published_values(name, wanted):
    config = Config.load(f"configs/recipes/av_3d_grounding{name}_sft.toml")
    wanted |= {"train.train_policy.mini_batch": 4, "train.ckpt.save_freq": 50, "policy.model_max_length": 4096,
               "policy.parallelism.dp_shard_size": 8, "policy.model_gradient_checkpointing": True}  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    assert not lint(config, gpus=8, samples=80_000)
    assert not lint(Config.load(TINY), gpus=1)
