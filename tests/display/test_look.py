"""Looking at samples: the pictures are those of the model, and the coloured words are those that are learned."""

import numpy as np

from cookbook.display import look


def test_what_is_read_shows_exactly_what_is_learned(encoder, samples):
    for sample in samples[:5]:
        shown = look.trained_tokens(encoder, sample)
        assert [words for words, learned in shown.parts if learned] == [sample.target + encoder.tokenizer.eos_token]
        plain = repr(shown)
        assert f"«{sample.target}" in plain and sample.question in plain and "[16 video tokens]" in plain
        page = shown._repr_html_()
        assert page.count("<span") == 1 and "&lt;think&gt;" in page


def test_what_is_seen_are_the_models_own_frames(encoder, samples):
    figure = look.seen(encoder, samples[0])
    frames, rate, *_ = encoder.frames(samples[0].video)
    assert len(figure.axes) == len(frames) == 8
    for i, (ax, frame) in enumerate(zip(figure.axes, frames)):
        assert np.array_equal(ax.images[0].get_array(), frame.permute(1, 2, 0).numpy())
        assert ax.get_title(loc="left") == f"{i / rate:.1f} s"
    # and the patches are cut from these: the mean of all pixels is the same
    mean, std = (np.array(getattr(encoder.processor.video_processor, f"image_{n}")) for n in ("mean", "std"))
    pixels = (frames.permute(0, 2, 3, 1).numpy() / 255 - mean) / std
    assert np.isclose(pixels.mean(), encoder.media("video", samples[0].video).patches.mean().item(), atol=1e-4)


def test_the_browser_follows_its_slider(encoder, samples):
    box = look.browse(encoder, samples[:3]).make()
    slider, _ = box.children
    assert (slider.min, slider.max) == (0, 2)
    slider.value = 2
