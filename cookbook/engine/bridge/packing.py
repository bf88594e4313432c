"""Packed mini-batches of the engine's own Qwen2.5-VL: gradients through them, and no question for each token.

Why: with `train.sequence_packing` cosmos-rl 0.4.7 gathers the embeddings of a mini-batch inside `torch.no_grad`
(utils/sequence_packing.py, pack_sequences_for_inputs): nothing before the first layer learns, neither the vision tower
nor its adapters nor the word embeddings, and no line of the log says so. GRPO spreads each advantage over its tokens
by asking the GPU once a token (utils/sequence_packing.py:371), and sums over the words token by token
(utils/util.py:354): half of the training's time with 3,700 tokens at once. SFT is laid out before (`layout`).
Used by `cookbook.engine.bridge`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def install_packing() -> str:
    """Put all in place for the engine's own model; transformers' (`force_use_hf`) never packs. Returns what it did."""
    from cosmos_rl.policy.model import qwen2_5_vl
    from cosmos_rl.policy.trainer.llm_trainer import grpo_trainer
    from cosmos_rl.utils import util

    if not hasattr(qwen2_5_vl.pack_sequences_for_inputs, "bare"):
        qwen2_5_vl.pack_sequences_for_inputs = _with_gradient(qwen2_5_vl.pack_sequences_for_inputs)
        grpo_trainer.pack_sequences_for_logprobs = _spread_at_once(grpo_trainer.pack_sequences_for_logprobs)
        util.selective_log_softmax = _summed_at_once(util.selective_log_softmax)
    return "with gradients"


def _with_gradient(bare):
    """Returns the engine's `pack_sequences_for_inputs`, whose packed embeddings lead back to those they came from."""

    def pack(inputs_embeds: Tensor, valid_input_len: Tensor, *args, **kwargs) -> dict:
        found = bare(inputs_embeds, valid_input_len, *args, **kwargs)
        if kwargs.get("cp_mesh") is None:
            there = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) < valid_input_len[:, None]
            found["inputs"] = inputs_embeds[there][None]
        return found

    pack.bare = bare
    return pack


def _spread_at_once(bare):
    """Returns the engine's `pack_sequences_for_logprobs`; advantages (rows) become (1, tokens) in one call."""

    def pack(logprob_masks: Tensor, valid_input_len: Tensor, advantages: Tensor | None = None, *args, **kwargs) -> dict:
        found = bare(logprob_masks, valid_input_len, None, *args, **kwargs)
        if advantages is not None:
            spread = advantages.to(logprob_masks.device).float().repeat_interleave(valid_input_len)
            found["advantages"] = spread[None]
        return found

    pack.bare = bare
    return pack


def _summed_at_once(bare):
    """Returns the engine's `selective_log_softmax` of float32 logits (tokens, words), without a call for each token."""

    def log_softmax(logits: Tensor, index: Tensor) -> Tensor:
        if logits.ndim != 2 or logits.dtype != torch.float32:
            return bare(logits, index)
        return -F.cross_entropy(logits, index, reduction="none")

    log_softmax.bare = bare
    return log_softmax
