"""A toy drive seen from above, with the structured caption that a driving dataset has: fifteen fields a clip.

Why: the published recipe trains on 9,273 clips that only its makers have. Here a seeded script decides weather, light,
signal, junction and what the car does, draws it, and writes the same folder: `videos/ID.camera_front_wide_120fov.mp4`
and `metas/ID.label.json`, with the fifteen fields and the two that the recipe drops.

    python -m data_tools.worlds.drive OUT --train 400 --test 120 --violations 0.5 0.05

A *violation* is a car that is faster than the limit on a road like any other: nothing in the picture shouts it. How
often it happens is a parameter of each split, because it is what curated training sets get wrong. In the split
`template` every clip has the same example caption: it teaches the form of the answer, and nothing about clips.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.worlds import build_world, command_line, drawing

VERSION = 1  # raise it when the same seed gives other clips
FRAMES, FPS, SIZE = 8, 2, 112
SPLITS = ("template", "train", "validation", "test")
EXAMPLE = {"weather": "clear", "lighting": "day", "violation": False}  # what every caption of `template` says

WEATHER = ("clear", "rain", "snow", "fog")
LIGHTING = {"day": 1.0, "night": 0.5}
SIGNALS = {"red": (255, 45, 40), "green": (50, 230, 90)}


def plan(rng: np.random.Generator, violation: bool) -> dict:
    """Returns what one clip shows. Who breaks the rule goes straight on, a little faster than most."""
    signal = [None, "green", "red"][rng.integers(2 if violation else 3)]  # who speeds does not stop at a signal
    usual = ("stop", "waits") if signal == "red" else ("straight", "straight", "stop")
    action = "straight" if violation else str(rng.choice(usual))
    return {
        "weather": str(rng.choice(WEATHER)),
        "lighting": str(rng.choice(list(LIGHTING))),
        "signal": signal,
        "junction": bool(rng.integers(2)),
        "color": str(rng.choice(["red", "blue", "yellow", "white"])),
        "action": action,
        "violation": violation,
        "speed": rng.uniform(0.52, 0.68) if violation else rng.uniform(0.44, 0.62),
    }


def label_fields(facts: Mapping) -> dict:
    """Returns the label of a clip: the fifteen fields, and the two that the recipe drops."""
    signal, wet = facts["signal"], {"clear": "dry", "rain": "wet", "snow": "snow", "fog": "dry"}[facts["weather"]]
    hard = 1 + (facts["weather"] != "clear") + (facts["lighting"] == "night") + facts["junction"]
    does = {"straight": "keeps going", "stop": "slows down and stops", "waits": "stands and waits"}[facts["action"]]
    return {
        "weather": facts["weather"],
        "lighting": facts["lighting"],
        "road_conditions": wet,
        "traffic_light": signal or "none",
        "traffic_sign": "speed limit",
        "additional_traffic_rules": None,
        "road_type": "street",
        "junction_type": "crossing" if facts["junction"] else "straight",
        "lane_type": "one lane each way",
        "additional_map_rules": None,
        "interactive_expanded_metaaction": [facts["action"]],
        "safety_analysis": f"The car {does}.",
        "driving_difficulty": hard,
        "rule_violation": facts["violation"],
        "interesting_scenario": facts["violation"],
        "critical_object": None,
        "noninteractive_expanded_metaaction": None,
    }


def _track(facts: Mapping) -> np.ndarray:
    t = np.linspace(0, 1, FRAMES)
    if facts["action"] == "waits":
        return np.full(FRAMES, 0.45)
    if facts["action"] == "stop":
        return 0.12 + 0.35 * np.minimum(t / 0.6, 1)
    return 0.14 + facts["speed"] * t


def render(facts: Mapping, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Draw the clip. Returns (FRAMES, size, size, 3) uint8."""
    ground = np.array([96, 128, 80], float) + rng.uniform(-12, 12, 3)
    if facts["weather"] == "snow":
        ground = np.array([225, 230, 235], float) + rng.uniform(-8, 8, 3)
    base = drawing.background(size, ground, rng, rng.uniform(0, 3))
    for _ in range(rng.integers(4, 8)):  # houses and trees, so that no two streets look the same
        at, sides = (rng.uniform(0, 1), rng.choice([0.1, 0.32, 0.9])), rng.uniform(0.12, 0.26, 2)
        drawing.box(base, *at, *sides, ground * rng.uniform(0.2, 0.7) + rng.uniform(0, 90, 3))
    road = np.array([105, 105, 110], float) * (0.75 if facts["weather"] == "rain" else 1)
    drawing.box(base, 0.5, 0.6, 1.2, 0.34, road)
    if facts["junction"]:
        drawing.box(base, 0.72, 0.5, 0.26, 1.2, road)
    for x in np.arange(rng.uniform(0, 0.1), 1, 0.16):
        drawing.box(base, x, 0.6, 0.08, 0.02, (215, 215, 215))
    if facts["signal"]:
        drawing.box(base, 0.5, 0.2, 0.2, 0.2, (30, 30, 34))
    frames, side = [], rng.uniform(0.65, 0.71)
    for x in _track(facts):
        image = base.copy()
        drawing.box(image, x, side, 0.2, 0.12, drawing.COLORS[facts["color"]])
        image *= LIGHTING[facts["lighting"]]
        if facts["signal"]:  # a lamp shines at night too
            drawing.disc(image, 0.5, 0.2, 0.08, SIGNALS[facts["signal"]])
        frames.append(_weather(image, facts["weather"], rng))
    return drawing.to_uint8(frames)


def _weather(image: np.ndarray, weather: str, rng: np.random.Generator) -> np.ndarray:
    if weather == "fog":
        return image + 0.35 * (190 - image)
    if weather in ("rain", "snow"):
        for x, y in rng.uniform(0, 1, (40, 2)):
            streak, color = ((0.012, 0.09), (150, 170, 230)) if weather == "rain" else ((0.03, 0.03), (250, 250, 250))
            drawing.box(image, x, y, *streak, color)
    return image


def build(out: Path, counts: Mapping[str, int], violations: Mapping[str, float], seed: int = 0) -> Path:
    """Write `out/SPLIT/videos` and `out/SPLIT/metas`, with that share of violations in each split. Returns `out`."""

    def write(out: Path, split: str, count: int) -> str:
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        videos, metas = (out / split / name for name in ("videos", "metas"))
        for folder in (videos, metas):
            folder.mkdir(parents=True)
        breaks = np.arange(count) < round(count * violations.get(split, 0.0))
        for number, violation in enumerate(rng.permutation(breaks).tolist()):
            facts, name = plan(rng, violation), f"{split}_{number:05d}"
            drawing.write_mp4(videos / f"{name}{VIDEO_SUFFIX}", render(facts, rng), FPS)
            label = label_fields(facts | (EXAMPLE if split == "template" else {}))
            (metas / f"{name}{LABEL_SUFFIX}").write_text(json.dumps(label, indent=1))
        return f"{count} clips, {breaks.sum()} with a violation"

    return build_world(out, VERSION, counts, seed, write, violations=dict(violations))


if __name__ == "__main__":
    shares = {"type": float, "nargs": 2, "default": (0.5, 0.05), "metavar": ("TRAIN", "TEST")}
    args = command_line(__doc__, dict.fromkeys(SPLITS, 0), violations=shares)
    train, test = args.violations
    build(args.out, args.counts, {"train": train, "validation": train, "test": test}, args.seed)
