"""Packed mini-batches of the engine's own Qwen2.5-VL: gradients through them, logits only where something is learned.

Why: with `train.sequence_packing` cosmos-rl 0.4.7 gathers the embeddings of a mini-batch inside `torch.no_grad`
(utils/sequence_packing.py, pack_sequences_for_inputs): nothing before the first layer learns, neither the vision tower
nor its adapters nor the word embeddings, and no line of the log says so. And SFT never names the tokens that it wants
(`interested_tokens`): 152,064 logits are made, copied to float32 and differentiated for each token of a clip, which has
no label. GRPO spreads each advantage over its tokens by asking the GPU once a token (utils/sequence_packing.py:371),
and sums over the words token by token (utils/util.py:354): half of the training's time with 3,700 tokens at once.
Used by `cookbook.engine.bridge`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def install_packing() -> str:
    """Put all in place for the engine's own model; transformers' (`force_use_hf`) never packs. Returns what it did."""
    from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
    from cosmos_rl.policy.model import qwen2_5_vl
    from cosmos_rl.policy.trainer.llm_trainer import grpo_trainer, sft_trainer
    from cosmos_rl.utils import util

    if not hasattr(qwen2_5_vl.pack_sequences_for_inputs, "bare"):
        qwen2_5_vl.pack_sequences_for_inputs = _with_gradient(qwen2_5_vl.pack_sequences_for_inputs)
        Qwen2_5_VLM_DataPacker.sft_collate_fn = _with_places(Qwen2_5_VLM_DataPacker.sft_collate_fn)
        sft_trainer.async_safe_ce = _at_places(sft_trainer.async_safe_ce)
        grpo_trainer.pack_sequences_for_logprobs = _spread_at_once(grpo_trainer.pack_sequences_for_logprobs)
        util.selective_log_softmax = _summed_at_once(util.selective_log_softmax)
    return "with gradients, logits of labels"


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


def _with_places(bare):
    """Returns the packer's `sft_collate_fn`, which also says before which tokens a label stands (batch, length)."""

    def collate(self, processed_samples: list, computed_max_len: int, ignore_label_id: int) -> dict:
        batch = bare(self, processed_samples, computed_max_len, ignore_label_id)
        if not (self.config.train.force_use_hf or self.config.policy.parallelism.cp_size > 1):
            places = torch.zeros_like(batch["label_ids"], dtype=torch.bool)
            places[:, :-1] = batch["label_ids"][:, 1:] != ignore_label_id
            batch["interested_tokens"] = places
        return batch

    return collate


def _at_places(bare):
    """Returns the engine's `async_safe_ce`, which takes logits of the places alone too: (labels, words)."""

    def loss(output: Tensor, target: Tensor, *args, ignore_index: int = -100, **kwargs) -> Tensor:
        if output.ndim == 2:
            ends = kwargs.get("target_packing_mask")
            target = target[:, 1:] if ends is None else target[ends]
            output, target = output[None], target[target != ignore_index][None]
            kwargs |= dict.fromkeys(("output_packing_mask", "target_packing_mask"), torch.ones_like(target).bool())
        return bare(output, target, *args, ignore_index=ignore_index, **kwargs)

    return loss


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
