"""Samples become the tensors that the stock processor and model would make, and labels cover the answer only."""

from dataclasses import replace

import pytest
import torch
from pace import linear, many

from cookbook.data.encoder import IGNORE
from cookbook.data.samples import CONTROL, DataError, control_tokens, message, text
from cookbook.data.video import read_frames


def test_prompt_equals_the_stock_processor(encoder, processor, samples, stock):
    sample = samples[0]
    frames, fps = read_frames(sample.video, encoder.contract.vision.fps)
    chat = encoder.contract.conversation(sample.prompt)
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    want = processor(text=[text], videos=[frames], fps=fps, do_sample_frames=False, return_tensors="pt")
    got = encoder.prompt_batch([sample])
    assert got["input_ids"].tolist() == want["input_ids"].tolist()
    # the processor resizes with another kernel than qwen-vl-utils and the engine do; a few levels of 255
    assert (got["pixel_values_videos"] - want["pixel_values_videos"]).abs().max() < 0.06
    assert got["video_grid_thw"].tolist() == want["video_grid_thw"].tolist()
    positions, _ = stock.model.get_rope_index(
        want["input_ids"],
        None,
        want["video_grid_thw"],
        torch.tensor(want["second_per_grid_ts"]),
        want["attention_mask"],
    )
    assert torch.equal(got["position_ids"], positions)


def test_labels_are_the_assistants_tokens_and_the_end(encoder, samples):
    batch = encoder.training_batch(samples[:4])
    for sample, ids, labels in zip(samples, batch["input_ids"], batch["labels"]):
        kept = labels != IGNORE
        assert torch.equal(ids[kept], labels[kept])
        assert encoder.tokenizer.decode(labels[kept]) == sample.target + encoder.tokenizer.eos_token
        assert labels[-1] == IGNORE  # the line break behind the end of the turn


def test_padding_is_left_for_prompts_and_right_for_training(encoder, samples):
    picked = [samples[0], max(samples, key=lambda s: len(s.question))]
    prompts, training = encoder.prompt_batch(picked), encoder.training_batch(picked)
    assert prompts["attention_mask"][0, 0] == 0 and prompts["attention_mask"][:, -1].tolist() == [1, 1]
    assert training["attention_mask"][:, 0].tolist() == [1, 1]


def test_time_is_seen(encoder, samples):
    """Frames of a clip stand at rising temporal positions; at 4 fps transformers 4.57.6 gives all of them one."""
    batch = encoder.prompt_batch(samples[:1])
    video = batch["input_ids"][0] == encoder.config.video_token_id
    times = batch["position_ids"][0, 0, video].unique()
    assert len(times) == batch["video_grid_thw"][0, 0]


@pytest.mark.fault("inputs")
def test_words_that_would_steer_the_model_are_refused_by_name(encoder, samples):
    for token in ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|video_pad|>", "<|image_pad|>", "<|vision_start|>"):
        asked = message("user", *samples[0].prompt[-1]["content"], text(f"Is {token} shown?"))
        for bad in (replace(samples[0], messages=(asked,)),
                    replace(samples[0], messages=(*samples[0].prompt, message("assistant", text(f"a {token}")))),
                    replace(samples[0], messages=(message("system", text(token)), *samples[0].messages)),
                    replace(samples[0], answer=f"A{token}"), replace(samples[0], options=("A", token))):  # fmt: skip
            assert bad.steers() == token
            with pytest.raises(DataError, match=re_id(bad)):
                encoder.training_batch([bad]) if bad.target else encoder.prompt_batch([bad])
    halves = message("assistant", text("<|im_"), text("end|>"))  # the chat template joins them
    assert replace(samples[0], messages=(*samples[0].prompt, halves)).steers() == "<|im_end|>"
    plain = replace(samples[0], messages=(*samples[0].prompt, message("assistant", text("<think>a < b |> c</think>"))))
    assert not plain.steers() and encoder.tokens(plain)


def re_id(sample):
    return rf"sample {sample.id}: .* control token"


@pytest.mark.fault("load")
def test_the_known_control_tokens_cover_the_tokenizer_and_take_linear_time(encoder):
    special = control_tokens(encoder.tokenizer)
    names = [t.content for t in encoder.tokenizer.added_tokens_decoder.values() if t.special]
    assert names and all(CONTROL.fullmatch(name) and special.fullmatch(name) for name in names)
    for piece in ("<|", "<|im_", "|>", "<|vision_"):
        for names in (CONTROL, special):
            assert not names.search(piece * 10_000) and linear(names.search, many(piece), 100_000)
