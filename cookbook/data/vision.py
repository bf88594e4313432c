"""What the model sees of a clip: how many frames, at what size, in how many tokens; the rules of qwen-vl-utils 0.0.14.

Why: the plan, the passport and training share it, so that none rounds otherwise. The plan asks it without torch.

    clip_tokens(seconds=75, fps=1, width=1920, height=1080, max_pixels=81_920)
"""

import math
from pathlib import Path

from cookbook.runs import read_json

UNIT = 28  # pixels a side of one merged vision token: patches of 14, merged two by two
MIN_FRAMES, MAX_FRAMES = 4, 768
TEMPORAL_PATCH = 2  # frames that Qwen2.5-VL joins into one step; the number of frames is a multiple
# what holds where nothing is stated
FPS = 2.0
VIDEO_PIXELS = (128 * UNIT**2, 768 * UNIT**2)  # least and most of a frame; the most is never exceeded
TOTAL_PIXELS = int(128_000 * UNIT**2 * 0.9)  # of all frames of a clip
IMAGE_PIXELS = (4 * UNIT**2, 16384 * UNIT**2)


def frames_seen(seconds: float, fps: float, frames: float = math.inf, most: int = MAX_FRAMES) -> int:
    """Returns how many frames of a clip the model sees at `fps`: an even number, at least 4 where there are so many.

    `frames` is the number that the clip has, `most` the limit of the contract.
    """
    return int(min(max(seconds * fps, MIN_FRAMES), most, frames) // TEMPORAL_PATCH * TEMPORAL_PATCH)


def resized(height: int, width: int, min_pixels: float, max_pixels: float) -> tuple[int, int]:
    """Returns (height, width): multiples of 28, inside the pixel limits, as near as can be to the picture's shape."""
    h, w = (max(UNIT, round(side / UNIT) * UNIT) for side in (height, width))
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h, w = (max(UNIT, math.floor(side / shrink / UNIT) * UNIT) for side in (height, width))
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * grow / UNIT) * UNIT for side in (height, width))
    return h, w


def clip_size(
    height: int, width: int, frames: int, min_pixels: float, max_pixels: float, total_pixels: float = TOTAL_PIXELS
) -> tuple[int, int]:
    """Returns (height, width) of each frame, of which the model sees so many; `total_pixels` limits them together."""
    share = max(min(VIDEO_PIXELS[1], total_pixels / max(frames, 2) * 2), int(min_pixels * 1.05))
    return resized(height, width, min_pixels, min(max_pixels, share))


def clip_tokens(
    seconds: float,
    fps: float,
    width: int,
    height: int,
    max_pixels: float = VIDEO_PIXELS[1],
    min_pixels: float = VIDEO_PIXELS[0],
    total_pixels: float = TOTAL_PIXELS,
    frames: float = math.inf,
    max_frames: int = MAX_FRAMES,
) -> int:
    """Returns the vision tokens of a clip: frames / 2 x height / 28 x width / 28, after resizing.

    `frames` is the number that the clip has; a plan, which knows its seconds alone, leaves it out.
    """
    seen = frames_seen(seconds, fps, frames, max_frames)
    h, w = clip_size(height, width, seen, min_pixels, max_pixels, total_pixels)
    return seen // TEMPORAL_PATCH * (h // UNIT) * (w // UNIT)


def image_tokens(
    width: int, height: int, max_pixels: float = IMAGE_PIXELS[1], min_pixels: float = IMAGE_PIXELS[0]
) -> int:
    """Returns the vision tokens of an image: height / 28 x width / 28, after resizing."""
    h, w = resized(height, width, min_pixels, max_pixels)
    return (h // UNIT) * (w // UNIT)


def narrower_limits(folder: Path, min_pixels: int, max_pixels: int) -> str:
    """Returns where a checkpoint's own limits are narrower than a contract's, and what helps; "" where they are not.

    cosmos-rl's packer resizes the frames again, to the processor's limits, while our encoder, evaluation and inference
    show what the contract says: two pictures of one clip. Raises ValueError for a file that cannot be read.
    """
    image = folder / "preprocessor_config.json"
    clip = folder / "video_preprocessor_config.json"
    for file, stock, most in (
        (clip if clip.is_file() else image, VIDEO_PIXELS, VIDEO_PIXELS[1]),
        (image, (3136, 1280 * UNIT**2), IMAGE_PIXELS[1]),  # transformers' own, where nothing is stated
    ):
        if not file.is_file():
            continue
        stated = read_json(file)
        if not isinstance(size := stated.get("size") or {}, dict):
            raise ValueError(f"{file}: its size is {size!r}, no table; copy the file from the base")
        low, high = (
            stated.get(key) or size.get(edge) or size.get(key) or otherwise
            for key, edge, otherwise in zip(("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), stock)
        )
        if odd := next((n for n in (low, high) if not isinstance(n, int | float)), None):
            raise ValueError(f"{file}: has {odd!r} where a number of pixels belongs; copy the file from the base")
        if low > min_pixels or high < min(max_pixels, most):
            wanted = f"min_pixels = {min(low, min_pixels)}, max_pixels = {max(high, max_pixels)}"
            differs = f"takes {low:,} to {high:,} pixels, the contract shows {min_pixels:,} to {max_pixels:,}"
            why = "cosmos-rl would train on other frames than evaluation sees"
            return f"{file} {differs}: {why}; write {wanted} into it, in `size` too"
    return ""
