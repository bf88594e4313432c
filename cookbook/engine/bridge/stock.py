"""Mini-batches of SFT of transformers' Qwen3-VL, which the engine has no model of its own for, as fast as of its own.

Why: cosmos-rl 0.4.7 gives transformers' model padded rows without saying where their labels are, compiles none of it
(policy/model/hf_models/parallelize.py:57), and packs it with flash-attn alone. Its tower attends frame by frame, and
asks the GPU how long each is. Here it takes what `cookbook.engine.bridge.layout` laid out: samples end to end in one
call of the varlen kernel, all frames in another, logits where labels follow; and `train.compile` compiles its layers.
Each part of the model is called as a module, so that FSDP, adapters and recomputation find their places.
Losses and gradients are those of the engine's own order (`tests/engine/test_stock.py`). Used by `.layout`.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from cookbook.data.architecture import KNOWN
from cookbook.engine.bridge.attention import attend_packed, see
from cookbook.engine.bridge.sharing import MEDIA

PLACES, GRIDS = "media_places", "media_grids"


def install_stock() -> None:
    """Put in place, once, what all of transformers' models share."""
    from cosmos_rl.policy.model.hf_models import HFModel, parallelize
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention

    HFModel.forward = _unfiltered(HFModel.forward)
    HFModel.set_gradient_checkpointing_enabled = _recomputed(HFModel.set_gradient_checkpointing_enabled)
    parallelize.parallelize = _compiled(parallelize.parallelize)
    Qwen3VLVisionAttention.forward = _seen(Qwen3VLVisionAttention.forward)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _end_to_end(ALL_ATTENTION_FUNCTIONS["sdpa"])


def is_known(model: torch.nn.Module) -> bool:
    """Whether this is the engine's wrapper of transformers' Qwen3-VL, and attends as `install_stock` expects."""
    family = KNOWN.get(getattr(getattr(model, "hf_config", None), "model_type", None))
    text = model.model.model.language_model.config if family and family.stamped else None
    return bool(text) and text._attn_implementation == "sdpa" and not text.attention_dropout


def media_of(tower, embedded: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, list]:
    """Returns (pixels, grids) of a mini-batch, an empty frame's where it has words alone.

    GPUs that share a model gather each part when all of them call it. The engine calls its own model's tower once for
    clips, once for images and not at all for words, and transformers' not for words in validation, so that GPUs with
    other samples wait for ever, or take one weight for another (`tests/engine/two_ranks.py`).
    """
    if there := [kwargs[pixels] for _, pixels, _ in MEDIA if pixels in kwargs]:
        return torch.cat(there), kwargs[GRIDS]
    side, patch = tower.spatial_merge_size, tower.patch_embed.proj.weight.shape[1:].numel()
    return embedded.new_zeros(side**2, patch), [(1, side, side)]


def take_laid_out(model: torch.nn.Module, send: Callable[[Tensor], Tensor]) -> Callable:
    """Let the engine's wrapper take what is laid out. Returns what makes the positions that its packer makes not.

    `send` brings a tensor to the GPU without waiting.
    """
    whole, inner = model.model, model.model.model
    whole.forward = _whole(whole, whole.forward)
    inner.language_model.forward = _language(inner.language_model, inner.language_model.forward)
    inner.visual.forward = _tower(inner.visual, inner.visual.forward, send)
    return inner.get_rope_index


def _unfiltered(bare: Callable) -> Callable:
    """Returns the `forward` of the engine's wrapper, which hands on what is laid out as it is."""

    @wraps(bare)
    def forward(model, input_ids=None, position_ids=None, *args: Any, tokens: Tensor | None = None, **kwargs: Any):
        if tokens is None:
            return bare(model, input_ids, position_ids, *args, **kwargs)
        return model.model(tokens=tokens, position_ids=position_ids, **kwargs)

    return forward


def _recomputed(bare: Callable) -> Callable:
    """Returns the wrapper's method, by which adapters of the tower learn too.

    Transformers' usual way of recomputing gives a block no gradient whose input has none: the tower's, behind frozen
    weights (`tests/engine/test_stock.py`).
    """

    @wraps(bare)
    def enable(model, enabled: bool) -> None:
        bare(model, enabled)
        if enabled and is_known(model):
            model.model.gradient_checkpointing_enable({"use_reentrant": False})

    return enable


