"""The caption recipe: the official layout of fifteen fields, damage, size, the toy drive, a verdict for every field."""

import json

import numpy as np
import official_layouts as made
import psutil
import pytest
from small_recipes import defined

from cookbook.config import Config, clip_tokens, lint
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.data.video import read_frames
from cookbook.evaluation.metrics.structures import fields
from cookbook.runs import ROOT
from data_tools import av_caption
from data_tools.worlds import drive

FULL = "configs/recipes/av_caption_vqa_sft.toml"


def label(**changes):
    """A label as the recipe's data has it: fifteen fields, and the two that are dropped."""
    return {
        "weather": "Heavy rain",
        "lighting": "Night, well lit",
        "road_conditions": "Wet asphalt",
        "traffic_light": "Green, so we go on",
        "traffic_sign": "None",
        "additional_traffic_rules": None,
        "road_type": "Highway",
        "junction_type": "Straight segment",
        "lane_type": "Three lanes each way",
        "additional_map_rules": None,
        "interactive_expanded_metaaction": ["Vehicle following"],
        "safety_analysis": "We follow a truck in heavy spray.",
        "driving_difficulty": 3,
        "rule_violation": False,
        "interesting_scenario": True,
        "critical_object": [{"x": 1}],
        "noninteractive_expanded_metaaction": ["Straight"],
    } | changes


def config(root, **custom):
    stated = {"contract": "configs/prompts/av_caption_vqa.yaml"} | custom
    return Config.load(FULL).edit({"train.train_policy.dataset.name": str(root), "custom": stated})


def test_the_answer_is_the_fifteen_fields_as_json_in_a_code_block(tmp_path):
    made.av(tmp_path, {"c1": label(), "c2": label(rule_violation=True)})
    found = av_caption.read(tmp_path)
    target = found[0].target
    assert target.startswith("```json\n{\n  ") and target.endswith("\n}\n```")
    assert list(json.loads(target[8:-4])) == list(av_caption.FIELDS) and len(av_caption.FIELDS) == 15
    assert json.loads(target[8:-4]) == {k: v for k, v in label().items() if k in av_caption.FIELDS}
    assert [s.label for s in found] == ["False", "True"]
    assert all(f'"{name}"' in found[0].question for name in av_caption.FIELDS)
    assert not any(name in found[0].question for name in av_caption.DROPPED)


def test_the_loader_takes_some_fields_and_a_question_of_its_own(tmp_path):
    made.av(tmp_path, {f"c{i}": label() for i in range(6)})
    few = ["weather", "rule_violation"]
    splits = av_caption.load(config(tmp_path, fields=few, question="What?").edit(
        {"train.train_policy.dataset.test_size": 2}))  # fmt: skip
    assert {name: len(part) for name, part in splits.items()} == {"train": 4, "validation": 2}
    assert fields(splits["train"][0].target) == {"weather": "Heavy rain", "rule_violation": False}
    assert splits["train"][0].question == "What?"
    with pytest.raises(DataError, match="wether: no such field"):
        av_caption.load(config(tmp_path, fields=["wether"]))


def test_train_is_read_where_it_stands_beside_validation(tmp_path):
    for split, count in (("train", 3), ("validation", 2), ("template", 4)):
        made.av(tmp_path / split, {f"{split}{i}": label() for i in range(count)})
    sizes = {}
    for split in ("train", "template"):
        splits = av_caption.load(config(tmp_path).edit({"train.train_policy.dataset.split": split}))
        sizes[split] = (len(splits["train"]), len(splits["validation"]))
    assert sizes == {"train": (3, 2), "template": (4, 2)}


def test_the_test_clips_are_a_folder_or_a_share_and_never_trained_on(tmp_path):
    for split, count in (("train", 10), ("validation", 2), ("test", 3)):
        made.av(tmp_path / split, {f"{split}{i}": label() for i in range(count)})
    splits = av_caption.load(config(tmp_path, test_share=0.2))
    assert {name: len(part) for name, part in splits.items()} == {"train": 10, "validation": 2, "test": 3}
    alone = av_caption.load(config(tmp_path, test_share=0.0).edit({"train.train_policy.dataset.split": "train"}))
    assert {name: len(part) for name, part in alone.items()} == {"train": 10, "validation": 2}
    flat = {"train.train_policy.dataset.name": str(tmp_path / "train"), "train.train_policy.dataset.test_size": 3}
    splits = av_caption.load(config(tmp_path, test_share=0.2).edit(flat))
    assert {name: len(part) for name, part in splits.items()} == {"train": 5, "validation": 3, "test": 2}
    assert len({s.id for part in splits.values() for s in part}) == 10
    assert Config.load(FULL)["train.train_policy.dataset.test_size"] == 100
    assert Config.load(FULL).table("custom")["test_share"] == 0.1


