"""Token counts of the passport are those of the libraries: vision over a grid, whole samples by the encoder."""

from dataclasses import replace

import clip_makers
import pytest
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from cookbook.data.architecture import architecture
from cookbook.data.encoder import Encoder
from cookbook.data.samples import DataError, Sample, message, text
from cookbook.data.video import read_frames
from cookbook.data.vision import TOTAL_PIXELS, VIDEO_PIXELS, clip_tokens, frames_seen
from cookbook.runs import ROOT
from data_tools.passport.clips import ClipFacts, inspect
from data_tools.passport.dataset import passport
from data_tools.passport.tokens import part_tokens, rough_counter, token_counter

BASE = ROOT / "models/tiny-base"
REAL = ROOT.parent / "shared" / "real_videos"


def upstream(width, height, frames, rate, fps, least, most) -> int:
    """What qwen-vl-utils 0.0.14 does in `fetch_video`, without the picture."""
    seen = smart_nframes({"fps": fps}, total_frames=frames, video_fps=rate)
    limit = min(most, max(min(VIDEO_PIXELS[1], TOTAL_PIXELS / seen * 2), int(least * 1.05)))
    h, w = smart_resize(height, width, factor=28, min_pixels=least, max_pixels=limit)
    return seen // 2 * (h // 28) * (w // 28)


@pytest.mark.parametrize("size", [(1008, 560), (640, 512), (112, 112), (64, 64), (1920, 1080), (320, 1200), (29, 31)])
@pytest.mark.parametrize("limits", [(784, 3136), (784, 81920), (100_352, 602_112), (3136, 12_845_056)])
def test_vision_tokens_are_those_of_qwen_vl_utils(size, limits):
    for frames in (2, 3, 4, 5, 8, 10, 31, 100, 900, 3000):
        for rate in (2, 4, 10, 30000 / 1001, 60):
            for fps in (1, 2, 4.0, 7.5):
                want = upstream(*size, frames, rate, fps, *limits)
                assert clip_tokens(frames / rate, fps, *size, *limits[::-1], frames=frames) == want, (frames, rate, fps)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips are not on this machine")
@pytest.mark.parametrize("fps", [1, 2, 4])
def test_frames_seen_of_real_clips_are_those_that_the_reader_returns(fps):
    for path in sorted(REAL.glob("*.mp4")):
        facts = inspect(path)
        assert frames_seen(facts.frames / facts.fps, fps, facts.frames) == len(read_frames(path, fps)[0])


def test_whole_samples_are_counted_as_the_encoder_makes_them(encoder, samples, contract):
    count = token_counter(BASE, contract)
    for sample in samples[:12]:
        prompt, answer = count(sample, [inspect(sample.video)])
        batch = encoder.training_batch([sample])
        assert answer == int((batch["labels"] != -100).sum())
        assert (
            int((batch["labels"][0] != -100).nonzero()[0])
            == prompt
            == encoder.prompt_batch([sample])["input_ids"].shape[1]
        )


@pytest.mark.parametrize("base", [BASE, ROOT / "models/tiny-qwen3"], ids=lambda folder: folder.name)
def test_without_a_tokenizer_a_sample_has_rather_too_many_tokens(samples, contract, base):
    count, rough = token_counter(base, contract), rough_counter(architecture(base), contract)
    for sample in samples[:12]:
        facts = [inspect(sample.video)]
        for told, guessed in zip(count(sample, facts), rough(sample, facts)):
            assert told <= guessed <= 2 * told + 8


def test_a_large_clip_is_made_as_small_as_the_library_makes_it(processor, contract, stock, tmp_path):
    """Whatever the contract allows, qwen-vl-utils gives no frame of a clip more than 602,112 pixels."""
    vast = replace(contract, vision=replace(contract.vision, max_pixels=4_000_000))
    path = clip_makers.write(tmp_path / "large.mp4", clip_makers.frames(width=1120, height=840))
    frames, *_ = Encoder(processor, vast, stock.config).frames(path)
    tokens = len(frames) // 2 * frames.shape[-2] * frames.shape[-1] // 28**2
    assert tokens == upstream(1120, 840, 8, 4, vast.vision.fps, vast.vision.min_pixels, 4_000_000)


def test_a_limit_names_exactly_the_samples_that_would_lose_labels(encoder, samples, contract):
    found = passport(
        {"train": samples}, cache=None, workers=0, count_tokens=token_counter(BASE, contract), max_length=104
    )
    cut = {s.id for s in samples if (encoder.training_batch([s])["labels"][0, 104:] != -100).any()}
    assert 0 < len(cut) < len(samples) and {q.id for q in found.quarantine} == cut


def test_several_clips_and_images_are_each_counted_at_their_place():
    count = token_counter(BASE)
    video = {"type": "video", "video": "v.mp4", "fps": 2, "min_pixels": 784, "max_pixels": 3136}
    image = {"type": "image", "image": "i.png", "min_pixels": 784, "max_pixels": 3136}
    facts = [ClipFacts(width=112, height=112, frames=8, fps=2.0), ClipFacts(width=28, height=56, frames=1)]
    words = [text("What?")]
    one = count(Sample("a", "a", (message("user", video, *words),)), facts[:1])[0]
    both = count(Sample("a", "a", (message("user", video, image, *words),)), facts)[0]
    none = count(Sample("a", "a", (message("user", *words),)), [])[0]
    assert part_tokens(video, facts[0]) == 16 and part_tokens(image, facts[1]) == 2
    assert one == none + 16 + 2 and both == one + 2 + 2  # each stands between a start and an end token


def test_no_target_is_no_answer_and_the_prompt_stays(samples, contract):
    count, facts = token_counter(BASE, contract), [inspect(samples[0].video)]
    asked = replace(samples[0], messages=samples[0].messages[:-1])
    assert count(asked, facts) == (count(samples[0], facts)[0], 0)


@pytest.mark.parametrize("part", [{"max_pixels": 81920}, {"nframes": 8}, {"video_start": 1.0}])
def test_limits_that_cannot_be_counted_are_refused(part):
    with pytest.raises(DataError):
        part_tokens({"type": "video", "video": "v.mp4"} | part, ClipFacts(width=64, height=64, frames=8, fps=4.0))
