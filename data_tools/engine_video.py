"""Give the engine our video reader: PyAV, behind the library that cosmos-rl reads clips with.

Why: qwen-vl-utils 0.0.14 falls back on `torchvision.io.read_video`, which torchvision 0.26 no longer has, and its other
readers are extra installs. PyAV comes with the engine. Which frames are taken is the library's own decision.
Used by the loader files, in every role.

    install()
"""

from typing import Any

import torch

from cookbook.video import measure, pictures


def install() -> None:
    """Make PyAV the reader of qwen-vl-utils, also where it would fall back, so that an error is told as it is."""
    from qwen_vl_utils import vision_process

    vision_process.VIDEO_READER_BACKENDS.update(pyav=read_video, torchvision=read_video)
    vision_process.FORCE_QWENVL_VIDEO_READER = "pyav"
    vision_process.get_video_reader_backend.cache_clear()


def read_video(part: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], float]:
    """Returns the frames (frames, 3, height, width; uint8) that the part of a message asks for, what qwen-vl-utils
    wants to know of them, and the rate (frames a second) at which they were taken.

    Raises VideoError for a clip that cannot be read, ValueError for a part that asks for what it has not.
    """
    from qwen_vl_utils.vision_process import calculate_video_frame_range, smart_nframes

    path = part["video"].removeprefix("file://")
    total, rate = measure(path)
    first, last, count = calculate_video_frame_range(part, total, rate)
    wanted = smart_nframes(part, total_frames=count, video_fps=rate)
    indices = torch.linspace(first, last, wanted).round().long().tolist()
    facts = {"fps": rate, "frames_indices": indices, "total_num_frames": count, "video_backend": "pyav"}
    return pictures(path, indices), facts, wanted / count * rate
