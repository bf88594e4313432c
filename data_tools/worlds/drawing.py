"""Draw small moving scenes and write them as real mp4 files.

Why: the answers to our questions must be known for certain, so the clips are drawn by a script that decided
them. Shapes are anti-aliased analytically (the covered share of each pixel), so that a scene drawn at 112 pixels
and shrunk to 56 looks like the same scene drawn at 56. Used by `worlds.road` and `models/shapes_world.py`.

Coordinates are in the unit square, x to the right, y down; colours are RGB in 0..255.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_tools import region_masks

ORDER = ("red", "blue", "yellow", "white", "black", "purple", "orange", "pink")  # from which seeds draw
COLORS = {name: region_masks.COLORS[name] for name in ORDER}


def background(size: int, color, rng: np.random.Generator, grain: float) -> np.ndarray:
    """Returns a float image (size, size, 3) of one colour, with pixel noise of that standard deviation."""
    return np.full((size, size, 3), color, np.float32) + rng.normal(0, grain, (size, size, 1)).astype(np.float32)


def _cover(low: float, high: float, size: int) -> np.ndarray:
    """Returns the share of each of `size` pixels that the interval low..high (unit coordinates) covers."""
    edges = np.arange(size, dtype=np.float32)
    return np.clip(np.minimum(edges + 1, high * size) - np.maximum(edges, low * size), 0, 1)


def box(image: np.ndarray, x: float, y: float, width: float, height: float, color) -> None:
    """Paint an axis-aligned box, centred on (x, y), into the image."""
    size = len(image)
    rows, columns = _cover(y - height / 2, y + height / 2, size), _cover(x - width / 2, x + width / 2, size)
    r, c = np.flatnonzero(rows), np.flatnonzero(columns)
    if len(r) and len(c):
        part = image[r[0] : r[-1] + 1, c[0] : c[-1] + 1]
        alpha = (rows[r[0] : r[-1] + 1, None] * columns[None, c[0] : c[-1] + 1])[..., None]
        part += alpha * (np.asarray(color, np.float32) - part)


def disc(image: np.ndarray, x: float, y: float, radius: float, color) -> None:
    """Paint a disc, centred on (x, y), into the image."""
    size = len(image)
    low_x, high_x = max(0, int((x - radius) * size) - 1), min(size, int((x + radius) * size) + 2)
    low_y, high_y = max(0, int((y - radius) * size) - 1), min(size, int((y + radius) * size) + 2)
    if low_x >= high_x or low_y >= high_y:
        return
    px = np.arange(low_x, high_x, dtype=np.float32)[None, :] + 0.5 - x * size
    py = np.arange(low_y, high_y, dtype=np.float32)[:, None] + 0.5 - y * size
    alpha = np.clip(radius * size - np.sqrt(px * px + py * py) + 0.5, 0, 1)[..., None]
    part = image[low_y:high_y, low_x:high_x]
    part += alpha * (np.asarray(color, np.float32) - part)


def to_uint8(frames: list[np.ndarray]) -> np.ndarray:
    """Returns the float images as one uint8 clip (frames, height, width, 3)."""
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write a clip (frames, height, width, 3; uint8) as H.264 in yuv420p, one thread, so that bytes repeat."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # x264's macroblock tree gives other bytes from run to run (about 7 % of our clips), even on one thread
        stream.options = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
