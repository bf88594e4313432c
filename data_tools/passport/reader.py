"""Decode one clip or image once, and keep what a check needs: facts of a few hundred bytes, never the frames.

Why: a header can promise anything. Only decoding every frame tells how many there are, whether they are whole and
whether they are evenly spaced. Reading never raises: what went wrong is one of the facts. It never follows a file
elsewhere either: FFmpeg would take a text file named .mp4 for a play list and open what stands in it, so only real
video formats and local files are allowed. Used by `data_tools.passport.clips`.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from cookbook.data.picture import MAX_PIXELS, pace, shown_stream
from cookbook.data.samples import CLIP_OPTIONS

LOOK_FRAMES, LOOK_SIZE = 4, 8  # a clip's look: four frames of 8 x 8 pixels, the colours at half of that
PLAIN = {"yuv420p", "yuv422p", "yuv444p"}  # a plane of brightness, two of colours, a byte a pixel
EXIF_TURNS = {2: 180, 3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}  # of the tag "orientation", 274; some mirror too
STARTS = (b"\x1aE\xdf\xa3", b"RIFF", b"FLV", b"OggS", b"GIF8", b"\x00\x00\x01")
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp")  # what an mp4 may begin with


@dataclass(frozen=True)
class Content:
    """What one file holds; depends on its bytes alone (and on the clock where `complete` is False)."""

    container: str = ""  # FFmpeg's (or Pillow's) name of the format; "" where it could not be opened
    codec: str = ""  # "" without a video stream
    width: int = 0  # pixels, as stored: the rotation is not applied
    height: int = 0
    rotation: int = 0  # degrees that a player would turn the picture
    frames: int = 0  # decoded
    stated: int = 0  # frames that the file says it has; 0 where it does not say
    damaged: int = 0  # decoded frames that the decoder had to make up in part
    seconds: float = 0.0
    stated_seconds: float = 0.0  # 0 where the file does not say
    fps: float = 0.0  # average, as the file states it; frames / seconds where it does not
    variable_rate: bool = False
    one_size: bool = True  # False: the picture changes its size on the way
    audio: bool = False
    interlaced: bool = False
    recognised: bool = True  # False: does not even begin like a video
    complete: bool = True  # False: the time was up before the end
    error: str = ""  # the decoder's first complaint
    look: str = ""  # hexadecimal: a few tiny frames, to compare clips by
    decode_seconds: float = 0.0

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height as a player shows them, and as the model sees them."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)


@dataclass
class _Tally:
    frames: int = 0
    damaged: int = 0
    skipped: int = 0  # packets that the file's edit list hides
    rotation: int = 0
    interlaced: bool = False
    error: str = ""
    complete: bool = True
    first: int | None = None  # time stamps, in ticks
    last: int | None = None
    steps: Counter = field(default_factory=Counter)  # ticks between two frames
    sizes: set = field(default_factory=set)
    look: list[bytes] = field(default_factory=list)

    def see(self, frame: av.VideoFrame) -> None:
        if not self.frames:
            self.rotation = frame.rotation % 360
        self.frames += 1
        self.damaged += frame.is_corrupt
        self.interlaced |= frame.interlaced_frame
        self.sizes.add((frame.width, frame.height))
        if frame.pts is not None:
            if self.last is None:
                self.first = frame.pts
            else:
                self.steps[frame.pts - self.last] += 1
            self.last = frame.pts


def inspect_video(path: Path, patience: float = 120.0) -> Content:
    """Decode every frame of a clip, for at most `patience` seconds. Returns what was found; never raises."""
    start, found = time.monotonic(), {}
    try:
        with av.open(os.path.abspath(path), options=CLIP_OPTIONS) as container:
            found["container"] = container.format.name
            found["audio"] = bool(container.streams.audio)
            stream = shown_stream(container)
            if stream is not None and stream.codec_context is None:
                found |= {"codec": "unknown", "error": "there is no decoder for its codec"}
            elif stream is not None:
                found |= _header(container, stream)
                if found["width"] * found["height"] <= MAX_PIXELS:
                    found |= _decode(container, stream, found, start + patience)
    except Exception as error:  # damaged bytes can make a demuxer raise anything
        found["error"] = _words(error)
    if "container" not in found:
        found["recognised"] = _begins_like_video(path)
    return Content(**found, decode_seconds=time.monotonic() - start)


def inspect_image(path: Path) -> Content:
    """Decode an image by Pillow, as qwen-vl-utils does. Returns what was found; never raises."""
    from PIL import Image

    start = time.monotonic()
    try:
        with Image.open(path) as image:
            image.load()
            found = {"container": image.format.lower(), "width": image.width, "height": image.height, "frames": 1}
            found |= {"stated": 1, "codec": image.mode, "rotation": EXIF_TURNS.get(image.getexif().get(274), 0)}
            found["look"] = _tiny(av.VideoFrame.from_image(image.convert("RGB"))).hex()
    except Exception as error:  # damaged bytes can make a decoder raise anything
        found = {"error": _words(error), "recognised": "cannot identify" not in str(error)}
    return Content(**found, decode_seconds=time.monotonic() - start)


def _header(container: av.container.InputContainer, stream: av.VideoStream) -> dict:
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / av.time_base
    return {
        "codec": stream.codec_context.name,
        "width": stream.width,
        "height": stream.height,
        "stated": stream.frames,
        "stated_seconds": seconds,
        "fps": float(stream.average_rate or stream.guessed_rate or 0),
    }


def _decode(container: av.container.InputContainer, stream: av.VideoStream, header: dict, deadline: float) -> dict:
    """Returns what the frames say: their number, times, sizes, damage, and the clip's look."""
    stream.thread_type = "NONE"  # each worker has a core; and damage is then the same from run to run
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    expected = header["stated"] or round(header["stated_seconds"] * header["fps"])
    wanted = Counter(int((i + 0.5) / LOOK_FRAMES * expected) for i in range(LOOK_FRAMES))
    tally = _Tally()
    for frame in _frames(container, stream, tally, deadline):
        if tally.frames in wanted:
            tally.look += [_tiny(frame)] * wanted[tally.frames]
        tally.see(frame)
    found = {key: getattr(tally, key) for key in ("frames", "damaged", "rotation", "interlaced", "error", "complete")}
    step, uneven = pace(tally.steps)
    if step > 0:
        found["seconds"] = float((tally.last - tally.first + step) * stream.time_base)
    elif header["fps"]:
        found["seconds"] = tally.frames / header["fps"]
    if not header["fps"] and found.get("seconds"):
        found["fps"] = tally.frames / found["seconds"]
    if tally.sizes:
        found["width"], found["height"] = max(tally.sizes)
    stated = max(0, header["stated"] - tally.skipped)
    found |= {"variable_rate": uneven, "one_size": len(tally.sizes) < 2, "stated": stated}
    found["look"] = b"".join(tally.look).hex() if len(tally.look) == LOOK_FRAMES else ""
    return found


