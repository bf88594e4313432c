"""Region masks of a picture: read and write COCO run lengths, and draw them as numbered marks.

Why: spatial questions name regions ("<mask>"), which a model cannot point at. Drawn on a second picture, each with a
number and a colour of its own, they can be named in words: "Region 2" (set-of-mark prompting, arXiv:2310.11441). The
colour belongs to the number, in every picture, so that it can be learned.

    mask = decode({"size": [1080, 1920], "counts": "…"})     # (height, width) bool; pycocotools is not needed
    marked = draw_marks(picture, [mask, other])              # a new picture
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from cookbook.data.samples import DataError

COLORS = {  # RGB of marks 0, 1, 2, …; then again
    "red": (214, 40, 40),
    "blue": (45, 85, 225),
    "yellow": (240, 205, 40),
    "purple": (150, 50, 190),
    "orange": (245, 130, 25),
    "pink": (245, 130, 190),
    "white": (246, 246, 246),
    "black": (18, 18, 18),
}
FONT = cache(ImageFont.load_default)
LARGEST = 100_000_000  # pixels; a damaged size must not ask for all memory


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """Returns the mask (height, width) bool of COCO's run lengths, as text or as a list of numbers.

    Runs go down the columns, first those outside. Raises DataError where they do not fill the size exactly.
    """
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, Mapping) else (None, None)
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
        raise DataError(f"the mask's size is {size!r}; it is [height, width]")
    height, width = size
    if height * width > LARGEST:
        raise DataError(f"the mask has {height} × {width} pixels; {LARGEST:,} are the most")
    runs = _numbers(counts) if isinstance(counts, str | bytes) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise DataError("the mask's counts are neither COCO's text nor a list of lengths")
    if sum(runs) != height * width:
        raise DataError(f"the mask's runs cover {sum(runs)} pixels of {height} × {width}; the file is damaged")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _numbers(text: str | bytes) -> list[int]:
    """Returns the run lengths of COCO's text: five bits a character, from the third on as differences to two before."""
    codes = (text.encode("ascii", "replace") if isinstance(text, str) else text).strip()
    found: list[int] = []
    value = shift = 0
    for code in codes:
        code -= 48
        if not 0 <= code < 64 or shift > 30:
            raise DataError("the mask's counts hold a character that COCO's text does not have")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # the sign of the last five bits
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError("the mask's counts end in the middle of a number; the file is damaged")
    return found


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Returns a mask (height, width) as COCO's run lengths: {"size": [height, width], "counts": text}."""
    flat = np.concatenate([[False], np.asarray(mask, bool).T.reshape(-1)])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], ends, [flat.size - 1]])).tolist()
    text = []
    for i, run in enumerate(runs):
        value = run - (runs[i - 2] if i > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text.append(chr(bits + 48 + (0 if done else 32)))
            if done:
                break
    return {"size": list(mask.shape), "counts": "".join(text)}


def draw_marks(picture: Image.Image, masks: Sequence[np.ndarray]) -> Image.Image:
    """Returns the picture with each mask tinted, outlined and numbered from 0, in the colour of its number.

    A mask of another size is stretched. Raises DataError for an empty one: nobody could see that region.
    """
    pixels = np.asarray(picture.convert("RGB"), np.float32).copy()
    places = []
    for number, mask in enumerate(masks):
        inside, (y, x) = _fit(mask, picture.size, number)
        color = np.array(list(COLORS.values())[number % len(COLORS)], np.float32)
        part = pixels[y : y + inside.shape[0], x : x + inside.shape[1]]
        part[inside] += 0.5 * (color - part[inside])
        part[inside & ~ndimage.binary_erosion(inside, iterations=max(1, min(picture.size) // 300))] = color
        places.append(tuple(np.add((x, y), _deepest(inside)).tolist()))
    marked = Image.fromarray(pixels.astype(np.uint8))
    draw, font = ImageDraw.Draw(marked), FONT(size=max(10, min(picture.size) // 22))
    for number, place in enumerate(places):
        draw.text(place, str(number), anchor="mm", font=font, fill="white", stroke_width=2, stroke_fill="black")
    return marked


def _fit(mask: np.ndarray, size: tuple[int, int], number: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns the part of the mask that is not empty, in the picture's size, and its upper left corner (y, x)."""
    if (mask.shape[1], mask.shape[0]) != size:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise DataError(f"the mask of region {number} is empty")
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(rows[0]), int(columns[0]))


def _deepest(mask: np.ndarray) -> tuple[float, float]:
    """Returns (x, y) of the place farthest from the mask's edge: in it, where the middle of a bent region is not."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.argwhere(depth >= depth.max() - 0.5).mean(0)  # of a bar, the middle of its spine
    if not mask[int(y), int(x)]:
        y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x) + 0.5, float(y) + 0.5