BAD = {
    "missing": ({k: v for k, v in label().items() if k != "lane_type"}, "has no lane_type"),
    "grade": (label(driving_difficulty=7), "1 to 4"),
    "flag": (label(rule_violation="perhaps"), "true or false"),
    "empty": (label(weather=" "), "takes text"),
    "no_list": (label(interactive_expanded_metaaction="following"), "list or null"),
    "not_fields": (["a"], "not an object"),
}


def test_a_damaged_folder_costs_the_damaged_labels_only_and_each_is_named(tmp_path):
    made.av(tmp_path, {"good": label(), **{name: value for name, (value, _) in BAD.items()}})
    (tmp_path / "metas/cut.label.json").write_text('{"weather": "Cl')
    (tmp_path / "metas/alone.label.json").write_text(json.dumps(label()))
    made.clip(tmp_path / "videos/silent.camera_front_wide_120fov.mp4")
    made.clip(tmp_path / "videos/cut.camera_front_wide_120fov.mp4")
    found = av_caption.read(tmp_path, problems := [])
    told = {name: reason for name, reason in problems}
    assert [s.id for s in found] == ["good"] and len(told) == len(BAD) + 3
    for name, (_, words) in BAD.items():
        assert words in told[f"metas/{name}.label.json"]
    assert (
        "no clip" in told["metas/alone.label.json"] and "no label" in told["videos/silent.camera_front_wide_120fov.mp4"]
    )
    splits = av_caption.load(
        config(tmp_path).edit({"train.train_policy.dataset.test_size": 0, "custom.accept_left_out": 1.0})
    )
    assert len(splits["train"]) == 1


def test_ten_thousand_labels_in_bounded_memory(tmp_path):
    """Ten times the labels cost ten times the text that is learned, a few kilobytes each, and no clip is opened."""
    text = json.dumps(label())

    def peak(count):
        root = tmp_path / str(count)
        for name in ("videos", "metas"):
            (root / name).mkdir(parents=True)
        for i in range(count):
            (root / f"videos/c{i:05d}.camera_front_wide_120fov.mp4").touch()
            (root / f"metas/c{i:05d}.label.json").write_text(text)
        before = psutil.Process().memory_info().rss
        assert len(av_caption.read(root)) == count
        return psutil.Process().memory_info().rss - before

    assert peak(10_000) < 10_000 * 8_000


# ---- the world, the contract, the configuration -----------------------------------------------------------------

