"""What the model sees of a clip, how many frames and at what size: the rules of qwen-vl-utils 0.0.14.

Why: vision tokens follow from it. The plan, the passport and training share it, so that none rounds otherwise.
"""

import math

UNIT = 28  # pixels a side of one merged vision token: patches of 14, merged two by two
MIN_FRAMES, MAX_FRAMES = 4, 768
TEMPORAL_PATCH = 2  # frames that Qwen2.5-VL joins into one step; the number of frames is a multiple


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