def _whole(model, bare: Callable) -> Callable:
    """Returns the `forward` of model and head: logits (labels, words) of what is laid out."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    @wraps(bare)
    def forward(*args: Any, tokens: Tensor | None = None, **kwargs: Any):
        if tokens is None:
            return bare(*args, **kwargs)
        embedded = model.model.language_model.embed_tokens(tokens)
        seen, inner = model.model.visual(*media_of(model.model.visual, embedded, kwargs))
        if not kwargs[GRIDS]:
            seen, inner = seen[:0], [layer[:0] for layer in inner]
        embedded = embedded.index_copy(1, kwargs[PLACES], seen.to(embedded.dtype)[None])
        named = ("position_ids", "cu_seqlens", "max_seqlen")
        hidden = model.model.language_model(
            inputs_embeds=embedded, shown=(kwargs[PLACES], inner), **{name: kwargs[name] for name in named}
        )
        return CausalLMOutputWithPast(logits=model.lm_head(hidden[0, kwargs["interested_tokens"]]))

    return forward


def _language(model, bare: Callable) -> Callable:
    """Returns the language model's `forward`: (1, tokens, width) to the same, each sample for itself."""

    @wraps(bare)
    def forward(*args: Any, shown: tuple[Tensor, list[Tensor]] | None = None, **kwargs: Any):
        if shown is None:
            return bare(*args, **kwargs)
        (places, inner), hidden = shown, kwargs.pop("inputs_embeds")
        angles = model.rotary_emb(hidden, kwargs.pop("position_ids"))
        for i, layer in enumerate(model.layers):
            hidden = layer(hidden, position_embeddings=angles, attention_mask=None, **kwargs)
            if i < len(inner):
                hidden = hidden.index_add(1, places, inner[i].to(hidden.dtype)[None])
        return model.norm(hidden)

    return forward


def _tower(tower, bare: Callable, send: Callable[[Tensor], Tensor]) -> Callable:
    """Returns the tower's `forward`, which takes grids as a list too: [(steps of time, height, width)] in patches."""

    def places(height: int, width: int) -> Tensor:
        return tower.fast_pos_embed_interpolate(torch.tensor([[1, height, width]]))

    @lru_cache(maxsize=64)
    def angles_of(height: int, width: int) -> Tensor:
        angles = tower.rot_pos_emb(torch.tensor([[1, height, width]])).flatten(1)
        return torch.cat([angles, angles], dim=-1)

    kept = lru_cache(maxsize=64)(places)

    @wraps(bare)
    def forward(hidden_states: Tensor, grid_thw: Tensor | list, **kwargs: Any):
        if isinstance(grid_thw, Tensor):
            return bare(hidden_states, grid_thw, **kwargs)
        place = places if tower.pos_embed.weight.requires_grad else kept  # to make them, the GPU is waited for
        hidden = tower.patch_embed(hidden_states)
        hidden = hidden + torch.cat([place(h, w).repeat(t, 1) for t, h, w in grid_thw]).to(hidden.dtype)
        angles = torch.cat([angles_of(h, w).repeat(t, 1) for t, h, w in grid_thw])
        sizes = [h * w for t, h, w in grid_thw for _ in range(t)]
        edges = send(torch.tensor([0, *accumulate(sizes)], dtype=torch.int32))
        given = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)  # as FSDP casts them
        inner, own = [], dict(zip(tower.deepstack_visual_indexes, tower.deepstack_merger_list))
        for i, block in enumerate(tower.blocks):
            hidden = block(hidden, cu_seqlens=edges, position_embeddings=given, max_seqlen=max(sizes))
            inner += [own[i](hidden)] if i in own else []
        return tower.merger(hidden), inner

    return forward


def _seen(bare: Callable) -> Callable:
    """Returns the `forward` of the tower's attention, which takes all frames at once where their longest is given."""

    @wraps(bare)
    def forward(block, hidden_states: Tensor, cu_seqlens: Tensor, *args: Any, max_seqlen: int | None = None, **kwargs):
        if max_seqlen is None:
            return bare(block, hidden_states, cu_seqlens, *args, **kwargs)
        return see(block, hidden_states, cu_seqlens, kwargs["position_embeddings"], max_seqlen)

    return forward


def _end_to_end(bare: Callable) -> Callable:
    """Returns transformers' attention by PyTorch, for samples end to end where their edges are given."""

    @wraps(bare)
    def attend(module, q: Tensor, k: Tensor, v: Tensor, *args: Any, cu_seqlens: Tensor | None = None, **kwargs: Any):
        if cu_seqlens is None:
            return bare(module, q, k, v, *args, **kwargs)
        longest, scale = kwargs["max_seqlen"], kwargs["scaling"]
        q, k, v = (heads[0].transpose(0, 1) for heads in (q, k, v))
        out = attend_packed(q, k, v, cu_seqlens, cu_seqlens, longest, longest, causal=True, softmax_scale=scale)
        return out[None], None

    return attend


def _compiled(bare: Callable) -> Callable:
    """Returns the engine's `parallelize`, which compiles the layers of a known model of SFT where that is asked for."""

    @wraps(bare)
    def parallelize(model, parallel_dims, config, *args: Any, **kwargs: Any):
        asked = config.train.compile
        if asked and is_known(model) and not parallel_dims.tp_enabled and config.train.train_policy.type == "sft":
            for block in (*model.lm_layers, *model.vision_layers):
                block.forward = torch.compile(block.forward)
            config.train.compile = False
            limits = torch._dynamo.config  # shapes of clips and of words; the engine raises it for validation alone
            limits.recompile_limit = max(limits.recompile_limit, 64)
        try:
            return bare(model, parallel_dims, config, *args, **kwargs)
        finally:
            config.train.compile = asked

    return parallelize
