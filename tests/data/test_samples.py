"""Samples become the tensors that the stock processor and model would make, and labels cover the answer only."""

import torch

from cookbook.data.encoder import IGNORE
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
