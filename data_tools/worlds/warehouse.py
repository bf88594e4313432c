"""A toy warehouse: pictures of a floor with a shelf and pallets, and spatial questions whose answers are known.

Why: the PhysicalAI warehouse data is 95,000 pictures behind a download of many gigabytes. A seeded script places the
pallets, so distances, counts and sides are exact, and writes the same files: `train.json`, `val.json`, `test.json`
(LLaVA turns with `<mask>`, COCO run lengths in `rle`, `category`, `normalized_answer`) and `train/images/*.png`.

    python -m data_tools.worlds.warehouse OUT --train 600 --val 40 --test 150 --seed 0

`data_tools.warehouse_vqa` converts it as it converts the real one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.region_masks import encode
from data_tools.worlds import build_world, command_line, drawing

VERSION = 1  # raise it when the same seed gives other pictures
SIZE, METRES = 112, 10.0  # pixels and metres a side
SPLITS = ("train", "val", "test")
CATEGORIES = ("left_right", "count", "mcq", "distance")
SHELF_DEPTH = 0.16  # the shelf stands along the upper wall
WOOD = (215, 150, 75)


@dataclass(frozen=True)
class Thing:
    """A box on the floor, from above: its centre and sides in unit coordinates."""

    x: float
    y: float
    width: float
    height: float

    def mask(self) -> np.ndarray:
        at = (np.arange(SIZE) + 0.5) / SIZE
        return np.outer(abs(at - self.y) < self.height / 2, abs(at - self.x) < self.width / 2)


SHELF = Thing(0.5, SHELF_DEPTH / 2, 0.96, SHELF_DEPTH)


def place(count: int, rng: np.random.Generator) -> list[Thing]:
    """Returns pallets in different bays of the free floor (three columns, two rows), each a little off its middle."""
    pallets = []
    for bay in rng.choice(6, count, replace=False).tolist():
        x, y = 0.19 + 0.31 * (bay % 3) + rng.uniform(-0.03, 0.03), 0.38 + 0.37 * (bay // 3) + rng.uniform(-0.05, 0.05)
        pallets.append(Thing(x, y, *rng.uniform(0.23, 0.27, 2)))
    return pallets


def render(pallets: list[Thing], rng: np.random.Generator) -> np.ndarray:
    """Draw the floor. Returns (SIZE, SIZE, 3) uint8; the light varies, the places do not."""
    image = drawing.background(SIZE, rng.uniform(105, 150) + rng.uniform(-8, 8, 3), rng, rng.uniform(0, 4))
    drawing.box(image, SHELF.x, SHELF.y, SHELF.width, SHELF.height, (70, 74, 84))
    for x in np.linspace(0.1, 0.9, 6):
        drawing.box(image, x, SHELF.y, 0.09, SHELF.height * 0.6, rng.uniform(90, 150) + np.zeros(3))
    for t in pallets:
        wood = np.array(WOOD) * rng.uniform(0.9, 1.15)
        drawing.box(image, t.x, t.y, t.width, t.height, wood)
        for side in (-1, 0, 1):
            drawing.box(image, t.x, t.y + side * t.height * 0.3, t.width, t.height * 0.06, wood * 0.8)
    return drawing.to_uint8([image])[0]


def plan(category: str, rng: np.random.Generator) -> tuple[list[Thing], list[Thing], str, str, str]:
    """Returns (pallets, regions, question, normalized answer, free answer) of one picture without a doubtful case."""
    while True:
        if category == "count":
            pallets = place(int(rng.integers(1, 5)), rng)
            question = "How many pallets are in front of the shelf <mask>?"
            return pallets, [SHELF], question, str(len(pallets)), f"There are {len(pallets)}."
        pallets = place(3 if category == "mcq" else 2, rng)
        a, b = pallets[:2]
        if category == "left_right" and abs(a.x - b.x) > 0.5:
            side = "left" if a.x < b.x else "right"
            question = "Is the pallet <mask> left or right of the pallet <mask>?"
            return pallets, [a, b], question, side, f"It stands to the {side}."
        if category == "distance":
            away = f"{METRES * a.y:.1f}"
            question = "How far is the pallet <mask> from the wall behind the shelf?"
            return pallets, [a], question, away, f"It is {away} metres away."
        if category == "mcq":
            order = sorted(range(3), key=lambda i: pallets[i].y)
            if pallets[order[1]].y - pallets[order[0]].y > 0.2:
                question = "Which of the pallets <mask>, <mask>, <mask> is nearest to the shelf?"
                return pallets, pallets, question, str(order[0]), f"Region {order[0]} is."


def build(out: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Write the world: as many pictures a split as `counts` says, categories in equal parts. Returns `out`."""

    def write(out: Path, split: str, count: int) -> str:
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        images = out / split / "images"
        images.mkdir(parents=True)
        rows = [_row(number, split, seed, images, rng) for number in range(count)]
        (out / f"{split}.json").write_text(json.dumps(rows, indent=1))
        return f"{count} pictures"

    return build_world(out, VERSION, counts, seed, write, size=SIZE)


def _row(number: int, split: str, seed: int, images: Path, rng: np.random.Generator) -> dict:
    category = CATEGORIES[number % len(CATEGORIES)]
    pallets, regions, question, answer, free = plan(category, rng)
    name = f"{number:06d}.png"
    Image.fromarray(render(pallets, rng)).save(images / name)
    return {
        "id": hashlib.sha256(f"{split} {seed} {number}".encode()).hexdigest()[:16],
        "image": name,
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": free}],
        "rle": [encode(region.mask()) for region in regions],
        "category": category,
        "normalized_answer": answer,
        "freeform_answer": free,
    }


if __name__ == "__main__":
    args = command_line(__doc__, dict(zip(SPLITS, (600, 40, 150))))
    build(args.out, args.counts, args.seed)
