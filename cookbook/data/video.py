"""Read clips: frames as the model sees them, by one reader for both engines, and a cache for what was read.

Why: torchvision 0.26 has no video reader any more, and decord and torchcodec are extra installs, so this is PyAV, with
the frame sampling of qwen-vl-utils (evenly spaced, an even number, at least four). Only the frames that are wanted
become pictures: a long clip costs time, not memory. A clip is asked about many times, and reading it costs more than a
small model's answer; but one of 30 frames at 81,920 pixels takes 29 MB, so what was used longest ago goes first. Used
by `cookbook.data.encoder` and, in the engine's processes, by `cookbook.engine.video_reader`.

    frames, rate = read_frames("clip.mp4", fps=2)
    clip = Recent(4 * 2**30).get(path, lambda: read_frames(path, fps=2))
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import av
import numpy as np
import torch

from cookbook.data.samples import CLIP_OPTIONS
from cookbook.data.vision import MAX_FRAMES, frames_seen


class VideoError(ValueError):
    """A clip that cannot be read; the message names the file and the reason."""


@contextmanager
def _stream(path: str | Path):
    """Opens the first video stream, for decoding. Raises VideoError for whatever goes wrong inside."""
    try:
        with av.open(os.path.abspath(path), options=CLIP_OPTIONS) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # threads cost more than they save on small clips
            yield container, stream
    except (av.FFmpegError, OSError, IndexError, TypeError) as error:
        raise VideoError(f"{path}: cannot be read as a video ({error or type(error).__name__})") from None


def count_frames(path: str | Path) -> tuple[int, float]:
    """Returns (frames, frames a second). Frames are counted: a file's own figure can be wrong or missing.

    Raises VideoError where the file is missing, unreadable or without frames.
    """
    with _stream(path) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate)
        count = sum(1 for _ in container.decode(stream))
    if not count:
        raise VideoError(f"{path}: holds no frames")
    return count, rate


def pictures(path: str | Path, indices: Sequence[int]) -> torch.Tensor:
    """Returns the frames at these places, in this order: (frames, channels, height, width) uint8. Raises VideoError."""
    with _stream(path) as (container, stream):
        _, found = _decode(container, stream, indices)
    return _stack(path, found, indices)


def _decode(container, stream, indices: Sequence[int]) -> tuple[int, dict[int, np.ndarray]]:
    """Returns the number of frames, and those at these places, each (height, width, channels)."""
    wanted, total, found = set(indices), 0, {}
    for frame in container.decode(stream):
        if total in wanted:
            # one thread: starting more for each frame takes longer than the frame
            found[total] = frame.reformat(format="rgb24", threads=1).to_ndarray()
        total += 1
    return total, found


def _stack(path: str | Path, found: dict[int, np.ndarray], indices: Sequence[int]) -> torch.Tensor:
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoError(f"{path}: its picture changes size on the way")
    return torch.from_numpy(np.stack([found[i] for i in indices])).permute(0, 3, 1, 2).contiguous()


def read_frames(path: str | Path, fps: float, most: int = MAX_FRAMES) -> tuple[torch.Tensor, float]:
    """Decode a clip and sample it at about `fps` frames a second, `most` frames at most.

    Returns (frames, channels, height, width) uint8, and the rate that the sampled frames really have. The file's own
    number of frames is believed first; where decoding finds another, the clip is decoded again.
    Raises VideoError where the file is missing, unreadable or without frames.
    """
    with _stream(path) as (container, stream):
        told, rate = stream.frames, float(stream.average_rate or stream.guessed_rate)
        total, frames = _decode(container, stream, _places(told, rate, fps, most))
    places = _places(total, rate, fps, most)
    if not places:
        raise VideoError(f"{path}: holds {total} frame, needs 2 or more" if total else f"{path}: holds no frames")
    found = _stack(path, frames, places) if total == told else pictures(path, places)
    return found, len(places) / total * rate


def _places(total: int, rate: float, fps: float, most: int) -> list[int]:
    """Returns the places of the sampled frames among `total`; none where there are too few."""
    count = frames_seen(total / rate, fps, total, most) if total else 0
    return torch.linspace(0, total - 1, count).round().long().tolist()


class Recent:
    """A cache of values that have `nbytes`, or tuples of them. Safe in threads; what it holds must not be changed."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes; a value that is larger is not kept."""
        self.limit, self.bytes, self.kept, self._lock = limit, 0, OrderedDict(), Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what is kept under the key, else what `make` returns, and keeps that."""
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
    """Returns the bytes of a value, or of all in a tuple; 0 for what has no `nbytes`."""
    return sum(map(byte_size, value)) if isinstance(value, tuple) else getattr(value, "nbytes", 0)
