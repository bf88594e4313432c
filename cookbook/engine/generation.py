"""Completions of several prompts in one call of transformers' `generate`: from what the trainer gets, at its positions.

Why: a rollout must see what the trainer sees, or the policy is graded on another clip than it answered to. So a prompt
is what the engine's own packer makes of it for the trainer: the same token ids, the same pixels, and the packer's
rotary positions. transformers 4.57.6 would compute others: `get_rope_index` rounds the seconds of a step down to an
integer, and at 4 fps all frames of a clip share one time (CONTRIBUTING.md). Positions are therefore given to it.

All prompts of a call go in one left-padded batch, however many a process has: with FSDP every process must make the
same number of forward passes. Used by `cookbook.engine.rollout`.

    complete(model, [packer.get_policy_input(prompt) for prompt in prompts], settings, pad)
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig

MEDIA = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")


def sampling(config: Any, is_validation: bool) -> GenerationConfig:
    """Returns how the engine's configuration wants its completions: [rollout], or in a validation [validation].

    What [validation] leaves open is as in [rollout]. Temperature 0 takes the likeliest token: then all completions of a
    prompt are the same, so one is made.
    """
    stated, length = config.rollout.sampling_config, config.rollout.max_response_length
    values = {key: getattr(stated, key) for key in ("temperature", "top_p", "top_k", "repetition_penalty")}
    count = config.rollout.n_generation
    if is_validation:
        checked = config.validation
        values |= {key: getattr(checked, key) for key in values if getattr(checked, key) is not None}
        length, count = checked.max_response_length or length, checked.n_generation
    penalty = values.pop("repetition_penalty")
    if values["temperature"] <= 0:
        return GenerationConfig(max_new_tokens=length, repetition_penalty=penalty)
    values["top_k"] = max(values["top_k"], 0)  # the engine's -1, "all tokens", is transformers' 0
    return GenerationConfig(
        do_sample=True, max_new_tokens=length, num_return_sequences=count, repetition_penalty=penalty, **values
    )


def prompt_batch(prompts: Sequence[Mapping[str, Any]], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """Returns prompts as the packer makes them for the trainer in one left-padded batch, and their rotary positions.

    Ids and mask are (prompts, length), positions (3, prompts, length); clips and images follow one another.
    """
    length = max(len(prompt["input_ids"]) for prompt in prompts)
    ids = torch.full((len(prompts), length), pad)
    mask, positions = torch.zeros_like(ids), torch.ones(3, *ids.shape, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        start = length - len(prompt["input_ids"])
        ids[i, start:], mask[i, start:] = torch.tensor(prompt["input_ids"]), 1
        positions[:, i, start:] = prompt["position_ids"][:, 0]
    batch = {"input_ids": ids, "attention_mask": mask}
    for name in MEDIA:
        if found := [prompt[name] for prompt in prompts if prompt[name] is not None]:
            batch[name] = torch.cat(found)
    return batch, positions


@contextmanager
def positioned(model, positions: Tensor):
    """While open, `generate` starts from these positions (3, prompts, length), and counts on from the largest."""
    behind = positions.amax((0, 2)) + 1 - positions.shape[-1]

    def get_rope_index(input_ids: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        copies = len(input_ids) // positions.shape[1]  # a prompt's completions stand together
        return positions.repeat_interleave(copies, dim=1), behind.repeat_interleave(copies)[:, None]

    model.model.get_rope_index = get_rope_index  # hides the class's own
    try:
        yield
    finally:
        del model.model.get_rope_index
        model.model.rope_deltas = None  # the trainer brings its own positions


def unsayable(model_config, known: int) -> list[int]:
    """Returns the tokens that must not be sampled: rows of the vocabulary without a text, and those that announce a
    clip or an image, which the trainer would then look for. `known` is the length of the tokenizer.
    """
    vision = (model_config.image_token_id, model_config.video_token_id, model_config.vision_start_token_id)
    return sorted({*vision, *range(known, model_config.get_text_config().vocab_size)})


@torch.no_grad()
def complete(model, prompts: Sequence[Mapping[str, Any]], settings: GenerationConfig, pad: int) -> list[list[int]]:
    """Returns the token ids of the completions, up to and with the token that ends one; those of a prompt together.

    `settings` names the tokens that end a completion. Of a sharded model, `generate` must run FSDP's hooks.
    """
    device = next(model.parameters()).device
    batch, positions = prompt_batch(prompts, pad)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    trained = model.training
    model.eval()  # gradient checkpointing, on while training, would switch the cache off
    with positioned(model, positions.to(device)):
        out = model.generate(
            **batch,
            generation_config=settings,
            use_model_defaults=False,  # or the model's own temperature and penalty would fill what is left at default
            synced_gpus=isinstance(model, FSDPModule) and dist.get_world_size() > 1,
        )
    model.train(trained)
    return [until_end(row, settings.eos_token_id) for row in out[:, batch["input_ids"].shape[1] :].tolist()]


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Returns the tokens up to and with the first that ends a completion; all where none does."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens)) + 1]
