"""Give the engine a video reader: PyAV, behind the library that cosmos-rl reads clips with.

Why: qwen-vl-utils 0.0.14 falls back on `torchvision.io.read_video`, which torchvision 0.26 no longer has, and its other
readers are extra installs. PyAV comes with the engine. Which frames are taken is the library's own decision; only those
are turned into pictures, so a long clip costs time but not memory. Used by the loader files, in every role.

    install()
"""

from typing import Any

import av
import numpy as np
import torch


def install() -> None:
    """Make PyAV the reader of qwen-vl-utils, also where it would fall back, so that an error is told as it is."""
    from qwen_vl_utils import vision_process

    vision_process.VIDEO_READER_BACKENDS.update(pyav=read_video, torchvision=read_video)
    vision_process.FORCE_QWENVL_VIDEO_READER = "pyav"
    vision_process.get_video_reader_backend.cache_clear()


def read_video(part: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], float]:
    """Returns the frames (frames, 3, height, width; uint8) that the part of a message asks for, what qwen-vl-utils
    wants to know of them, and the rate (frames a second) at which they were taken.

    Raises av.FFmpegError, OSError or ValueError for a clip that cannot be read.
    """
    from qwen_vl_utils.vision_process import calculate_video_frame_range, smart_nframes

    path = part["video"].removeprefix("file://")
    total, rate = _measure(path)
    first, last, count = calculate_video_frame_range(part, total, rate)
    wanted = smart_nframes(part, total_frames=count, video_fps=rate)
    indices = torch.linspace(first, last, wanted).round().long().tolist()
    frames = torch.from_numpy(_pictures(path, indices)).permute(0, 3, 1, 2)
    facts = {"fps": rate, "frames_indices": indices, "total_num_frames": count, "video_backend": "pyav"}
    return frames, facts, wanted / count * rate


def _measure(path: str) -> tuple[int, float]:
    """Returns (number of frames, frames a second). Frames are counted: a file's own figure can be wrong or missing."""
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError(f"{path}: holds no video")
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        return sum(1 for _ in container.decode(stream)), rate


def _pictures(path: str, indices: list[int]) -> np.ndarray:
    """Returns the frames at these places, in ascending order, as (frames, height, width, 3) uint8."""
    with av.open(path) as container:
        wanted = set(indices)
        frames = enumerate(container.decode(container.streams.video[0]))
        found = {i: frame.to_ndarray(format="rgb24") for i, frame in frames if i in wanted}
    return np.stack([found[i] for i in indices])
