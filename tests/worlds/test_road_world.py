"""The toy road world: the same seed gives the same bytes, and what a label says is what the clip shows."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest

from cookbook.data.video import read_frames
from cookbook.display.settings import read_parameters
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.worlds import drawing, road

TOUCH = 1e-6  # unit coordinates; a pixel is 0.009
FIELDS = {"video_id", "scenario", "collision", "primary_cause", "signal", "driver_color", "other_color"}
FIELDS |= {"signal_changes", "driver_maneuver", "driver_direction", "follows_rules", "caption"}
WAYS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


@pytest.fixture(scope="module")
def clips() -> list[road.Clip]:
    """800 planned clips, none of them drawn."""
    return [clip for seed in (0, 1) for clip, _ in road.plan_split("train", 400, seed)]


def digests(folder) -> dict[str, str]:
    """What every file below a folder holds, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def gaps(clip, between: int = 1) -> np.ndarray:
    """The free space between the clip's two actors, `between` times a frame; negative where they overlap."""
    at = np.linspace(0, road.FRAMES - 1, between * (road.FRAMES - 1) + 1)
    places, halves = [], []
    for actor in clip.actors:
        lines = [np.interp(at, range(road.FRAMES), line) for line in actor.xy.T]
        places.append(np.stack(lines, axis=1))
        size = (actor.width, actor.length) if actor.upright else (actor.length, actor.width)
        halves.append(np.array(size) / 2)
    return (np.abs(places[0] - places[1]) - sum(halves)).max(axis=1)


# The folder


def test_one_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    counts = {"train": 3, "test": 2}
    first = digests(road.build(tmp_path / "a", counts, seed=3))
    assert digests(road.build(tmp_path / "b", counts, seed=3)) == first
    other = digests(road.build(tmp_path / "c", counts, seed=4))
    assert other.keys() == first.keys() and not set(other.values()) & set(first.values())


def test_no_clip_stands_twice_and_none_in_two_splits(tmp_path):
    road.build(tmp_path, {"train": 8, "validation": 4, "test": 4})
    videos = [digest for name, digest in digests(tmp_path).items() if name.endswith(road.VIDEO_SUFFIX)]
    assert len(set(videos)) == len(videos) == 16


def test_the_size_of_one_split_leaves_the_others_unchanged(tmp_path):
    road.build(tmp_path / "small", {"train": 2, "test": 3})
    road.build(tmp_path / "large", {"train": 5, "test": 3})
    assert digests(tmp_path / "small/test") == digests(tmp_path / "large/test")


def test_a_smaller_world_leaves_no_old_clip_behind(tmp_path):
    road.build(tmp_path, {"train": 4})
    road.build(tmp_path, {"train": 2})
    assert [len(list((tmp_path / "train" / part).iterdir())) for part in ("videos", "metas")] == [2, 2]


def test_a_whole_world_is_left_alone_and_a_broken_off_one_is_made_again(tmp_path, monkeypatch):
    road.build(tmp_path, {"train": 2})
    whole = digests(tmp_path)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "write_mp4", fail)
        road.build(tmp_path, {"train": 2})
        with pytest.raises(OSError, match="disk full"):
            road.build(tmp_path, {"train": 3})
    assert digests(road.build(tmp_path, {"train": 2})) == whole


def test_a_clip_is_h264_with_the_frames_that_were_drawn(tmp_path):
    road.build(tmp_path, {"train": 1})
    ((clip, rng),) = road.plan_split("train", 1, seed=0)
    drawn = road.render(clip, rng)
    path = tmp_path / f"train/videos/{clip.label['video_id']}{road.VIDEO_SUFFIX}"
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    frames, rate = read_frames(path, road.FPS)
    assert frames.shape == (8, 3, 112, 112) and rate == road.FPS
    # lossy, and half the colour resolution; another clip is off by 30 and more
    assert np.abs(frames.permute(0, 2, 3, 1).numpy() - drawn.astype(float)).mean() < 5


# What happens in a clip


def test_a_collision_ends_in_contact_and_begins_without(clips):
    for clip in clips:
        if clip.label["collision"] == "yes":
            gap = gaps(clip)
            assert abs(gap[-1]) < TOUCH and gap[0] > 0.04, clip.label
            assert gap.min() > -TOUCH, f"they drive into each other: {clip.label}"


def test_without_a_collision_nothing_ever_touches(clips):
    for clip in clips:
        if clip.label["collision"] == "no":
            assert gaps(clip, between=8).min() > 0.015, clip.label


def test_the_driver_moves_as_the_label_says(clips):
    for clip in clips:
        ahead, aside = clip.actors[0].xy.T
        maneuver, along, shift = clip.label["driver_maneuver"], np.ptp(ahead), np.ptp(aside)
        assert np.diff(ahead).min() > -TOUCH, f"it drives backwards: {clip.label}"
        assert (along > 0.1) == (maneuver != "waits"), clip.label
        assert (shift > 0.04) == (maneuver == "lane_change"), clip.label
        if maneuver == "stop":
            assert np.diff(ahead)[-1] < np.diff(ahead)[0] / 2, clip.label


