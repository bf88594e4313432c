"""The engine's clips: decoded once for all completions, within bounds, and anew where they have changed."""

import sys

import pytest
import torch

from cookbook.data.video import byte_size
from cookbook.engine.bridge import video_reader
from data_tools.formats.av_folder import VIDEO_SUFFIX

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.fixture
def counted(monkeypatch):
    """The clips that were really decoded."""
    read = []
    stock = video_reader.pictures
    monkeypatch.setattr(video_reader, "pictures", lambda path, places: (read.append(path), stock(path, places))[1])
    video_reader.install_reader()
    return read


def test_a_clip_is_decoded_once_for_all_completions(engine, packer, prompts, counted):
    first = packer.get_policy_input(prompts[0], "a")
    for words in ("b", "c", "d"):
        again = packer.get_policy_input(prompts[0], words)
        assert torch.equal(first["pixel_values_videos"], again["pixel_values_videos"])
    assert len(counted) == 1


@pytest.mark.parametrize("kind", ["packer", "packer3"])
def test_a_prompt_is_made_once_for_all_completions(engine, kind, request, prompts, monkeypatch):
    made, packer = [], request.getfixturevalue(kind)
    stock = type(packer)._process_single_sample.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(type(packer), "_process_single_sample", lambda *a, **k: made.append(a) or stock(*a, **k))
        video_reader.install_reader()
        one, two = (packer.get_policy_input(prompts[0], words) for words in ("a", "b c d"))
        other = packer.get_policy_input(prompts[1], "a")
    assert len(made) == 2 and one["pixel_values_videos"] is two["pixel_values_videos"]
    assert other["pixel_values_videos"] is not one["pixel_values_videos"]
    assert len(one["input_ids"]) < len(two["input_ids"])
    assert one["input_ids"][: one["logprob_masks"].index(1)] == two["input_ids"][: two["logprob_masks"].index(1)]


def test_what_is_kept_of_clips_is_bounded_in_bytes(world, counted, monkeypatch):
    from qwen_vl_utils import vision_process

    paths = [str(p) for p in sorted(world.rglob(f"*{VIDEO_SUFFIX}"))[:4]]
    limits = {"min_pixels": 3136, "max_pixels": 81920}
    one = vision_process.fetch_video({"video": paths[0], "fps": 1, **limits}, return_video_sample_fps=True)
    room = 2 * byte_size(one) + 100
    monkeypatch.setattr(video_reader, "CACHE_BYTES", room)
    video_reader.install_reader()
    counted.clear()
    for path in [*paths[:2], paths[0], paths[2], paths[0], paths[1]]:  # the third pushes out the second
        vision_process.fetch_video({"video": path, "fps": 1, **limits}, return_video_sample_fps=True)
    assert counted == [*paths[:3], paths[1]]
    assert sum(map(byte_size, vision_process.fetch_video.kept.values())) <= room
    vision_process.fetch_video({"video": paths[1], "fps": 2, **limits}, return_video_sample_fps=True)
    assert len(counted) == 5  # other frames of the same clip
    monkeypatch.setattr(video_reader, "CACHE_BYTES", 10)
    video_reader.install_reader()
    for _ in range(2):
        vision_process.fetch_video({"video": paths[0], "fps": 1, **limits})
    assert len(counted) == 7 and not vision_process.fetch_video.kept  # too large to keep


def test_a_clip_that_has_changed_is_read_anew(world, counted, tmp_path):
    from qwen_vl_utils import vision_process

    paths = sorted(world.rglob(f"*{VIDEO_SUFFIX}"))[:2]
    copy = tmp_path / "clip.mp4"
    found = []
    for path in paths:
        copy.write_bytes(path.read_bytes())
        found.append(vision_process.fetch_video({"video": str(copy), "min_pixels": 3136, "max_pixels": 81920}))
    assert len(counted) == 2 and not torch.equal(*found)
    with pytest.raises(ValueError, match="cannot be read"):
        vision_process.fetch_video({"video": str(tmp_path / "none.mp4")})
