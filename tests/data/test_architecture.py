"""Qwen3-VL's tokens, times, positions and patches are those of transformers' processor and model, for any clip."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info

from cookbook.data.architecture import KNOWN, QWEN2_5_VL, QWEN3_VL, architecture, of_config
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample, message, text, video
from cookbook.data.vision import clip_tokens
from cookbook.engine.bridge import video_reader
from data_tools.passport.clips import inspect
from data_tools.passport.tokens import token_counter
from data_tools.worlds import drawing

FRAMES, RATES, SHAPES = (5, 8, 23, 50), (1, 2, 8, 25), ((64, 64), (48, 120), (200, 56), (160, 180))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Sixty samples: clips of many lengths, rates and sizes, images, both, several turns, words alone."""
    folder, rng, out = tmp_path_factory.mktemp("clips"), random.Random(1), []
    for i in range(20):
        path, picture = folder / f"c{i}.mp4", folder / f"p{i}.png"
        shape = (rng.choice(FRAMES), *rng.choice(SHAPES), 3)
        frames = np.random.default_rng(i).integers(0, 255, shape, np.uint8)
        drawing.write_mp4(path, frames, fps=rng.choice(RATES))
        Image.fromarray(frames[0]).save(picture)
        clip, image, asked = video(path), {"type": "image", "image": str(picture)}, text("what is shown?")
        turns = (message("system", text("look")), message("user", asked, clip, asked, image, clip),
                 message("assistant", text("a car stops")), message("user", asked))  # fmt: skip
        out += [Sample(f"clip-{i}", "c", (message("user", clip, asked),)), Sample(f"turns-{i}", "c", turns)]
        shown = (image, clip, image, clip) if i % 2 else ()
        out.append(Sample(f"image-{i}", "c", (message("user", *shown, asked),)))
    return out


@pytest.mark.parametrize("limits", [{"fps": 4, "max_pixels": 20_000}, {"fps": 0.7, "max_frames": 6}])
def test_prompts_are_those_of_the_stock_processor_and_positions_those_of_the_stock_model(
    samples, encoder3, stock3, contract3, limits
):
    video_reader.install_reader()
    contract = replace(contract3, vision=replace(contract3.vision, **limits))
    encoder = Encoder(encoder3.processor, contract, stock3.config)
    assert len(samples) == 60
    for sample in samples:
        chat = contract.conversation(sample.prompt)
        images, clips, how = process_vision_info(chat, True, True, image_patch_size=16)
        frames, facts = zip(*clips) if clips else (None, None)
        frames, facts = frames and [*frames], facts and [*facts]
        words = encoder.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        shown = {"images": images, "videos": frames, "video_metadata": facts, "do_resize": False}
        want = encoder.processor(text=[words], return_tensors="pt", **shown, **how)
        ours = encoder.prompt_batch([sample])
        assert torch.equal(ours["input_ids"], want["input_ids"]), sample.id
        for name in ("video_grid_thw", "image_grid_thw"):
            assert (name in ours) == (name in want)
            assert name not in want or torch.equal(ours[name], want[name])
        for name in ("pixel_values_videos", "pixel_values"):
            assert name not in want or (ours[name] - want[name]).abs().max() < 1e-6
        grids = {name: want[name] for name in ("video_grid_thw", "image_grid_thw") if name in want}
        positions, _ = stock3.model.get_rope_index(want["input_ids"], attention_mask=want["attention_mask"], **grids)
        assert torch.equal(ours["position_ids"], positions), sample.id


def test_times_stand_between_the_steps_of_a_clip(samples, encoder3):
    words = encoder3.tokenizer.decode(encoder3.tokens(samples[0], generate=True).ids)
    grid = encoder3.media("video", samples[0].video)
    assert words.count(" seconds>") == words.count("<|vision_start|>") == grid.grid[0] == len(grid.times)
    assert len(set(grid.times)) == len(grid.times)


def test_the_passport_counts_the_tokens_that_the_encoder_makes(samples, qwen3, encoder3, contract3):
    count = token_counter(qwen3, contract3)
    alone = [s for s in samples if len(s.messages) == 1]  # an earlier answer is tokenized on its own, in training
    for sample in alone:
        prompt, _ = count(sample, [inspect(path, kind=kind) for kind, path in sample.media()])
        assert prompt == len(encoder3.tokens(sample, generate=True).ids), sample.id


def test_a_plan_counts_vision_in_units_of_32_pixels():
    limits = {"max_pixels": 81_920, "min_pixels": 4096}
    assert clip_tokens(10, 1, 1024, 1024, **limits, family=QWEN3_VL) == 5 * 8 * 8
    assert clip_tokens(10, 1, 1024, 1024, **limits) == 5 * 10 * 10


def test_the_family_is_that_of_config_json(qwen3, stock, stock3, tmp_path):
    assert architecture(qwen3) is of_config(stock3.config) is QWEN3_VL
    assert of_config(stock.config) is QWEN2_5_VL is architecture(tmp_path)
    assert {family.unit for family in KNOWN.values()} == {28, 32}
