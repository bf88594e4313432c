"""Play a clip in the output of a cell, small enough to be kept in a notebook.

Why: a still shows where things are; whether they touch, turn or brake is seen in motion, and that is what a video model
is asked about. A notebook carries its outputs through git and to GitHub, so a clip may take 60 kB there and no more: a
short H.264 clip goes in as it is, of any other a small copy is made, with few frames and the clip's own duration.

    play("runs/tutorial/data/test/videos/test_00000.camera_front_wide_120fov.mp4")
"""

import base64
import html
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch
from PIL import Image
from torch.nn.functional import interpolate

from cookbook.data.picture import shown_stream
from cookbook.data.samples import CLIP_OPTIONS
from cookbook.data.video import read_frames
from cookbook.display import plots

LARGEST = 60_000  # characters in the saved notebook
FRAMES = 32  # of a copy, evenly spaced
COPIES = ((224, 28), (160, 32), (112, 36))  # height in pixels and x264's crf of the copies that are tried
STILL = 96  # height in pixels, in 64 colours: a PNG of a camera's picture would take more than the clip
SHOWN = 224  # height in the page


@dataclass(frozen=True, repr=False)
class Playing:
    """A clip that plays where HTML is shown, is a still where pictures are, and one line in a terminal."""

    name: str
    seconds: float
    video: bytes  # H.264 in mp4, which every browser plays
    still: bytes  # PNG of the middle frame

    def __repr__(self) -> str:
        return f"{self.name}: {self.seconds:.1f} s"

    def _repr_png_(self) -> bytes:
        return self.still

    def _repr_html_(self) -> str:
        video, still = (base64.b64encode(part).decode() for part in (self.video, self.still))
        return (
            f'<video controls loop muted height="{SHOWN}" poster="data:image/png;base64,{still}" '
            f'title="{html.escape(self.name)}" src="data:video/mp4;base64,{video}"></video>'
        )


def play(path: str | Path, largest: int = LARGEST) -> Playing:
    """Returns a clip that plays in the output of a cell, and takes `largest` characters of the notebook at most.

    Raises VideoError for a clip that cannot be read, ValueError where no copy is small enough.
    """
    frames, rate = read_frames(path := plots.from_root(path), fps=60, most=FRAMES)
    middle = _resized(frames[[len(frames) // 2]], STILL)[0].permute(1, 2, 0)
    still = plots.png(Image.fromarray(middle.numpy()).quantize(64))
    for video in _candidates(path, frames, rate):
        clip = Playing(path.name, len(frames) / rate, video, still)
        taken = len(clip._repr_html_()) + 4 * len(still) // 3
        if taken <= largest:
            return clip
    raise ValueError(
        f"{path}: even a copy {COPIES[-1][0]} pixels high takes {taken / 1000:.0f} kB of the notebook, more than "
        f"{largest / 1000:.0f}; allow more with play(path, largest={taken}), or look at frame_strip(path, fps)"
    )


def _candidates(path: Path, frames: torch.Tensor, rate: float) -> Iterator[bytes]:
    """Yields the clip itself where a browser plays it, then smaller and smaller copies."""
    with av.open(os.path.abspath(path), options=CLIP_OPTIONS) as container:
        codec = shown_stream(container).codec_context
        played = path.suffix == ".mp4" and (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    if played and path.stat().st_size < LARGEST:
        yield path.read_bytes()
    for height, crf in COPIES:
        yield _encode(_resized(frames, height), rate, crf)


def _resized(frames: torch.Tensor, height: int) -> torch.Tensor:
    """Returns frames (n, 3, height, width) of even sides, none larger than they were."""
    scale = min(1.0, height / frames.shape[-2])
    sides = [max(2, round(side * scale / 2) * 2) for side in frames.shape[-2:]]
    return interpolate(frames.float(), sides, mode="area").round().byte()


def _encode(frames: torch.Tensor, rate: float, crf: int) -> bytes:
    """Returns frames (n, 3, height, width) as an mp4 file of H.264, with libx264, which PyAV's wheels bring."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[-2:], "yuv420p"
        stream.options = {"crf": str(crf), "preset": "slow", "threads": "1"}
        for frame in frames.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