def test_the_rules_label_says_whether_the_driver_crossed_the_line_on_red(clips):
    asked = [clip for clip in clips if clip.label["scenario"] == "crossing"]
    assert asked and all((clip.label["follows_rules"] is None) == (clip not in asked) for clip in clips)
    for clip in asked:
        driver = clip.actors[0]
        passed = driver.xy[-1, 0] + driver.length / 2 > road.STOP_X + TOUCH
        broken = passed and clip.label["signal"] == "red"
        assert clip.label["follows_rules"] == ("no" if broken else "yes"), clip.label


def test_only_one_cause_can_be_meant(clips):
    """Where the cause is not the signal, the driver has not passed the line, so red or green does not matter."""
    for clip in clips:
        if clip.label["collision"] == "yes" and clip.label["scenario"] != "crossing":
            driver = clip.actors[0]
            front = driver.xy[-1, 0] + driver.length / 2
            assert front < road.STOP_X + 0.0125 + TOUCH, clip.label  # the paint is 0.025 wide


@pytest.mark.parametrize("seed", range(10))
def test_the_picture_shows_the_driver_going_where_the_label_says(seed):
    rng = np.random.default_rng(seed)
    clip = road.plan_clip("x", "crossing", True, rng)
    # the same look with the driver alone, and with nobody
    shown = road.render(replace(clip, actors=clip.actors[:1]), np.random.default_rng(seed))
    empty = road.render(replace(clip, actors=()), np.random.default_rng(seed))
    places = [np.argwhere((a != b).any(-1)).mean(0)[::-1] for a, b in zip(shown, empty)]
    moved = places[-1] - places[0]
    way = np.array(WAYS[clip.label["driver_direction"]])
    assert moved @ way > 20 and np.abs(moved - (moved @ way) * way).max() < 3


def test_the_signal_turns_to_its_label_once_and_as_often_early_as_late(clips):
    """Were one colour seen longer, or in the middle, where it turns to red, a frame or all in any order would tell."""
    found = {"red": Counter(), "green": Counter()}
    for clip in clips:
        turns = [i for i in range(1, road.FRAMES) if clip.lamp[i] != clip.lamp[i - 1]]
        assert clip.lamp[-1] == clip.label["signal"] and len(turns) == (clip.label["signal_changes"] == "yes")
        assert bool(turns) == (clip.label["scenario"] != "crossing")
        found[clip.label["signal"]].update(turns)
    middle = road.FRAMES // 2  # the frame of the control "single frame"
    for after, turns in found.items():
        assert set(turns) == set(road.SIGNAL_TURNS) == {road.FRAMES - turn for turn in turns}
        n = turns.total()
        assert abs(sum(turns[turn] for turn in turns if turn <= middle) - n / 2) < 4 * (n / 4) ** 0.5, (after, turns)
        assert all(abs(turns[turn] - n / 4) < 4 * (n * 3 / 16) ** 0.5 for turn in turns), (after, turns)


# Labels


def test_half_of_the_clips_collide_and_crossings_come_twice():
    labels = [clip.label for clip, _ in road.plan_split("test", 100, seed=0)]
    assert Counter(label["collision"] for label in labels) == {"yes": 50, "no": 50}
    found = Counter((label["scenario"], label["collision"]) for label in labels)
    for scenario in road.SCENARIOS:
        assert found[scenario, "yes"] == found[scenario, "no"] == (20 if scenario == "crossing" else 10)


def test_a_label_has_all_fields_with_known_values_and_survives_json(clips):
    for label in (clip.label for clip in clips):
        assert set(label) == FIELDS and json.loads(json.dumps(label)) == label
        assert label["scenario"] in road.SCENARIOS and label["driver_maneuver"] in road.MANEUVERS
        assert label["signal"] in ("red", "green") and label["driver_direction"] in WAYS
        assert label["driver_color"] in drawing.COLORS and label["driver_color"] != label["other_color"]
        assert (label["other_color"] is None) == (label["scenario"] == "debris")
        assert (label["primary_cause"] in road.CAUSES) == (label["collision"] == "yes")
        assert label["driver_color"] in label["caption"] and label["signal"] in label["caption"]


def test_every_cause_maneuver_direction_and_colour_occurs(clips):
    def found(key):
        return {clip.label[key] for clip in clips} - {None}

    assert found("primary_cause") == set(road.CAUSES)
    assert found("driver_maneuver") == set(road.MANEUVERS)
    assert found("driver_direction") == set(WAYS)
    assert found("driver_color") == found("other_color") == set(drawing.COLORS)


def test_an_unknown_scenario_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match="'roundabout'") as refusal:
        road.plan_clip("x", "roundabout", True, np.random.default_rng(0))
    assert all(scenario in str(refusal.value) for scenario in road.SCENARIOS)


def test_the_data_notebook_builds_the_world_that_every_other_step_expects():
    cells = json.loads((ROOT / "notebooks/data.ipynb").read_text())["cells"]
    (source,) = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    defaults = {name: parameter.default for name, parameter in read_parameters(source).items()}
    assert {split: defaults[f"{split}_clips"] for split in road.SPLITS} == road_vqa.CLIPS
