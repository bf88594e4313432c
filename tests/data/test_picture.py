"""Both engines, the passport and the token count see what a player shows: the clip, upright, at its own times."""

import contextlib
import struct
import sys

import av
import clip_makers as make
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cookbook.data.contract import Contract
from cookbook.data.picture import MAX_PIXELS, open_image, unfit
from cookbook.data.samples import Sample, message, text
from cookbook.data.video import VideoError, read_frames, timing
from cookbook.engine.bridge import video_reader
from cookbook.runs import ROOT
from data_tools.passport.clips import inspect
from data_tools.passport.tokens import part_tokens

pytestmark = pytest.mark.fault("inputs")

ONE = 1 << 16
TURNS = {  # the first four numbers of the display matrix, and what a player does with the stored picture
    "plain": ((ONE, 0, 0, ONE), lambda x: x),
    "90": ((0, ONE, -ONE, 0), lambda x: np.rot90(x, -1)),
    "180": ((-ONE, 0, 0, -ONE), lambda x: np.rot90(x, 2)),
    "270": ((0, -ONE, ONE, 0), lambda x: np.rot90(x)),
    "mirrored": ((-ONE, 0, 0, ONE), np.fliplr),
    "upside down": ((ONE, 0, 0, -ONE), np.flipud),
    "turned and mirrored": ((0, ONE, ONE, 0), lambda x: np.rot90(np.fliplr(x))),
}


def turned(path, matrix, clip=None):
    data = make.write(path, make.frames(width=128) if clip is None else clip).read_bytes()
    place = data.find(b"tkhd") + 44
    a, b, c, d = matrix
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])
    return path


def in_the_engine(path, kind="video"):
    """What cosmos-rl's packer gets of a file: the library's pixels (frames, 3, height, width)."""
    from qwen_vl_utils import vision_process

    video_reader.install_reader()
    part = {kind: str(path), "min_pixels": 3136, "max_pixels": 81920} | ({"fps": 2} if kind == "video" else {})
    return vision_process.fetch_video(part) if kind == "video" else vision_process.fetch_image(part)


@pytest.mark.parametrize("name", TURNS)
def test_a_clip_is_turned_as_players_turn_it_everywhere(name, encoder, tmp_path):
    matrix, turn = TURNS[name]
    stored, _ = read_frames(turned(tmp_path / "a.mp4", TURNS["plain"][0]), 2)
    path = turned(tmp_path / "b.mp4", matrix)
    shown, _ = read_frames(path, 2)
    for before, after in zip(stored, shown):
        assert np.array_equal(turn(before.permute(1, 2, 0).numpy()), after.permute(1, 2, 0).numpy())
    facts = inspect(path)
    assert facts.shown_size == (shown.shape[3], shown.shape[2]) and facts.usable
    assert (name != "plain") == any(f.code == "rotated" for f in facts.findings) or name == "upside down"
    limits = {"fps": encoder.contract.vision.fps, "max_pixels": encoder.contract.vision.max_pixels, "min_pixels": 3136}
    frames, height, width = encoder.media("video", path).grid
    assert frames * height * width // 4 == part_tokens({"type": "video", **limits}, facts)
    if sys.platform == "linux":
        theirs = in_the_engine(path)
        plain = in_the_engine(tmp_path / "a.mp4")
        assert torch.allclose(theirs, torch.from_numpy(np.stack([turn(x.permute(1, 2, 0).numpy()) for x in plain]))
                              .permute(0, 3, 1, 2), atol=2)  # fmt: skip


def test_a_turn_by_no_right_angle_is_refused_by_all(tmp_path):
    path = turned(tmp_path / "a.mp4", (46341, 46341, -46341, 46341))
    with pytest.raises(VideoError, match=r"a\.mp4.*not a right one"):
        read_frames(path, 2)
    assert [f.code for f in inspect(path).findings] == ["rotated"] and not inspect(path).usable


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation, encoder, tmp_path):
    picture = Image.fromarray(make.frames(width=128)[0])
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(upright))
    facts = inspect(tmp_path / "a.png", kind="image")
    assert facts.shown_size == upright.size
    part = {"type": "image", "min_pixels": 784, "max_pixels": encoder.contract.vision.max_pixels}
    _, height, width = encoder.media("image", tmp_path / "a.png").grid
    assert height * width // 4 == part_tokens(part, facts)
    if sys.platform == "linux":
        assert (in_the_engine(tmp_path / "a.png", "image").size[0] > 100) == (upright.size[0] > 100)


def test_what_is_transparent_is_white_in_both_engines(tmp_path):
    glass = Image.new("RGBA", (64, 64), (10, 20, 30, 0))
    glass.save(tmp_path / "a.png")
    glass.convert("LA").save(tmp_path / "b.png")
    glass.quantize().save(tmp_path / "c.png")
    for name in "abc":
        path = tmp_path / f"{name}.png"
        assert open_image(path).getpixel((5, 5)) == (255, 255, 255)
        if sys.platform == "linux":
            assert in_the_engine(path, "image").getpixel((5, 5)) == (255, 255, 255)


