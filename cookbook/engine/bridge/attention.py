"""PyTorch's own attention, in the place where cosmos-rl calls flash-attn.

Why: flash-attn has no wheel for every torch, and compiling it takes an hour. The native models of cosmos-rl 0.4.7 get
functions that raise NotImplementedError where it is missing (policy/kernel/modeling_utils.py:121), and its transformers
models (`force_use_hf`) are told to use it whatever is installed (policy/model/hf_models/patch.py:39). PyTorch has the
same kernels. Nothing is replaced where flash-attn is installed. Used by `cookbook.engine.bridge`.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from cookbook.data.architecture import KNOWN


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, softmax_scale: float | None = None) -> Tensor:
    """flash_attn_func: (batch, length, heads, width) to the same; fewer key heads than query heads are allowed.

    Where it is causal, the last query sees the last key.
    """
    mask, behind = None, k.shape[1] - q.shape[1]
    if causal and behind:  # PyTorch would let the first query see the first key alone
        mask, causal = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril(behind), False
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=softmax_scale, enable_gqa=grouped)
    return out.transpose(1, 2)


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = False,
    softmax_scale: float | None = None,
) -> Tensor:
    """flash_attn_varlen_func: sequences end to end, (tokens, heads, width), each attending to itself only.

    `cu_seqlens` holds the edges (sequences + 1). On CUDA one kernel takes all, in 16 bits; else it goes one by one.
    """
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16):
        edges = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()))
        parts = [attend(q[None, a:b], k[None, c:d], v[None, c:d], causal, softmax_scale) for (a, b), (c, d) in edges]
        return torch.cat(parts, dim=1)[0]
    if (copies := q.shape[1] // k.shape[1]) > 1:  # torch 2.11's kernel wants as many key heads as query heads
        k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
    edges = (cu_seqlens_q.to(torch.int32), cu_seqlens_k.to(torch.int32), int(max_seqlen_q), int(max_seqlen_k))
    return varlen_attn(q, k, v, *edges, scale=softmax_scale, window_size=(-1, 0) if causal else (-1, -1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """apply_rotary_emb: turns the halves of x (batch, length, heads, width) by angles (length, width / 2)."""
    one, two = x.chunk(2, dim=-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


def rotate_vision(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """apply_rotary_pos_emb_vision, computed in float32: (1, patches, heads, width), angles (patches, width)."""
    cos, sin = (angle.chunk(2, dim=-1)[0].float() for angle in (cos, sin))
    return rotate(q.float(), cos, sin).type_as(q), rotate(k.float(), cos, sin).type_as(k)


def see(block, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], max_seqlen: int):
    """Qwen2_5_VLVisionAttention.forward, and Qwen3-VL's: (patches, width) to the same, each sequence for itself.

    Queries, keys and values are parted where they stand. The engine puts them in another order first
    (policy/model/vision_encoder/qwen2_5_vl.py:192), and on the way back compiled code then lays their gradients
    together ten times slower than memory allows: 8 % of a step of 7B that trains the tower, 6 % as it stands here.
    """
    q, k, v = block.qkv(hidden_states).view(len(hidden_states), 3, block.num_heads, -1).unbind(1)
    q, k = (rotated[0] for rotated in rotate_vision(q[None], k[None], *position_embeddings))
    attend = getattr(block, "attn_func", None)  # transformers' block has none
    taken = torch.bfloat16 if attend and q.dtype == torch.float32 else q.dtype  # as the engine does, for flash-attn
    lengths = {"max_seqlen_q": max_seqlen, "max_seqlen_k": max_seqlen, "causal": False}
    out = (attend or attend_packed)(q.to(taken), k.to(taken), v.to(taken), cu_seqlens, cu_seqlens, **lengths)
    return block.proj(out.flatten(1).to(q.dtype))


def compile_blocks(bare):
    """Returns the engine's `apply_compile`, which also lets compiled vision blocks be recomputed.

    FSDP casts what a block is given on the way forward, and not where the block is computed again for the way back:
    angles in float32 would then compile to another program, whose intermediate results do not fit.
    """

    def cast(block, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden, *rest = args

        def same(value):
            return tuple(angle.type_as(hidden) for angle in value) if isinstance(value, tuple) else value

        return (hidden, *map(same, rest)), {key: same(value) for key, value in kwargs.items()}

    def compile_all(model, *args, **kwargs) -> None:
        bare(model, *args, **kwargs)
        for block in model.visual.blocks.values():
            block.register_forward_pre_hook(cast, with_kwargs=True)

    compile_all.bare = bare
    return compile_all


class TorchAttention:
    """What the engine's models ask of its FlashAttnMeta."""

    fa_version, is_fa_installed = 2, True
    enable_fp4 = torch_compile = deterministic = False
    flash_attn_func = staticmethod(attend)
    flash_attn_varlen_func = staticmethod(attend_packed)
    apply_rotary_emb = staticmethod(rotate)


def install_attention() -> str:
    """Put PyTorch's attention in place where flash-attn is missing. Returns what attention the engine has."""
    from cosmos_rl.policy.kernel import modeling_utils
    from cosmos_rl.policy.model import hf_models
    from cosmos_rl.policy.model.hf_models import patch
    from cosmos_rl.policy.model.qwen2_5_vl import parallelize
    from cosmos_rl.policy.model.vision_encoder import qwen2_5_vl

    installed = modeling_utils.check_if_fa_installed()

    def pre_hf_models_patch(hf_config) -> None:
        patch.pre_hf_models_patch(hf_config)
        behind_a_mask = (family := KNOWN.get(hf_config.model_type)) and family.stamped  # as `sharing` wants it
        if getattr(hf_config, "_attn_implementation", "") == "flash_attention_2" and (behind_a_mask or not installed):
            hf_config._attn_implementation = "sdpa"

    def post_hf_models_patch(hf_config, model) -> None:
        patch.post_hf_models_patch(hf_config, model)
        if (family := KNOWN.get(hf_config.model_type)) and family.stamped:
            see_all(model.model.language_model)

    hf_models.pre_hf_models_patch, hf_models.post_hf_models_patch = pre_hf_models_patch, post_hf_models_patch
    if installed:
        return "flash-attn"
    modeling_utils.FlashAttnMetaSingleton._instances[modeling_utils.FlashAttnMeta] = TorchAttention()
    # with train.compile, the engine's own makes FlashAttnMeta anew inside the compiled block, and imports flash_attn_3
    qwen2_5_vl.apply_rotary_pos_emb_vision = rotate_vision
    see.bare = getattr((theirs := qwen2_5_vl.Qwen2_5_VLVisionAttention).forward, "bare", theirs.forward)
    theirs.forward = see
    parallelize.apply_compile = compile_blocks(getattr(parallelize.apply_compile, "bare", parallelize.apply_compile))
    return "torch"


def see_all(language_model) -> None:
    """Let a language model of transformers that is called without a mask attend to all that came before.

    The engine's trainer gives none. Qwen3-VL's of transformers 4.57.6 then takes each place where its rotary positions
    do not count up by one, every token of a clip, for the start of another sample (masking_utils.py:735), unless
    flash-attn runs: the words behind a clip would not see it.
    """
    bare = language_model.forward

    def forward(*args, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None, **kwargs):
        if attention_mask is None and inputs_embeds is not None and kwargs.get("past_key_values") is None:
            attention_mask = torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        return bare(*args, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)

    language_model.forward = forward