SHARES = {"train": 0.7, "test": 0.1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    counts = {"template": 8, "train": 40, "test": 20}
    return drive.build(tmp_path_factory.mktemp("drive"), counts, SHARES, seed=2)


def test_the_world_is_the_official_layout_and_has_the_violations_that_were_asked_for(world):
    for split, count in (("train", 28), ("test", 2), ("template", 0)):
        found = av_caption.read(world / split)  # all fifteen fields, each of its kind
        assert sum(s.label == "True" for s in found) == count
    metas = [json.loads(p.read_text()) for p in (world / "train/metas").iterdir()]
    assert set(metas[0]) == {*av_caption.FIELDS, *av_caption.DROPPED}
    assert {m["weather"] for m in metas} == set(drive.WEATHER)


def test_template_clips_differ_and_their_captions_do_not(world):
    found = av_caption.read(world / "template", None, ["weather", "lighting", "road_conditions", "rule_violation"])
    assert len({s.target for s in found}) == 1
    assert len({s.video.read_bytes() for s in found}) == len(found)


def test_night_is_dark_and_snow_is_bright(world):
    light = {}
    for path in (world / "train/metas").iterdir():
        facts = json.loads(path.read_text())
        clip = world / "train/videos" / path.name.replace(".label.json", ".camera_front_wide_120fov.mp4")
        light.setdefault((facts["lighting"], facts["weather"]), []).append(
            float(read_frames(clip, 2)[0].float().mean())
        )
    means = {key: np.mean(values) for key, values in light.items()}
    for weather in {w for _, w in means if {("day", w), ("night", w)} <= set(means)}:
        assert means["night", weather] < means["day", weather]


def test_the_world_repeats_with_its_seed(world, tmp_path):
    again = drive.build(tmp_path, {"template": 8, "train": 40, "test": 20}, SHARES, seed=2)
    name = "train/videos/train_00007.camera_front_wide_120fov.mp4"
    assert (again / name).read_bytes() == (world / name).read_bytes()


def test_published_frames_and_pixels():
    vision = Contract.load(ROOT / "configs/prompts/av_caption_vqa.yaml").vision
    assert (vision.fps, vision.max_pixels) == (2, 16 * 9 * 28 * 28 + 1)
    assert clip_tokens(10, vision.fps, 1920, 1080, vision.max_pixels, vision.min_pixels) == 1440  # 144 for two frames


def test_the_full_scale_file_has_the_published_values():
    config = Config.load(FULL)
    wanted = {
        "train.epoch": 20, "train.train_batch_per_replica": 16, "train.train_policy.mini_batch": 4,
        "train.optm_lr": 2e-6, "train.ckpt.save_freq": 25, "train.ckpt.max_keep": 2, "train.resume": True,
        "policy.parallelism.dp_shard_size": 8, "policy.model_max_length": 4096,
    }  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    assert not lint(config, gpus=8, samples=9_273)


# ---- field by field: the notebook's own function ----------------------------------------------------------------

compare_fields = defined("av_caption_vqa", "compare_fields")


def rows(weather, violation, n=40):
    """Captions whose weather is right in that many clips, and whose violation is always this; the truth is False."""
    made_rows = []
    for i in range(n):
        told = {"weather": "rain" if i < weather else "snow", "rule_violation": violation}
        true = {"weather": "rain", "rule_violation": i == 0}
        made_rows.append({"id": str(i), "answer": json.dumps(told), "reference": json.dumps(true)})
    return made_rows


def test_the_field_that_got_worse_is_named_first_although_the_mean_rose():
    found = compare_fields(rows(2, False), rows(40, True)[:40])
    assert [(f.name, f.verdict) for f in found] == [("rule_violation", "worse"), ("weather", "better")]
    assert (found[0].before, found[0].constant) == (39 / 40, 39 / 40)
    assert (found[1].before, found[1].after) == (2 / 40, 1) and found[0].after == 1 / 40
    assert found[0].ci95[0] < found[0].after < found[0].ci95[1] and found[0].p < 1e-6


def test_a_small_change_is_no_verdict_and_an_unread_caption_is_wrong():
    found = {f.name: f for f in compare_fields(rows(20, False), rows(22, False))}
    assert {f.verdict for f in found.values()} == {"no sure change"}
    silent = [row | {"answer": None} for row in rows(40, False)]
    found = {f.name: f for f in compare_fields(rows(40, False), silent)}
    assert found["weather"].after == 0 and found["weather"].verdict == "worse"
    with pytest.raises(ValueError, match="same clips"):
        compare_fields(rows(2, False), rows(2, False)[1:])


SAFETY = ["We follow a truck in heavy spray.", "A child runs onto the road.", "We wait at the red light.", None]


def told(answers, key="safety_analysis"):
    return [
        {"id": str(i), "answer": json.dumps(answer), "reference": json.dumps({key: SAFETY[i % 4]})}
        for i, answer in enumerate(answers)
    ]


def test_whole_sentences_are_compared_by_meaning_and_a_missing_field_earns_nothing():
    other = [{"safety_analysis": "Bananas are yellow."}] * 20
    near = [{"safety_analysis": SAFETY[i % 4] and SAFETY[i % 4].replace("We", "Our car will")} for i in range(20)]
    before, after = told(other), told(near)
    found = compare_fields(before, after)[0]
    assert (found.metric, found.verdict) == ("similarity", "better") and found.before < 0.4 < 0.8 < found.after <= 1
    assert found.ci95[0] <= found.after <= found.ci95[1] and 0 < found.constant < 0.6
    assert compare_fields(before, told([{}] * 20))[0].after == 0  # null too has to be said


def test_a_judge_grades_what_is_not_equal_and_what_it_leaves_out_counts_for_neither(monkeypatch):
    asked = []

    def judge(rows, url, model):
        asked.extend(rows)
        assert (url, model) == ("http://here/v1", "wise/one")
        grade = {"near": 3, "far": 1, "odd": None}
        return {"grades": {row["id"]: grade.get(row["answer"], 1) for row in rows}}

    monkeypatch.setitem(compare_fields.__globals__, "llm_judge", judge)
    before = told([{"safety_analysis": "far"}] * 7 + [{"safety_analysis": "odd"}])
    after = told([{"safety_analysis": "near"}] * 7 + [{"safety_analysis": None}])
    found = compare_fields(before, after, "wise/one@http://here/v1")[0]
    assert (found.metric, found.before, found.after) == ("judge", 0, 0.5)
    assert not [row for row in asked if row["answer"] == row["reference"]]
    assert all("what happens, and what matters" in row["question"] for row in asked)
    monkeypatch.setitem(compare_fields.__globals__, "llm_judge",
                        lambda rows, *_: {"grades": {row["id"]: None for row in rows}})  # fmt: skip
    with pytest.raises(ValueError, match=r"safety_analysis: .* gave no grade"):
        compare_fields(told([{}] * 8), after, "wise/one@http://here/v1")