def test_the_clip_is_read_and_not_its_cover(tmp_path):
    for end in ("mkv", "mp4"):
        path = tmp_path / f"a.{end}"
        with av.open(str(path), "w") as container:
            cover, clip = container.add_stream("mjpeg", rate=1), container.add_stream("libx264", rate=4)
            cover.width = cover.height = 32
            cover.pix_fmt, clip.pix_fmt, clip.width, clip.height = "yuvj420p", "yuv420p", 64, 64
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
            container.mux(cover.encode())
            for image in make.frames():
                container.mux(clip.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(clip.encode())
        assert read_frames(path, 2)[0].shape == (4, 3, 64, 64)
        assert (inspect(path).codec, inspect(path).frames, inspect(path).usable) == ("h264", 8, True)


# a screen recording: a frame a second while nothing happens, then 15 frames in half a second
UNEVEN = [*range(0, 10_000, 1000), *(10_000 + 33 * i for i in range(15))]


def grey(count):
    return np.stack([np.full((64, 64, 3), 8 * i + 20, np.uint8) for i in range(count)])


def test_frames_that_are_not_evenly_spaced_are_taken_by_their_times(encoder, tmp_path):
    path = make.write(tmp_path / "a.mp4", grey(25), times=UNEVEN)
    clip = timing(path)
    assert clip.total == 25 and clip.times and clip.total / clip.rate == pytest.approx(10.5, abs=0.1)
    frames, rate = read_frames(path, 1)
    levels = ((frames[:, 0].float().mean((1, 2)) - 20) / 8).round().int().tolist()
    wanted = np.linspace(0, UNEVEN[-1], len(frames))
    assert levels == [max(i for i, t in enumerate(UNEVEN) if t <= at + 0.5) for at in wanted]
    assert len(frames) == 10 and rate == pytest.approx(10 / 10.5, abs=0.01)
    facts = inspect(path)
    _, height, width = encoder.media("video", path).grid
    limits = {"fps": encoder.contract.vision.fps, "max_pixels": encoder.contract.vision.max_pixels, "min_pixels": 3136}
    assert encoder.media("video", path).grid[0] * height * width // 4 == part_tokens({"type": "video", **limits}, facts)
    if sys.platform == "linux":
        pixels, facts, engine_rate = video_reader.read_video({"video": str(path), "fps": 1})
        assert torch.equal(pixels, frames) and engine_rate == pytest.approx(rate)


def test_evenly_spaced_frames_are_taken_by_their_number_wherever_the_clip_begins(tmp_path):
    for start in (0, 60_000, -500):
        times = None if not start else [start + 250 * i for i in range(23)]
        path = make.write(tmp_path / f"a{start}.mkv", grey(23), times=times)
        clip = timing(path)
        assert not clip.times and clip.spread(10) == torch.linspace(0, 22, 10).round().long().tolist()


def test_what_no_reader_takes_is_refused_in_training_as_in_the_passport(encoder, tmp_path):
    with pytest.raises(VideoError, match=r"a\.mp4.*no video stream"):
        read_frames(make.write_sound(tmp_path / "a.mp4"), 2)
    assert unfit(8193, 8193) and unfit(201, 1) and not unfit(200, 1) and MAX_PIXELS == 8192**2
    thin = make.write(tmp_path / "b.mp4", np.zeros((8, 2, 404, 3), np.uint8), pixels="yuv444p")
    Image.new("L", (402, 2)).save(tmp_path / "c.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "d.png")
    (tmp_path / "e.png").write_bytes((tmp_path / "c.png").read_bytes()[:40])
    with pytest.raises(VideoError, match="sides differ"):
        read_frames(thin, 2)
    for name, words in (("c", "sides differ"), ("d", ""), ("e", "")):
        with pytest.raises(VideoError, match=rf"{name}\.png.*{words}"):
            encoder.media("image", tmp_path / f"{name}.png")
        assert not inspect(tmp_path / f"{name}.png", kind="image").usable
    sample = Sample("s", "s", (message("user", {"type": "image", "image": str(tmp_path / "c.png")}, text("?")),))
    assert Contract.load(ROOT / "configs/prompts/captions.yaml").conversation(sample.messages)


def test_any_damage_to_a_clip_or_image_is_one_error(tmp_path):
    rng = np.random.default_rng(0)
    clip = make.write(tmp_path / "a.mp4", make.frames(width=32, height=32)).read_bytes()
    Image.fromarray(make.frames(width=32, height=32)[0]).save(tmp_path / "a.png")
    image = (tmp_path / "a.png").read_bytes()
    for whole, name, read in ((clip, "b.mp4", lambda p: read_frames(p, 2)), (image, "b.png", open_image)):
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
            for place in rng.integers(0, len(data), rng.integers(1, 8)):
                data[place] = rng.integers(256)
            (tmp_path / name).write_bytes(data)
            inspect(tmp_path / name, kind="image" if name == "b.png" else "video")
            with contextlib.suppress(ValueError):  # VideoError, or what the encoder makes one of
                read(tmp_path / name)
