"""Read clips: frames as the model sees them.

Why: one reader for training, rollout and evaluation. torchvision 0.26 has no video reader any more, and decord and
torchcodec are extra installs, so this is PyAV, with the frame sampling of qwen-vl-utils (evenly spaced, an even
number, at least four).
"""

from pathlib import Path

import av
import numpy as np
import torch

TEMPORAL_PATCH = 2  # frames that Qwen2.5-VL joins into one step; the number of frames must be a multiple


class VideoError(ValueError):
    """A clip that cannot be read; the message names the file and the reason."""


def read_frames(path: str | Path, fps: float, most: int = 768) -> tuple[torch.Tensor, float]:
    """Decode a clip and sample it at about `fps` frames a second, `most` frames at most.

    Returns (frames, channels, height, width) uint8, and the rate that the sampled frames really have.
    Raises VideoError where the file is missing, unreadable or without frames.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # threads cost more than they save on small clips
            rate = float(stream.average_rate or stream.guessed_rate)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, OSError, IndexError, TypeError) as error:
        raise VideoError(f"{path}: cannot be read as a video ({error or type(error).__name__})") from None
    if not frames:
        raise VideoError(f"{path}: holds no frames")
    count = len(frames) / rate * fps
    count = int(min(max(count, 4), most, len(frames)) // TEMPORAL_PATCH * TEMPORAL_PATCH)
    if count < TEMPORAL_PATCH:
        raise VideoError(f"{path}: holds {len(frames)} frame, needs {TEMPORAL_PATCH} or more")
    picked = np.linspace(0, len(frames) - 1, count).round().astype(int)
    sampled = np.stack([frames[i] for i in picked])
    return torch.from_numpy(sampled).permute(0, 3, 1, 2).contiguous(), count / len(frames) * rate
