"""Clips in the output: the very clip where a browser plays it, else a small copy, never more than is set."""

import base64
import io
import json

import av
import browser
import numpy as np
import pytest
from PIL import Image

from cookbook.data.video import VideoError, read_frames
from cookbook.display.clips import FRAMES, LARGEST, Playing, play
from data_tools.worlds.drawing import write_mp4


@pytest.fixture(scope="module")
def photo_like(tmp_path_factory):
    """A clip of 90 large frames whose content moves, as a camera's does; in another codec than browsers play."""
    path, rng = tmp_path_factory.mktemp("clips") / "camera.avi", np.random.default_rng(0)
    small = rng.integers(0, 255, (30, 60, 3), np.uint8)
    picture = np.array(Image.fromarray(small).resize((1400, 720), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(90):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture[:, i : i + 1280].copy(), format="rgb24")))
        container.mux(stream.encode())
    return path


def kept(clip: Playing) -> int:
    """Returns how many characters the clip takes in a notebook's file."""
    png = base64.encodebytes(clip._repr_png_()).decode()
    return len(json.dumps({"text/html": clip._repr_html_(), "image/png": png}))


def test_a_short_clip_of_h264_goes_in_as_it_is(samples):
    clip = play(samples[0].video)
    assert clip.video == samples[0].video.read_bytes()
    assert clip.seconds == 4.0 and repr(clip) == f"{samples[0].video.name}: 4.0 s"
    page = clip._repr_html_()
    assert all(word in page for word in ("<video controls loop muted", 'poster="data:image/png', "data:video/mp4"))
    assert Image.open(io.BytesIO(clip._repr_png_())).height == 96
    assert kept(clip) < 40_000


def test_of_a_large_clip_a_small_copy_of_the_same_duration_is_made(photo_like, tmp_path):
    assert photo_like.stat().st_size > LARGEST
    clip = play(photo_like)
    assert kept(clip) < 1.02 * LARGEST and clip.seconds == pytest.approx(3.0, abs=0.1)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.video)
    with av.open(str(copy)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames <= FRAMES and float(stream.duration * stream.time_base) == pytest.approx(3.0, abs=0.1)
    before, after = (read_frames(path, fps=2)[0].float() for path in (photo_like, copy))
    assert (before.mean((2, 3)) - after.mean((2, 3))).abs().max() < 6  # the same pictures, in the same order


def test_what_no_copy_can_hold_is_refused_with_what_to_do(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (32, 240, 240, 3), np.uint8)
    write_mp4(tmp_path / "noise.mp4", noise, 8)
    assert kept(play(tmp_path / "noise.mp4")) < 1.02 * LARGEST  # the hardest there is
    with pytest.raises(ValueError, match=r"noise\.mp4: even a copy 112 pixels high takes \d+ kB.*more than 20") as told:
        play(tmp_path / "noise.mp4", largest=20_000)
    asked = int(str(told.value).partition("largest=")[2].partition(")")[0])
    assert play(tmp_path / "noise.mp4", largest=asked).video


def test_a_clip_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        play(tmp_path / "broken.mp4")


@pytest.mark.skipif(not browser.find(), reason="needs Chromium")
@pytest.mark.parametrize("which", ["toy", "copy"])
def test_in_a_browser_it_plays(samples, photo_like, tmp_path, which):
    clip = play(samples[0].video if which == "toy" else photo_like)
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{clip._repr_html_()}")
    plays = """(async () => {
        const v = document.querySelector('video');
        await v.play();
        await new Promise(done => setTimeout(done, 700));
        return [v.videoWidth, v.currentTime, v.duration, v.error ? v.error.message : ''].join(' ');
    })()"""
    with browser.Browser() as opened:
        seen = opened.open(page, 800)
        assert not seen.console and not seen.requests
        said = opened.page.evaluate(plays)
    width, time, duration, *error = said.split()
    assert not error and int(width) > 0 and float(time) > 0.2
    assert float(duration) == pytest.approx(clip.seconds, abs=0.2)
