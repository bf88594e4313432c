"""A toy junction, seen by a camera high above it: signal, weather, pedestrians, and one vehicle that drives through.

Why: WTS must be asked for, and its clips are long. Here a seeded script decides what the camera sees, draws it, and
writes WTS's own layout with multiple choice about each fact, so that `data_tools/wts_vqa.py` reads both.

    python -m data_tools.worlds.junction OUT --train 300 --val 100 --seed 0
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_tools.worlds import build_world, command_line, drawing

VERSION = 3  # raise it when the same seed gives other clips
FRAMES, FPS, SIZE = 8, 2, 112
SPLITS = ("train", "val")

SIGNALS = {"red": (255, 45, 40), "yellow": (255, 220, 60), "green": (50, 230, 90), "none": None}
WEATHER = {"clear": (96, 128, 80), "rain": (58, 70, 96), "snow": (226, 230, 236), "dust": (190, 150, 96)}
RELATIONS = {  # how vehicle and pedestrian move, and the pedestrian's way when the vehicle goes to the right
    "their paths cross": (0, 1),
    "they move the same way": (1, 0),
    "they move in opposite ways": (-1, 0),
    "only one of them moves": (0, 0),
}
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
QUESTIONS = {
    "signal": "What does the signal show?",
    "weather": "What is the weather?",
    "pedestrians": "How do the pedestrian and the vehicle move?",
    "vehicle": "Which way does the vehicle move?",
}
OPTIONS = {"signal": SIGNALS, "weather": WEATHER, "pedestrians": RELATIONS, "vehicle": DIRECTIONS}
CORNERS = ((0.14, 0.14), (0.86, 0.14), (0.14, 0.86), (0.86, 0.86))


def plan(rng: np.random.Generator) -> dict[str, str]:
    """Returns the facts of one clip: {task: answer}."""
    return {task: str(rng.choice(list(names))) for task, names in OPTIONS.items()}


def render(facts: Mapping[str, str], rng: np.random.Generator) -> np.ndarray:
    """Draw one clip. Returns frames (8, 112, 112, 3) uint8; the look varies with rng, the facts do not."""
    ground = np.array(WEATHER[facts["weather"]], float) + rng.uniform(-8, 8, 3)
    base = drawing.background(SIZE, ground, rng, rng.uniform(0, 4))
    asphalt = (ground + 3 * np.full(3, rng.uniform(90, 115))) / 4
    drawing.box(base, 0.5, 0.5, 1.2, 0.36, asphalt)
    drawing.box(base, 0.5, 0.5, 0.36, 1.2, asphalt)
    lamp, color = CORNERS[rng.integers(4)], SIGNALS[facts["signal"]]
    if color:
        drawing.box(base, *lamp, 0.19, 0.19, (30, 30, 34))
        drawing.disc(base, *lamp, 0.075, color)
    way = np.array(DIRECTIONS[facts["vehicle"]], float)
    paint = drawing.COLORS[str(rng.choice(["red", "blue", "yellow", "white", "purple", "orange"]))]
    far, side = rng.uniform(0.5, 0.66), rng.choice([-0.07, 0.07])
    long, wide = rng.uniform(0.2, 0.25), rng.uniform(0.12, 0.15)
    size = (long, wide) if way[0] else (wide, long)
    ahead, across = RELATIONS[facts["pedestrians"]]
    walk = ahead * way + across * rng.choice([-1, 1]) * np.abs(way[::-1])
    start = 0.5 + (0.28 * rng.choice([-1, 1]) * np.abs(way[::-1]) if not across else -0.26 * way)
    frames = []
    for t in np.linspace(-0.5, 0.5, FRAMES):
        image = base.copy()
        drawing.disc(image, *(start + 0.6 * t * walk), 0.07, (245, 130, 190))
        x, y = 0.5 + far * t * way + side * np.abs(way[::-1])
        drawing.box(image, x, y, *size, paint)
        frames.append(image)
    return drawing.to_uint8(frames)


def question_rows(facts: Mapping[str, str], kinds: Sequence[str], rng: np.random.Generator) -> list[dict[str, str]]:
    """Returns the questions of these kinds as WTS has them: {question, a, b, c, d, correct}, options shuffled."""
    found = []
    for task in kinds:
        names = [str(name) for name in rng.permutation(list(OPTIONS[task]))]
        right = "abcd"[names.index(facts[task])]
        found.append({"question": QUESTIONS[task], **dict(zip("abcd", names)), "correct": right})
    return found


def build(out: Path, counts: Mapping[str, int], seed: int = 0, kinds: Sequence[str] = tuple(QUESTIONS)) -> Path:
    """Write `out/annotations` and `out/videos`, with questions of these kinds. Returns `out`. Raises KeyError."""

    def write(out: Path, split: str, count: int) -> str:
        streams = np.random.default_rng([seed, SPLITS.index(split)]).spawn(count)
        for number, rng in enumerate(streams):
            scene = f"{split}_{number:05d}"
            labels = out / "annotations" / "vqa" / split / scene / "environment"
            clips = out / "videos" / split / scene / "overhead_view"
            for folder in (labels, clips):
                folder.mkdir(parents=True)
            facts = plan(rng)
            drawing.write_mp4(clips / f"{scene}_c1.mp4", render(facts, rng), FPS)
            asked = question_rows(facts, kinds, rng)
            entry = {"id": scene, "overhead_videos": [f"{scene}_c1.mp4"], "environment": asked}
            (labels / f"{scene}.json").write_text(json.dumps([entry], indent=1))
        return f"{count} clips"

    return build_world(out, VERSION, counts, seed, write, kinds=list(kinds))


if __name__ == "__main__":
    args = command_line(__doc__, dict(zip(SPLITS, (300, 100))))
    build(args.out, args.counts, args.seed)