def _frames(container, stream, tally: _Tally, deadline: float) -> Iterator[av.VideoFrame]:
    """Yields every frame that can be decoded; a packet that cannot is noted and the next one tried."""
    try:
        for packet in container.demux(stream):
            if time.monotonic() > deadline:
                tally.complete = False
                return
            tally.skipped += packet.is_discard
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                tally.error = tally.error or _words(error)
    except av.FFmpegError as error:
        tally.error = tally.error or _words(error)


def _tiny(frame: av.VideoFrame) -> bytes:
    """Returns the frame at 8 x 8 pixels, brightness and colours: each value the mean of an area."""
    if frame.format.name not in PLAIN or frame.color_range == ColorRange.JPEG:
        frame = VideoReformatter().reformat(frame, format="yuv420p", dst_color_range=ColorRange.MPEG)
    sizes = (LOOK_SIZE, LOOK_SIZE // 2, LOOK_SIZE // 2)
    return b"".join(_means(plane, size).tobytes() for plane, size in zip(frame.planes, sizes))


def _means(plane, size: int) -> np.ndarray:
    """Returns the means of size x size areas of a plane, each of some 16 x 16 of its pixels: (size, size) uint8."""
    pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    pixels = pixels[:: max(1, plane.height // (16 * size)), :: max(1, plane.width // (16 * size))]
    rows, columns = (np.arange(size) * side // size for side in pixels.shape)  # where each area begins
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), rows), columns, axis=1)
    sides = (np.diff(np.append(at, side)).clip(1) for at, side in zip((rows, columns), pixels.shape))
    return (sums / np.outer(*sides).astype(np.float32)).round().astype(np.uint8)


def _begins_like_video(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] in BOXES or head.startswith(STARTS)


def _words(error: Exception) -> str:
    """Returns what an exception says, without the file's name, which FFmpeg adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
