"""Give the engine our video reader: PyAV, behind the library that cosmos-rl reads clips with; each prompt made once.

Why: qwen-vl-utils 0.0.14 falls back on `torchvision.io.read_video`, which torchvision 0.26 no longer has, and its other
readers are extra installs. PyAV comes with the engine. Which frames are taken is the library's own decision.
GRPO shows the trainer each clip once per completion (policy/trainer/llm_trainer/grpo_trainer.py:1180), and the engine
decodes it and cuts it into patches each time: so what was made last is kept, as far as the memory given for it goes.
Used by `cookbook.engine.bridge`, in every role.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import torch

from cookbook.data.picture import to_rgb
from cookbook.data.video import Recent, pictures, timing

CACHE_BYTES = 512 * 2**20  # a process; a clip of 30 frames at 81,920 pixels takes 29 MB


def install_reader() -> None:
    """Make PyAV the reader of qwen-vl-utils, also where it would fall back, so that an error is told as it is.

    Images become what the local engine sees: the library does not turn them as their EXIF says.
    """
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker, Qwen2_5_VLM_DataPacker
    from qwen_vl_utils import vision_process

    vision_process.to_rgb = to_rgb
    vision_process.VIDEO_READER_BACKENDS.update(pyav=read_video, torchvision=read_video)
    vision_process.FORCE_QWENVL_VIDEO_READER = "pyav"
    vision_process.get_video_reader_backend.cache_clear()
    stock = getattr(vision_process.fetch_video, "__wrapped__", vision_process.fetch_video)
    vision_process.fetch_video = remembering(stock)
    for packer in (Qwen2_5_VLM_DataPacker, HFVLMDataPacker):
        stock = getattr(packer._process_single_sample, "__wrapped__", packer._process_single_sample)
        packer._process_single_sample = remembering(stock, of=1)


def read_video(part: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], float]:
    """Returns the frames (frames, 3, height, width; uint8) that the part of a message asks for, what qwen-vl-utils
    wants to know of them, and the rate (frames a second) at which they were taken.

    Raises VideoError for a clip that cannot be read, ValueError for a part that asks for what it has not.
    """
    from qwen_vl_utils.vision_process import calculate_video_frame_range, smart_nframes

    path = part["video"].removeprefix("file://")
    clip = timing(path)
    first, last, count = calculate_video_frame_range(part, clip.total, clip.rate)
    wanted = smart_nframes(part, total_frames=count, video_fps=clip.rate)
    indices = clip.spread(wanted, first, last)
    # Qwen3-VL writes frames_indices / fps into the text as seconds, whatever the pace of the clip
    places = clip.even(wanted, first, last)
    facts = {"fps": clip.rate, "frames_indices": places, "total_num_frames": count, "video_backend": "pyav"}
    return pictures(path, indices), facts, wanted / count * clip.rate


def remembering(call: Callable, of: int = 0) -> Callable:
    """Returns a function that keeps its last results: CACHE_BYTES at most. It goes by its arguments from `of` on.

    What names a clip or an image that has changed on the disk is called anew. What is kept is shared: nobody may change
    it in place. A loader's worker keeps nothing: what it sends stays in shared memory for as long.
    """
    recent = Recent(CACHE_BYTES)

    @wraps(call)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        make = partial(call, *args, **kwargs)
        if torch.utils.data.get_worker_info() is not None:
            return make()
        try:
            files = [(stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, _files(args[of:]))]
            key = json.dumps([args[of:], kwargs, files], sort_keys=True)
        except (OSError, TypeError):  # no file: there is nothing to be saved, or no telling
            return make()
        return recent.get(key, make)

    remembered.kept = recent.kept
    return remembered


def _files(value: Any) -> Iterator[str]:
    """Yields the paths of clips and images that parts of messages name, wherever they stand in a value."""
    if isinstance(value, dict):
        yield from (value[kind].removeprefix("file://") for kind in ("video", "image") if kind in value)
        yield from _files(value.get("content"))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _files(part)
