"""What a player would show of a file: which of its streams, turned which way, and when each frame.

Why: a telephone stores every picture lying on its side and says how to turn it, a download brings its cover as a first
video stream, a screen recording has frames only where something moved. Both engines and the passport ask here, so that
the model is trained, measured and counted on one picture. No torch: the passport's worker processes start quickly. Used
by `cookbook.data.video`, `cookbook.data.encoder`, `cookbook.engine.bridge.video_reader` and `data_tools.passport`.
"""

import mimetypes
import struct
from collections import Counter
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 1 << 26  # 8192 x 8192; a damaged header may state more, and decoding would take gigabytes
MAX_RATIO = 200  # qwen-vl-utils refuses pictures that are longer than this many times their width
STILLS = ("mjpeg", "png", "bmp", "webp", "tiff")  # codecs of a cover, where another stream is the clip


def shown_stream(container: Any) -> Any:
    """Returns the video stream of an open container (PyAV) that a player shows, not its cover; None without one."""

    def rank(stream: Any) -> tuple[bool, bool, bool]:
        codec = stream.codec_context  # None where there is no decoder for it
        cover = "attached_pic" in str(stream.disposition)
        return codec is None, cover, codec is not None and codec.name in STILLS

    return min(container.streams.video, key=rank, default=None)


def turn_of(frame: Any) -> tuple[int, int, int, int]:
    """Returns the directions (a, b, c, d), each -1, 0 or 1, of a frame's display matrix: x' = ax + cy, y' = bx + dy.

    Raises ValueError for a turn that is not by a right angle.
    """
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    unit = max(map(abs, (a, b, c, d))) or 1
    a, b, c, d = turn = tuple(round(n / unit) for n in (a, b, c, d))
    if abs(a * d - b * c) != 1 or (a and b):
        raise ValueError("it is to be turned by an angle that is not a right one; export it upright")
    return turn


def upright(picture: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """Returns a picture (height, width, channels) as a player shows it."""
    a, b, c, d = turn
    if b:
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: d or 1, :: a or 1]


def to_rgb(image: Any) -> Any:
    """Returns an image of Pillow as one sees it: turned as its EXIF says, on white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def open_image(path: str | Path) -> Any:
    """Returns a file as an image of Pillow in RGB, as one sees it. Raises ValueError for what is none."""
    try:
        with Image.open(path) as image:
            if why := unfit(*image.size):
                raise ValueError(why)
            return to_rgb(image)
    except Exception as error:  # damaged bytes can make a decoder raise anything
        raise ValueError(str(error)) from None


def is_picture(path: str | Path) -> bool:
    """Returns whether a file's name says that it is a picture; everything else is taken for a clip."""
    return str(mimetypes.guess_type(path)[0]).startswith("image/")


def unfit(width: int, height: int) -> str:
    """Returns why a picture of this size is not read, "" where it is."""
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels are more than {MAX_PIXELS:,}; make it smaller"
    if min(width, height) and max(width, height) / min(width, height) > MAX_RATIO:
        return f"{width} x {height} pixels: its sides differ more than {MAX_RATIO} times; cut it"
    return ""


def pace(steps: Counter[int]) -> tuple[int, bool]:
    """Returns (median step, whether the others differ), of the ticks between two frames and how often each comes.

    Steps differ where it is by more than 10 % and more than the rounding to whole ticks explains. 0 for no steps.
    """
    middle = median_low(steps.elements()) if steps else 0
    return middle, any(abs(step - middle) > max(1, 0.1 * middle) for step in steps)
