"""Small clips and folders for the tests of clips and passports, whole and damaged in every way that we know of."""

import json
import os
import struct
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.passport.clips import ClipFacts


def frames(seed: int = 0, count: int = 8, width: int = 64, height: int = 64) -> np.ndarray:
    """A box that moves over a ground of tiles (count, height, width, 3); another seed is another scene."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(30, 226, (4, 4, 3)).astype(np.uint8)
    ground = tiles[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width]
    clip = np.repeat(ground[None], count, axis=0)
    for i in range(count):
        left = i * width // (2 * count)
        clip[i, height // 4 : height // 2, left : left + width // 4] = 255 - tiles[0, 0]
    return clip


def write(path: Path, clip: np.ndarray | None = None, *, codec="libx264", pixels="yuv420p", rate=4, times=None,
          sound=False, **muxer) -> Path:  # fmt: skip
    """Write a clip; `times` are milliseconds of each frame, `sound` adds a silent track, `muxer` goes to av.open."""
    clip = frames() if clip is None else clip
    with av.open(str(path), "w", **muxer) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pixels
        if times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            stream.options = {"threads": "1", "x264-params": "mbtree=0"}
        audio = container.add_stream("aac", rate=16000) if sound else None
        for i, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            _silence(container, audio)
    return path


def write_sound(path: Path) -> Path:
    """Write an mp4 with a silent track and no picture."""
    with av.open(str(path), "w") as container:
        _silence(container, container.add_stream("aac", rate=16000))
    return path


def _silence(container, stream) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def long(path: Path) -> Path:
    """24 frames, the index before the data, as files for the web are written."""
    return write(path, frames(count=24), options={"movflags": "faststart"})


def cut(path: Path, share: float) -> Path:
    """Keep only the first share of the bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def flip(path: Path, count: int = 6, seed: int = 0) -> Path:
    """Flip single bits of the pictures, not of the index."""
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    start = data.find(b"mdat") + 800  # behind the first parameters
    for place in rng.integers(start, data.find(b"moov", start) if data.find(b"moov", start) > 0 else len(data), count):
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return path


def turn(path: Path) -> Path:
    """State in the header that players should turn the picture by 90 degrees, as telephones do."""
    data = path.read_bytes()
    place = data.find(b"tkhd") + 44
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:place] + matrix + data[place + 36 :])
    return path


def replace(path: Path, old: bytes, new: bytes) -> Path:
    """Replace bytes of the file by as many others."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def pair(folder: Path, key: str, seed: int, label: dict | None = None, split: str = "") -> Path:
    """Write one clip with its label in the guide's layout. Returns the clip's path."""
    videos, metas = folder / split / "videos", folder / split / "metas"
    videos.mkdir(parents=True, exist_ok=True)
    metas.mkdir(parents=True, exist_ok=True)
    label = {"video_id": key, "weather": ("rain", "sun")[seed % 2]} if label is None else label
    (metas / f"{key}{LABEL_SUFFIX}").write_text(json.dumps(label))
    return write(videos / f"{key}{VIDEO_SUFFIX}", frames(seed))


def scripted(path: Path, cache=None) -> ClipFacts:
    """Stands for `inspect` in worker processes: does what the file's name says."""
    if "crash" in path.name:
        os._exit(3)
    if "hang" in path.name:
        time.sleep(60)
    return ClipFacts(path=path)


def refuse_to_start(cache) -> None:
    """Stands for the start of a worker where none can start."""
    raise RuntimeError("no workers here")
