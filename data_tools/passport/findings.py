"""What is wrong with a clip: its facts judged, one finding for each thing.

Why: the facts depend on the file's bytes and can be kept for ever; what counts as too large or as the wrong name is a
choice. So the judging is separate, pure and quick. Used by `clips`; `checks` adds findings of the same type.

An *error* means that training or evaluation could not read the clip, or would read something else than it says. A
*warning* is something to know: the clip is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cookbook.data.picture import MAX_PIXELS, MAX_RATIO
from data_tools.passport.reader import Content

ERROR, WARNING = "error", "warning"
MIN_FRAMES = 2  # Qwen2.5-VL joins two frames into one step

EXTENSIONS = {  # by FFmpeg's name of the format; names that are extensions themselves need no entry
    "matroska": {"mkv"},
    "mpegts": {"ts", "m2ts", "mts"},
    "mpeg": {"mpg", "vob"},
    "mpegvideo": {"mpg", "mpeg", "m2v"},
    "asf": {"wmv"},
    "ogg": {"ogv", "ogm"},
    "mov": {"m4v", "qt"},
    "h264": {"264"},
    "hevc": {"h265", "265"},
    "jpeg": {"jpg", "jpe", "jfif"},
    "tiff": {"tif"},
}


@dataclass(frozen=True)
class Limits:
    """Above which a clip counts as huge, and how long it may take to read."""

    bytes: int = 1 << 30
    pixels: int = 3840 * 2160  # of one frame
    seconds: float = 600.0
    patience: float = 120.0  # seconds of reading, then the clip is given up


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where."""

    code: str
    severity: str  # "error" or "warning"
    message: str
    name: str = ""  # the file or sample
    split: str = ""

    def __str__(self) -> str:
        """Returns one line: "NAME: code: message", a warning marked as such."""
        where = f"{self.name}: " if self.name else ""
        return f"{where}{self.code}: {self.message}" + (" (warning)" if self.severity == WARNING else "")


def judge_file(content: Content, path: Path, size: int, limits: Limits, kind: str = "video") -> tuple[Finding, ...]:
    """Returns the findings of a file that could be read, errors first; `size` is in bytes."""
    found = [*_opening(content, kind), *_frames(content, kind), *_picture(content), *_size(content, size, limits)]
    return tuple(sorted([*found, *_extension(content, path)], key=lambda finding: finding.severity))


def error(code: str, message: str) -> Finding:
    """Returns a finding that keeps the clip out."""
    return Finding(code, ERROR, message)


def warning(code: str, message: str) -> Finding:
    """Returns a finding to know about."""
    return Finding(code, WARNING, message)


def _opening(content: Content, kind: str) -> Iterator[Finding]:
    if not content.container and not content.recognised:
        yield error("not-video" if kind == "video" else "not-image", f"is not a known {kind} format ({content.error})")
    elif not content.container:
        yield error("corrupt", f"cannot be opened, its index is missing or damaged ({content.error})")
    elif not content.codec:
        yield error("not-video", f"holds no video stream, only {'audio' if content.audio else 'other data'}")
    if not content.complete:
        yield error("slow", f"not read to the end in the time given: {content.frames} frames decoded")


def _frames(content: Content, kind: str) -> Iterator[Finding]:
    if not content.codec or kind == "image" or content.width * content.height > MAX_PIXELS:
        return
    because = f" ({content.error})" if content.error else ""
    if not content.frames and content.error:
        yield error("corrupt", f"no frame can be decoded{because}")
        return
    if content.frames < MIN_FRAMES:
        yield error("too-few-frames", f"frames: {content.frames}, the model needs {MIN_FRAMES} or more")
    if content.complete and content.frames < content.stated:
        yield error("truncated", f"{content.frames} of the {content.stated} frames that it states{because}")
    elif content.complete and _is_short(content):
        stated, found = content.stated_seconds, content.seconds
        yield error("truncated", f"{found:.2f} of the {stated:.2f} seconds that it states{because}")
    elif content.error:
        yield error("truncated", f"decoding breaks on the way, after {content.frames} frames or before{because}")
    if content.damaged:
        yield error("corrupt", f"{content.damaged} of {content.frames} frames are damaged")
    if content.variable_rate and not content.error and not content.damaged:
        yield warning("variable-rate", "frames are not evenly spaced, so times read off frame numbers are wrong")


def _is_short(content: Content) -> bool:
    """Whether frames are missing at the end of a file that states its length in seconds only."""
    if content.stated or content.audio or not content.fps:  # with audio the length may be that of the sound
        return False
    return content.stated_seconds - content.seconds > 1.5 / content.fps + 0.02 * content.stated_seconds


def _picture(content: Content) -> Iterator[Finding]:
    width, height = content.width, content.height
    shape = f"{width} x {height} pixels"
    if not content.one_size:
        yield error("size-change", f"the picture changes its size on the way (the largest: {shape})")
    if min(width, height) and max(width, height) / min(width, height) > MAX_RATIO:
        yield error("shape", f"{shape}: the model's reader refuses sides that differ more than {MAX_RATIO} times")
    elif width % 2 or height % 2:
        yield warning("odd-size", f"{shape}: an odd side; some readers add or lose a line")
    if content.rotation % 90:
        yield error("rotated", f"to be turned by {content.rotation} degrees, no right angle; export it upright")
    elif content.rotation:
        yield warning("rotated", f"is turned by {content.rotation} degrees, as players do; other readers may not")
    if content.interlaced:
        yield warning("interlaced", "two half pictures in each frame, which look like combs; deinterlace it")
    if content.codec and content.audio:
        yield warning("audio", "has sound, which the model does not hear")


def _size(content: Content, size: int, limits: Limits) -> Iterator[Finding]:
    pixels = content.width * content.height
    if size > limits.bytes:
        yield warning("huge", f"{size:,} bytes, more than {limits.bytes:,}")
    if pixels > MAX_PIXELS:
        yield error("huge", f"states {content.width} x {content.height} pixels a frame; not decoded")
    elif pixels > limits.pixels:
        yield warning("huge", f"{content.width} x {content.height} pixels a frame, more than {limits.pixels:,}")
    if content.seconds > limits.seconds:
        yield warning("huge", f"{content.seconds:.1f} seconds, more than {limits.seconds:g}")


def _extension(content: Content, path: Path) -> Iterator[Finding]:
    names = content.container.split(",")
    known = {*names, *(extension for name in names for extension in EXTENSIONS.get(name, ()))}
    if content.container and path.suffix.lower().lstrip(".") not in known:
        yield warning("extension", f"named {path.suffix or 'without an extension'}, but its format is {names[0]}")
