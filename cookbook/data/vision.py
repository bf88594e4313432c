"""What the model sees of a clip: how many frames, at what size, in how many tokens; the rules of qwen-vl-utils 0.0.14.

Why: the plan, the passport and training share it, so that none rounds otherwise. The plan asks it without torch. Sizes
are those of Cosmos-Reason1 where no other family is named.

    clip_tokens(seconds=75, fps=1, width=1920, height=1080, max_pixels=81_920)
"""

import math
from collections.abc import Sequence
from pathlib import Path

from cookbook.data.architecture import USUAL, Architecture, architecture
from cookbook.runs import read_json

UNIT = USUAL.unit  # pixels a side of one merged vision token: patches of 14, merged two by two
MIN_FRAMES, MAX_FRAMES = 4, 768
TEMPORAL_PATCH = 2  # frames that are joined into one step; the number of frames is a multiple
START, END = "<|vision_start|>", "<|vision_end|>"  # around the tokens of a clip, an image, or a step with its time
# what holds where nothing is stated
FPS = 2.0
VIDEO_PIXELS, TOTAL_PIXELS, IMAGE_PIXELS = USUAL.video_pixels, USUAL.total_pixels, USUAL.image_pixels


def frames_seen(seconds: float, fps: float, frames: float = math.inf, most: int = MAX_FRAMES) -> int:
    """Returns how many frames of a clip the model sees at `fps`: an even number, at least 4 where there are so many.

    `frames` is the number that the clip has, `most` the limit of the contract.
    """
    return int(min(max(seconds * fps, MIN_FRAMES), most, frames) // TEMPORAL_PATCH * TEMPORAL_PATCH)


def resized(height: int, width: int, min_pixels: float, max_pixels: float, unit: int = UNIT) -> tuple[int, int]:
    """Returns (height, width): multiples of `unit`, inside the pixel limits, as near as can be to its shape."""
    h, w = (max(unit, round(side / unit) * unit) for side in (height, width))
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h, w = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(side * grow / unit) * unit for side in (height, width))
    return h, w


def clip_size(
    height: int,
    width: int,
    frames: int,
    min_pixels: float,
    max_pixels: float,
    total_pixels: float | None = None,
    family: Architecture = USUAL,
) -> tuple[int, int]:
    """Returns (height, width) of each frame, of which the model sees so many; `total_pixels` limits them together."""
    share = min(family.video_pixels[1], (total_pixels or family.total_pixels) / max(frames, 2) * 2)
    return resized(height, width, min_pixels, min(max_pixels, max(share, int(min_pixels * 1.05))), family.unit)


def clip_tokens(
    seconds: float,
    fps: float,
    width: int,
    height: int,
    max_pixels: float | None = None,
    min_pixels: float | None = None,
    total_pixels: float | None = None,
    frames: float = math.inf,
    max_frames: int = MAX_FRAMES,
    family: Architecture = USUAL,
) -> int:
    """Returns the vision tokens of a clip: frames / 2 x height / unit x width / unit, after resizing.

    `frames` is the number that the clip has; a plan, which knows its seconds alone, leaves it out. Limits that are left
    out are the library's. The times that stand in the text are not in it: `stamps`.
    """
    least, most = family.video_pixels
    seen = frames_seen(seconds, fps, frames, max_frames)
    h, w = clip_size(height, width, seen, min_pixels or least, max_pixels or most, total_pixels, family)
    return seen // TEMPORAL_PATCH * (h // family.unit) * (w // family.unit)


def stamp_tokens(seconds: float, fps: float, max_frames: int = MAX_FRAMES) -> int:
    """Returns what the times of a clip take of Qwen3-VL's text: a token a digit, four, and two around the frames."""
    seen = frames_seen(seconds, fps, most=max_frames)
    return sum(6 + sum(map(str.isdigit, time)) for time in stamps(range(seen), seen / seconds))


def stamps(places: Sequence[float], rate: float) -> tuple[str, ...]:
    """Returns what Qwen3-VL's processor writes before each step of two frames: the middle of their times.

    `places` are the frames' numbers in a clip of `rate` frames a second.
    """
    seconds = [place / rate for place in places]
    return tuple(f"<{(a + b) / 2:.1f} seconds>" for a, b in zip(seconds[::2], seconds[1::2]))


def spell(text: str, pad: str, media: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Returns a conversation's text with each placeholder `pad` repeated once per vision token, in order.

    `media`: the tokens of a clip or image, and the times of its steps. With times each step has its own start and end.
    """
    text, *rest = text.split(pad)
    for (tokens, times), part in zip(media, rest):
        shown = pad * (tokens // max(len(times), 1))
        if times:
            shown = "".join(f"{time}{START}{shown}{END}" for time in times)
            text, part = text.removesuffix(START), part.removeprefix(END)
        text += shown + part
    return text


def image_tokens(
    width: int,
    height: int,
    max_pixels: float | None = None,
    min_pixels: float | None = None,
    family: Architecture = USUAL,
) -> int:
    """Returns the vision tokens of an image: height / unit x width / unit, after resizing."""
    least, most = family.image_pixels
    h, w = resized(height, width, min_pixels or least, max_pixels or most, family.unit)
    return (h // family.unit) * (w // family.unit)


def narrower_limits(folder: Path, seen) -> str:
    """Returns where a checkpoint's limits are narrower than a contract's Vision, and what helps; "" where they are not.

    cosmos-rl's packer resizes the frames again, to the processor's limits, while our encoder, evaluation and inference
    show what the contract says: two pictures of one clip. Of a family that the engine has no packer of its own for it
    resizes nothing again. Raises ValueError for a file that cannot be read.
    """
    if not architecture(folder).native:
        return ""
    image, clip = folder / "preprocessor_config.json", folder / "video_preprocessor_config.json"
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
        if low > seen.min_pixels or high < min(seen.max_pixels, most):
            wanted = f"min_pixels = {min(low, seen.min_pixels)}, max_pixels = {max(high, seen.max_pixels)}"
            differs = f"takes {low:,} to {high:,} pixels, the contract shows {seen.min_pixels:,} to {seen.max_pixels:,}"
            why = "cosmos-rl would train on other frames than evaluation sees"
            return f"{file} {differs}: {why}; write {wanted} into it, in `size` too"
    return ""
