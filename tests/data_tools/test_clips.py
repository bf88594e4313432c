"""Inspecting clips: every damage gets its finding, nothing raises or hangs or is read twice, whole clips are clean."""

import os
from fractions import Fraction
from pathlib import Path

import av
import clip_makers as make
import numpy as np
import pytest
from helpers import codes, text_file
from PIL import Image

from cookbook.data.video import read_frames
from cookbook.runs import ROOT
from data_tools.passport.clips import ClipFacts, inspect
from data_tools.passport.findings import Limits
from data_tools.passport.reader import inspect_video

REAL = ROOT.parent / "shared" / "real_videos"


# Whole clips


WHOLE = {
    "a.mp4": {},
    "long.mp4": {"clip": make.frames(count=60), "rate": 30},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mkv": {"rate": Fraction(30000, 1001)},  # time stamps of whole milliseconds: uneven, but only by rounding
    "a.webm": {"codec": "libvpx-vp9"},
    "a.avi": {"codec": "mpeg4"},
    "a.ts": {},
    "a.mov": {},
    "with space.mp4": {},
    "日本 ü.mp4": {},
    "a.camera_front_wide_120fov.MP4": {},
    "mjpeg.mp4": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_clip_has_no_findings_and_the_facts_that_were_written(tmp_path, name):
    how = WHOLE[name]
    clip = how.get("clip", make.frames())
    facts = inspect(make.write(tmp_path / name, **how))
    assert facts.findings == () and facts.usable
    assert (facts.frames, facts.height, facts.width) == clip.shape[:3] and facts.rotation == 0
    assert facts.fps == pytest.approx(float(how.get("rate", 4)), rel=1e-3)
    assert facts.seconds == pytest.approx(len(clip) / facts.fps, abs=0.01)
    assert facts.stated in (0, len(clip)) and (facts.stated or "mp4" not in name or name == "fragments.mp4")
    assert facts.bytes == (tmp_path / name).stat().st_size and len(facts.sha256) == 64 and facts.decode_seconds > 0


def test_frames_and_rate_are_those_that_the_model_s_reader_sees(tmp_path):
    path = make.write(tmp_path / "a.mkv", make.frames(count=31), rate=Fraction(30000, 1001))
    facts = inspect(path)
    seen, rate = read_frames(path, facts.fps)  # every frame, but for the one that makes them odd
    assert len(seen) == facts.frames - 1 == 30
    assert rate == pytest.approx(facts.fps * 30 / 31)


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path):
    """A clip cut without encoding it again keeps the frames before the cut, and hides them."""
    with av.open(str(make.write(tmp_path / "a.mp4", make.frames(count=30)))) as whole:
        source = whole.streams.video[0]
        with av.open(str(tmp_path / "b.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as part:
            stream = part.add_stream_from_template(source)
            for packet in whole.demux(source):
                if packet.dts is not None:
                    packet.pts, packet.dts = (t - int(2.5 / source.time_base) for t in (packet.pts, packet.dts))
                    packet.stream = stream
                    part.mux(packet)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].frames == 30
    facts = inspect(tmp_path / "b.mp4")
    assert facts.frames == facts.stated == 20 and not facts.findings


def test_a_name_that_is_not_unicode_is_read(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4")
    try:
        Path(path).touch()
    except OSError:
        pytest.skip("this file system allows Unicode names only")
    make.write(tmp_path / "a.mp4").rename(path)
    assert inspect(path).frames == 8 and not inspect(path).findings


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips are not on this machine")
def test_real_clips_are_clean():
    found = {path.name: inspect(path) for path in sorted(REAL.glob("*.mp4"))}
    assert len(found) >= 2 and all(not facts.findings for facts in found.values())
    arm, second = found["robot_arm.mp4"], found["second_clip.mp4"]
    assert (arm.width, arm.height, arm.frames, arm.fps) == (1008, 560, 10, 4)
    assert (second.width, second.height, second.frames) == (640, 512, 100) and second.fps == pytest.approx(10, rel=1e-3)


# Damaged clips: name, how it is made from a fresh path, the codes that must be found, whether it may be used


def play_list(path):
    """FFmpeg takes this for a video and opens the file that it names, unless it is told not to."""
    make.write(path.parent / "secret.mp4")
    return text_file(path, "ffconcat version 1.0\nfile secret.mp4\n")


def joined(path):
    one, two = make.write(path.parent / "1.ts"), make.write(path.parent / "2.ts", make.frames(1, 8, 128, 96))
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


def huge_header(path):
    make.write(path, codec="gif", pixels="rgb8")
    return make.replace(path, path.read_bytes()[:10], path.read_bytes()[:6] + b"\xff\xff\xff\xff")


def unreadable(path):
    path.symlink_to(path.name)  # a loop; the tests may run as root, who may read everything
    return path


DAMAGED = {
    "missing.mp4": (lambda p: p, {"missing"}),
    "folder.mp4": (lambda p: p.mkdir() or p, {"not-a-file"}),
    "pipe.mp4": (lambda p: os.mkfifo(p) or p, {"not-a-file"}),
    "broken-link.mp4": (lambda p: p.symlink_to("nowhere") or p, {"missing"}),
    "loop.mp4": (unreadable, {"unreadable"}),
    "nul\0byte.mp4": (lambda p: p, {"unreadable"}),
    "n" * 300 + ".mp4": (lambda p: p, {"unreadable"}),
    "file.txt/a.mp4": (lambda p: text_file(p.parent) and p, {"missing"}),
    "empty.mp4": (lambda p: p.touch() or p, {"empty"}),
    "zeros.mp4": (lambda p: p.write_bytes(bytes(5000)) and p, {"not-video"}),
    "random.mp4": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(9000)) and p, {"not-video"}),
    "text.mp4": (text_file, {"not-video"}),
    "html.mp4": (lambda p: text_file(p, "<!DOCTYPE html><html>404</html>"), {"not-video"}),
    "stream.mp4": (lambda p: text_file(p, "#EXTM3U\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n"), {"not-video"}),
    "list.mp4": (play_list, {"not-video"}),
    "clip.txt": (lambda p: make.write(p, format="mp4"), {"extension"}),
    "matroska.mp4": (lambda p: make.write(p, format="matroska"), {"extension"}),
    "transport.avi": (lambda p: make.write(p, format="mpegts"), {"extension"}),
    "sound-only.mp4": (make.write_sound, {"not-video"}),
    "with-sound.mp4": (lambda p: make.write(p, sound=True), {"audio"}),
    "no-decoder.mp4": (lambda p: make.replace(make.write(p), b"avc1", b"xxxx"), {"corrupt"}),
    "no-index.mp4": (lambda p: make.cut(make.write(p), 0.5), {"corrupt"}),
    "head-only.mp4": (lambda p: make.cut(make.write(p), 0.01), {"corrupt"}),
    "cut-50.mp4": (lambda p: make.cut(make.long(p), 0.5), {"corrupt"}),
    "cut-90.mp4": (lambda p: make.cut(make.long(p), 0.9), {"truncated"}),
    "cut-97.mp4": (lambda p: make.cut(make.long(p), 0.97), {"truncated"}),
    "cut.mkv": (lambda p: make.cut(make.write(p, make.frames(count=60), codec="mpeg4"), 0.6), {"truncated"}),
    "cut.avi": (lambda p: make.cut(make.write(p, make.frames(count=60), codec="mpeg4"), 0.8), {"truncated"}),
    "flipped-1.mp4": (lambda p: make.flip(make.long(p), seed=1), {"corrupt"}),
    "flipped-2.mp4": (lambda p: make.flip(make.write(p, make.frames(count=24)), 20, seed=2), {"corrupt"}),
    "no-frames.mkv": (lambda p: make.cut(make.write(p), 0.6), {"too-few-frames", "truncated"}),
    "one-frame.mp4": (lambda p: make.write(p, make.frames(count=1)), {"too-few-frames"}),
    "uneven.mp4": (lambda p: make.write(p, times=[0, 250, 500, 600, 1000, 1250, 1900, 2000]), {"variable-rate"}),
    "rotated.mp4": (lambda p: make.turn(make.write(p)), {"rotated"}),
    "odd-sides.mp4": (lambda p: make.write(p, make.frames(0, 8, 63, 65), pixels="yuv444p"), {"odd-size"}),
    "ribbon.mp4": (lambda p: make.write(p, make.frames(0, 8, 4400, 16)), {"shape"}),
    "joined.ts": (joined, {"size-change"}),
    "huge-header.gif": (huge_header, {"corrupt"}),
}
ALONG = {"corrupt": {"truncated"}, "truncated": {"corrupt"}, "size-change": {"variable-rate"}}  # may be found too
HARMLESS = {"extension", "audio", "variable-rate", "rotated", "odd-size"}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_clip_gets_its_finding_and_raises_nothing(tmp_path, name):
    damage, wanted = DAMAGED[name]
    facts = inspect(damage(tmp_path / name))
    assert wanted <= codes(facts) <= wanted | ALONG.get(min(wanted), set()), facts.findings
    assert facts.usable == (wanted <= HARMLESS)
    assert facts.path == tmp_path / name and all(f.message for f in facts.findings)


