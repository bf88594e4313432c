"""A toy road through a camera: boxy vehicles on three lanes, drawn from 3D boxes that are known exactly.

Why: the drives of the published recipe are not public. A seeded script places cars and trucks, draws them as a pinhole
camera sees them, and writes the same files: `meta.json`, `images/ID.jpg`, and `text/ID.json` with the camera and the
boxes. Places and sizes are whole metres, so that few digits say them exactly.

    python -m data_tools.worlds.lanes OUT --train 600 --test 100 --seed 0
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cookbook.evaluation.metrics.boxes import Box, corners
from data_tools.worlds import build_world, command_line

VERSION = 1  # raise it when the same seed gives other pictures
SPLITS = ("train", "validation", "test")
SIZE, FINE = 112, 4  # pixels a side; drawn so many times as large
CAMERA = {"fx": 72.0, "fy": 80.0, "cx": 56.0, "cy": 60.0}
HEIGHT = 2  # metres of the camera above the road: y is down, so the road is at 2
LANES, AHEAD = (-3, 0, 3), (5, 6, 8, 10, 13)
VEHICLES = {"car": (2, 2, 4), "truck": (2, 4, 6)}  # label: width, height, length
GROUNDS = (150, 185, 230), (86, 120, 76), (96, 96, 100)  # sky, grass, tar
PAINTS = np.array([(230, 50, 40), (250, 210, 40), (245, 245, 245), (50, 90, 230)])
FACES = ([0, 2, 6, 4], [0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [1, 3, 7, 5])  # of `corners`: back, sides, roof, front


def plan(rng: np.random.Generator, most: int = 1) -> list[Box]:
    """Returns the vehicles of one picture, at most so many, each on a lane of its own."""
    lanes = rng.permutation(LANES)[: rng.integers(1, most + 1)].tolist()
    found = []
    for x in lanes:
        label, z = str(rng.choice(list(VEHICLES))), int(rng.choice(AHEAD))
        width, height, length = VEHICLES[label]
        found.append((label, [x, HEIGHT - height // 2, z + length // 2, width, height, length, 0, 0, 0]))
    return found


def render(vehicles: Sequence[Box], rng: np.random.Generator) -> Image.Image:
    """Draw the road and the vehicles, the far ones first."""
    side = SIZE * FINE
    sky, grass, tar = (tuple((np.array(paint) + rng.integers(-20, 21, 3)).tolist()) for paint in GROUNDS)
    picture = Image.new("RGB", (side, side), sky)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, CAMERA["cy"] * FINE, side, side), fill=grass)
    draw.polygon(_seen([[x, HEIGHT, z] for x, z in ((-5, 2), (-5, 300), (5, 300), (5, 2))]), fill=tar)
    for x in (-1.5, 1.5):
        for z in np.arange(2, 40, 4):
            stripe = [[x + dx, HEIGHT, z + dz] for dx, dz in ((-0.1, 0), (-0.1, 2), (0.1, 2), (0.1, 0))]
            draw.polygon(_seen(stripe), fill=(225, 225, 225))
    for _, values in sorted(vehicles, key=lambda vehicle: -vehicle[1][2]):
        paint, at = PAINTS[rng.integers(len(PAINTS))] * rng.uniform(0.8, 1), corners(values)
        faces = sorted((at[face] for face in FACES), key=lambda face: -np.linalg.norm(face.mean(0)))
        for face in faces:
            light = 1.0 if np.ptp(face[:, 1]) == 0 else 0.8 if np.ptp(face[:, 2]) == 0 else 0.5
            draw.polygon(_seen(face), fill=tuple((paint * light).astype(int).tolist()), outline=(20, 20, 24))
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def _seen(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Returns where the camera sees points, in pixels of the large picture."""
    return [(FINE * (CAMERA["fx"] * x / z + CAMERA["cx"]), FINE * (CAMERA["fy"] * y / z + CAMERA["cy"]))
            for x, y, z in points]  # fmt: skip


def build(out: Path, counts: Mapping[str, int], seed: int = 0, most: int = 1) -> Path:
    """Write `out/SPLIT` in the published layout, as many pictures a split as `counts` says. Returns `out`."""

    def write(out: Path, split: str, count: int) -> str:
        rng, entries = np.random.default_rng([seed, SPLITS.index(split)]), []
        for folder in ("images", "text"):
            (out / split / folder).mkdir(parents=True)
        for number in range(count):
            name, vehicles = f"{split}_{number:06d}", plan(rng, most)
            entries.append({"id": name, "media": f"images/{name}.jpg", "text": f"text/{name}.json"})
            render(vehicles, rng).save(out / split / entries[-1]["media"], quality=95)
            told = {"frame_id": number, "camera": "camera_front", "camera_params": CAMERA,
                    "annotations": [{"label": label, "bbox_3d": values} for label, values in vehicles]}  # fmt: skip
            (out / split / entries[-1]["text"]).write_text(json.dumps(told, indent=1))
        (out / split / "meta.json").write_text(json.dumps(entries, indent=1))
        return f"{count} pictures"

    return build_world(out, VERSION, counts, seed, write, most=most)


if __name__ == "__main__":
    args = command_line(__doc__, dict(zip(SPLITS, (600, 0, 100))), most={"type": int, "default": 1})
    build(args.out, args.counts, args.seed, args.most)
