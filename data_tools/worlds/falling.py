"""A toy world of falling things: some clips obey gravity, others break it, and each has a score from 1 to 5.

Why: nobody can check a score that a person gave by feeling. Here a script decides how badly the physics of a clip is
broken, draws it, and writes it in the layout of VideoPhy-2, so that `data_tools/videophy2.py` reads both. As there,
the scores are skewed: most clips get a 4, and always saying 4 pays well.

    python -m data_tools.worlds.falling OUT --train 400 --test 150 --sft 300 --seed 0

The scores: 5 falls and comes to rest · 4 falls and springs back to where it was · 3 hangs in the air · 2 flies straight
across · 1 falls upwards.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_tools.videophy2 import clip_name
from data_tools.worlds import build_world, command_line, drawing

VERSION = 5  # raise it when the same seed gives other clips
FRAMES, FPS, SIZE = 8, 2, 56
FLOOR = 0.86  # where the ground begins; y points down
SPLITS = ("train", "test", "sft")
SITE = "https://clips.invalid"  # the rows name addresses, as VideoPhy-2 does; nothing is fetched from there
# Ours: the sheet of the published recipe says that "always 4" is what the policy fell into, not how many have it.
SKEWED = {5: 0.15, 4: 0.60, 3: 0.12, 2: 0.08, 1: 0.05}
EVEN = dict.fromkeys(SKEWED, 0.2)
THOUGHTS = {
    5: "It moves and then stops.",
    4: "It moves and turns back.",
    3: "It stays still.",
    2: "It moves to the side.",
    1: "It moves up.",
}


def path_of(score: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the centres (frames, 2) of the thing. Raises KeyError for no such score."""
    t = np.linspace(0, 1, FRAMES)
    high, low = rng.uniform(0.13, 0.22), FLOOR - radius
    side, across = rng.uniform(0.3, 0.7), np.linspace(*rng.permutation([0.14, 0.86]), FRAMES)
    drop = (low - high) * np.minimum(t / rng.uniform(0.6, 0.8), 1)
    x, y = {
        5: (side, high + drop),
        4: (side, high + (low - high) * (1 - np.abs(1 - 2 * t))),
        3: (side, rng.uniform(0.25, 0.5)),
        2: (across, rng.uniform(0.25, 0.5)),
        1: (side, low - drop),
    }[score]
    return np.stack(np.broadcast_arrays(x, y, t)[:2], axis=1)


def render(score: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one clip. Returns frames (8, size, size, 3) uint8; the look varies with rng, the score does not."""
    radius = rng.uniform(0.08, 0.11)
    centres = path_of(score, radius, rng)
    color = drawing.COLORS[str(rng.choice(["red", "blue", "yellow", "purple", "orange", "white"]))]
    base = drawing.background(SIZE, rng.uniform(95, 165) + rng.uniform(-25, 25, 3), rng, rng.uniform(0, 4))
    drawing.box(base, 0.5, (1 + FLOOR) / 2, 1.2, 1 - FLOOR, np.full(3, rng.uniform(40, 70)))
    frames = []
    for x, y in centres:
        image = base.copy()
        drawing.disc(image, x, y, radius, color)
        frames.append(image)
    return drawing.to_uint8(frames)


def scores(count: int, shares: Mapping[int, float], rng: np.random.Generator) -> list[int]:
    """Returns `count` scores in the stated shares, as near as whole numbers come, shuffled."""
    edges = np.round(np.cumsum(list(shares.values())) * count).astype(int)
    return rng.permutation(np.repeat(list(shares), np.diff([0, *edges]))).tolist()


def build(out: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Write `out/SPLIT.csv` (video_url, caption, pc) and `out/videos`. Returns `out`.

    Training and validation are skewed, the test is even, so that no habit pays there.
    """

    def write(out: Path, split: str, count: int) -> str:
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        drawn = scores(count, SKEWED if split == "train" else EVEN, rng)
        (out / "videos").mkdir(exist_ok=True)
        with (out / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["video_url", "caption", "pc", "thought"])
            for number, (score, own) in enumerate(zip(drawn, rng.spawn(count))):
                url = f"{SITE}/{split}/{number:05d}/clip.mp4"
                drawing.write_mp4(out / "videos" / clip_name(url), render(score, own), FPS)
                table.writerow([url, "A thing is let go in the air.", score, THOUGHTS[score] if split == "sft" else ""])
        return f"{count} clips"

    return build_world(out, VERSION, counts, seed, write)


if __name__ == "__main__":
    args = command_line(__doc__, dict(zip(SPLITS, (400, 150, 300))))
    build(args.out, args.counts, args.seed)