def test_a_clip_without_findings_can_be_read_by_the_model_s_reader_wherever_it_is_cut(tmp_path):
    whole, path = make.long(tmp_path / "whole.mp4").read_bytes(), tmp_path / "cut.mp4"
    for share in np.linspace(0.02, 0.99, 25):
        path.write_bytes(whole[: int(share * len(whole))])
        assert not inspect(path).usable, f"{share:.0%} of the bytes pass for a whole clip"


def test_random_damage_never_raises_and_seldom_goes_unseen(tmp_path):
    """H.264 has no check sums: a flipped bit that decodes to a wrong colour is not to be seen."""
    make.long(tmp_path / "whole.mp4")
    whole, unseen = (tmp_path / "whole.mp4").read_bytes(), 0
    for seed in range(40):
        (tmp_path / "a.mp4").write_bytes(whole)
        unseen += inspect(make.flip(tmp_path / "a.mp4", seed=seed)).usable
    assert unseen <= 4
    rng = np.random.default_rng(0)
    for _ in range(60):  # anywhere, the index too
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 10):
            data[place] = rng.integers(256)
        (tmp_path / "a.mp4").write_bytes(data)
        assert isinstance(inspect(tmp_path / "a.mp4"), ClipFacts)


def test_what_is_huge_is_a_choice(tmp_path):
    path = make.write(tmp_path / "a.mp4")
    assert not inspect(path).findings
    for limits in (Limits(bytes=100), Limits(pixels=1000), Limits(seconds=1)):
        facts = inspect(path, limits=limits)
        assert codes(facts) == {"huge"} and facts.usable


