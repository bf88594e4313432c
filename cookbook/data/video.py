"""Read clips: frames as the model sees them, by one reader for both engines, and a cache for what was read.

Why: torchvision 0.26 has no video reader any more, and decord and torchcodec are extra installs, so this is PyAV, with
the frame sampling of qwen-vl-utils (evenly spaced, an even number, at least four), in time where the frames are not
evenly spaced. Only the frames that are wanted become pictures: a long clip costs time, not memory. A clip is asked
about many times, and reading it costs more than a small model's answer; but one of 30 frames at 81,920 pixels takes
29 MB, so what was used longest ago goes first. Used by `cookbook.data.encoder` and, in the engine's processes, by
`cookbook.engine.bridge.video_reader`.

    frames, rate = read_frames("clip.mp4", fps=2)
    clip = Recent(4 * 2**30).get(path, lambda: read_frames(path, fps=2))
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import av
import numpy as np
import torch

from cookbook.data.picture import pace, shown_stream, turn_of, unfit, upright
from cookbook.data.samples import CLIP_OPTIONS
from cookbook.data.vision import MAX_FRAMES, frames_seen


class VideoError(ValueError):
    """A clip that cannot be read; the message names the file and the reason."""


@dataclass(frozen=True)
class Timing:
    """How the frames of a clip follow each other."""

    total: int  # frames
    rate: float  # frames a second; the average where they are not evenly spaced
    times: tuple[int, ...] = ()  # ticks of each frame, where they are not evenly spaced

    def even(self, count: int, first: int = 0, last: int | None = None) -> list[int]:
        """Returns the places of `count` frames from `first` to `last`, as if all came at the clip's rate."""
        return torch.linspace(first, self.total - 1 if last is None else last, count).round().long().tolist()

    def spread(self, count: int, first: int = 0, last: int | None = None) -> list[int]:
        """Returns the places of `count` frames from `first` to `last`, evenly spaced in time."""
        last = self.total - 1 if last is None else last
        if not self.times:
            return self.even(count, first, last)
        wanted = np.linspace(self.times[first], self.times[last], count)
        # the frame that stands on the screen at that time: the last that has come
        return (np.searchsorted(self.times, wanted + 0.5, side="right") - 1).clip(first, last).tolist()


@contextmanager
def _stream(path: str | Path):
    """Opens the stream that a player shows, for decoding. Raises VideoError for whatever goes wrong inside."""
    try:
        with av.open(os.path.abspath(path), options=CLIP_OPTIONS) as container:
            if (stream := shown_stream(container)) is None:
                raise ValueError("it holds no video stream")
            if why := unfit(stream.width, stream.height):
                raise ValueError(why)
            stream.thread_type = "NONE"  # threads cost more than they save on small clips
            yield container, stream
    except VideoError:
        raise
    except (av.FFmpegError, OSError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise VideoError(f"{path}: cannot be read as a video ({error or type(error).__name__})") from None


def timing(path: str | Path) -> Timing:
    """Returns how many frames a clip has, and when they come. Counted: a file's own figure can be wrong or missing.

    Raises VideoError where the file is missing, unreadable or without frames.
    """
    with _stream(path) as (container, stream):
        found = _timing([frame.pts for frame in container.decode(stream)], stream)
    if not found.total:
        raise VideoError(f"{path}: holds no frames")
    return found


def _timing(times: Sequence[int | None], stream) -> Timing:
    """Returns the timing of these frames, in ticks of the stream. Raises ValueError where nothing tells their rate."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if None not in times:
        step, uneven = pace(Counter(b - a for a, b in pairwise(times)))
        seconds = float((times[-1] - times[0] + step) * stream.time_base) if step > 0 else 0
        if seconds > 0 and (uneven or not rate):
            return Timing(len(times), len(times) / seconds, tuple(times) if uneven else ())
    if times and not rate:
        raise ValueError("nothing in it tells how fast it is to be shown")
    return Timing(len(times), rate)


def pictures(path: str | Path, indices: Sequence[int]) -> torch.Tensor:
    """Returns the frames at these places, in this order: (frames, channels, height, width) uint8. Raises VideoError."""
    with _stream(path) as (container, stream):
        _, found = _decode(container, stream, indices)
    return _stack(path, found, indices)


def _decode(container, stream, indices: Sequence[int]) -> tuple[list[int | None], dict[int, np.ndarray]]:
    """Returns the times of all frames, and those at these places, each (height, width, channels), upright."""
    wanted, times, found = set(indices), [], {}
    for frame in container.decode(stream):
        if len(times) in wanted:
            # one thread: starting more for each frame takes longer than the frame
            picture = frame.reformat(format="rgb24", threads=1).to_ndarray()
            found[len(times)] = upright(picture, turn_of(frame))
        times.append(frame.pts)
    return times, found


def _stack(path: str | Path, found: dict[int, np.ndarray], indices: Sequence[int]) -> torch.Tensor:
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoError(f"{path}: its picture changes size on the way")
    return torch.from_numpy(np.stack([found[i] for i in indices])).permute(0, 3, 1, 2).contiguous()


def read_frames(path: str | Path, fps: float, most: int = MAX_FRAMES) -> tuple[torch.Tensor, float]:
    """Returns the sampled frames of a clip and their rate: the first two of `read_clip`."""
    return read_clip(path, fps, most)[:2]


def read_clip(path: str | Path, fps: float, most: int = MAX_FRAMES) -> tuple[torch.Tensor, float, list[int], float]:
    """Decode a clip and sample it at about `fps` frames a second, `most` frames at most.

    Returns (frames, channels, height, width) uint8, the rate that the sampled frames really have, which frames of the
    clip they stand for, and the clip's rate: places / rate are their seconds. The file's own number of frames is
    believed first; where decoding finds another, or frames that are not evenly spaced, the clip is decoded again.
    Raises VideoError where the file is missing, unreadable or without frames.
    """
    with _stream(path) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        guess = _places(Timing(stream.frames, rate), fps, most) if rate else []
        times, frames = _decode(container, stream, guess)
        found = _timing(times, stream)
    if not (places := _places(found, fps, most)):
        words = f"holds {found.total} frame, needs 2 or more" if found.total else "holds no frames"
        raise VideoError(f"{path}: {words}")
    pixels = _stack(path, frames, places) if places == guess else pictures(path, places)
    return pixels, len(places) / found.total * found.rate, found.even(len(places)), found.rate


def _places(clip: Timing, fps: float, most: int) -> list[int]:
    return clip.spread(frames_seen(clip.total / clip.rate, fps, clip.total, most)) if clip.total else []


class Recent:
    """A cache of values that have `nbytes`, or hold some. Safe in threads; what it holds must not be changed."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes; a value that is larger is not kept."""
        self.limit, self.bytes, self.kept, self._lock = limit, 0, OrderedDict(), Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        found = make()  # outside the lock: two threads may make the same, and both are right
        with self._lock:
            if key not in self.kept and byte_size(found) <= self.limit:
                self.kept[key] = found
                self.bytes += byte_size(found)
                while self.bytes > self.limit:
                    self.bytes -= byte_size(self.kept.popitem(last=False)[1])
        return found


def byte_size(value: Any) -> int:
    """Returns the bytes of a value, or of all in a tuple or dict; 0 for what has no `nbytes`."""
    if isinstance(value, dict | tuple):
        return sum(map(byte_size, value.values() if isinstance(value, dict) else value))
    return getattr(value, "nbytes", 0)
