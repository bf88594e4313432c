"""The size at which the model sees a picture: the rule of qwen-vl-utils, shared by the plan, the passport and training.

Why: vision tokens follow from it, so a plan that rounds otherwise than training is wrong.
"""

import math

UNIT = 28  # pixels a side of one merged vision token: patches of 14, merged two by two


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