def test_a_link_out_of_the_folder_is_refused_unread_and_one_within_is_not(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    outside = make.write(tmp_path / "outside.mp4")
    make.write(data / "inside.mp4")
    (data / "out.mp4").symlink_to(outside)
    (data / "in.mp4").symlink_to("inside.mp4")
    for path in (data / "out.mp4", outside, data / ".." / "outside.mp4"):
        facts = inspect(path, folder=data)
        assert codes(facts) == {"outside"} and not facts.sha256 and "../outside.mp4" in facts.findings[0].message
    assert not inspect(data / "in.mp4", folder=data).findings
    assert not inspect(data / "out.mp4").findings  # without a folder there is no outside


def test_time_runs_out_instead_of_hanging(tmp_path):
    path = make.write(tmp_path / "a.mp4")
    assert codes(inspect(path, limits=Limits(patience=0))) == {"slow"}
    late = inspect_video(path, patience=-1)
    assert not late.complete and late.frames == 0


# Looks


def apart(one: ClipFacts, other: ClipFacts) -> int:
    a, b = (np.frombuffer(bytes.fromhex(facts.look), np.uint8).astype(int) for facts in (one, other))
    return np.abs(a - b).max()


def test_a_look_survives_another_encoding_and_tells_clips_apart(tmp_path):
    clip = make.frames(3)
    first = inspect(make.write(tmp_path / "a.mp4", clip))
    again = inspect(make.write(tmp_path / "b.avi", clip, codec="mpeg4"))
    small = inspect(make.write(tmp_path / "c.mp4", clip[:, ::2, ::2]))
    other = inspect(make.write(tmp_path / "d.mp4", make.frames(4)))
    backwards = inspect(make.write(tmp_path / "e.mp4", clip[::-1].copy()))
    assert apart(first, again) <= 12 and apart(first, small) <= 12
    assert apart(first, other) > 30 and apart(first, backwards) > 30


# Images


def test_images_are_read_too(tmp_path):
    picture = Image.fromarray(make.frames()[0])
    picture.save(tmp_path / "a.png")
    facts = inspect(tmp_path / "a.png", kind="image")
    assert (facts.width, facts.height, facts.frames, facts.container) == (64, 64, 1, "png") and not facts.findings
    exif = Image.Exif()
    exif[274] = 6  # the orientation that a telephone writes
    picture.save(tmp_path / "b.jpg", exif=exif)
    assert codes(inspect(tmp_path / "b.jpg", kind="image")) == {"rotated"}
    picture.save(tmp_path / "c.jpg", format="PNG")
    assert codes(inspect(tmp_path / "c.jpg", kind="image")) == {"extension"}


def test_damaged_images_are_findings(tmp_path):
    Image.fromarray(make.frames()[0]).save(tmp_path / "a.png")
    assert codes(inspect(make.cut(tmp_path / "a.png", 0.5), kind="image")) == {"corrupt"}
    assert codes(inspect(text_file(tmp_path / "b.png"), kind="image")) == {"not-image"}
    assert codes(inspect(make.write(tmp_path / "c.mp4"), kind="image")) == {"not-image"}
    assert codes(inspect(tmp_path / "d.png", kind="image")) == {"missing"}
