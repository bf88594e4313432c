"""One batched pass through the vision tower, equal to the stock one and many times faster on small clips.

Why: the vision towers of transformers 4.57 loop in Python over every clip (window order, rotary angles, positions) and
over every attention window or frame (one attention call each). Clips of the same size share all of that, so here they
go through together: order and angles are computed once for one clip, and segments of the same length are attended in
one call. The outputs are the same to float precision: `tests/model/test_vision_tower.py` compares them.

    model = batch_vision(model)     # in place; the rest of the model is untouched
"""

from itertools import groupby
from types import MethodType

import torch
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision  # the same in both families

from cookbook.data.architecture import of_config


def batch_vision(model):
    """Let the model's vision tower run batched. Returns the same model."""
    visual, visual.family = model.model.visual, of_config(model.config)
    visual._plans = {}
    visual.forward = MethodType(_forward, visual)
    return model


def _plan(visual, grid: tuple[int, int, int], device) -> tuple:
    """Returns what all clips of one (t, h, w) grid share: order, cos and sin, and lengths of windows and frames."""
    key = (grid, device)
    if key not in visual._plans:
        thw = torch.tensor([grid])
        unit, frames = visual.spatial_merge_unit, [grid[1] * grid[2]] * grid[0]
        order, windows = torch.arange(sum(frames) // unit), frames
        if visual.family.windowed:
            order, edges = visual.get_window_index(thw)
            edges = torch.unique_consecutive(torch.tensor(edges))
            windows = (edges[1:] - edges[:-1]).tolist()
        angles = visual.rot_pos_emb(thw.to(device)).unflatten(0, (-1, unit))[order].flatten(0, 1)
        angles = torch.cat([angles, angles], dim=-1)
        visual._plans[key] = (order.to(device), angles.cos(), angles.sin(), windows, frames)
    return visual._plans[key]


def _attend(attention, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Self-attention within consecutive segments. x: (clips, patches, width); lengths sum to patches."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
    q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)

    def within(length: int, start: int, end: int) -> torch.Tensor:
        split = [t[:, start:end].reshape(-1, length, *t.shape[2:]).transpose(1, 2) for t in (q, k, v)]
        out = F.scaled_dot_product_attention(*split, scale=attention.scaling)
        return out.transpose(1, 2).reshape(len(x), end - start, -1)

    parts, end = [], 0
    for length, same in groupby(lengths):  # neighbouring segments of the same length go together
        start, end = end, end + sum(same)
        parts.append(within(length, start, end))
    return attention.proj(torch.cat(parts, dim=1))


def _tower(visual, patches: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Run clips of one grid size. patches: (clips * t*h*w, values); returns (1 + layers, clips, t*h*w / unit, width).

    After the tower's output come, of a family that has them, the inner layers for the language model.
    """
    order, cos, sin, windows, frames = _plan(visual, grid, patches.device)
    unit, family, config = visual.spatial_merge_unit, visual.family, visual.config
    # the patch embedding is a convolution whose stride is its kernel: one matrix product, which CPUs do faster
    embed = visual.patch_embed.proj
    x = F.linear(patches.to(embed.weight.dtype), embed.weight.flatten(1), embed.bias)
    x = x.view(-1, len(order), unit, x.shape[-1])[:, order].flatten(1, 2)
    if family.deepstack:
        x = x + visual.fast_pos_embed_interpolate(torch.tensor([[1, *grid[1:]]])).repeat(grid[0], 1)
    whole, inner = visual.fullatt_block_indexes if family.windowed else (), {}
    if family.deepstack:
        inner = dict(zip(config.deepstack_visual_indexes, visual.deepstack_merger_list))
    found = []
    for i, block in enumerate(visual.blocks):
        x = x + _attend(block.attn, block.norm1(x), cos, sin, frames if i in whole else windows)
        x = x + block.mlp(block.norm2(x))
        found += [inner[i](x.flatten(0, 1))] if i in inner else []
    merged = torch.stack([visual.merger(x.flatten(0, 1)), *found])
    return merged.view(len(merged), -1, len(order), config.out_hidden_size)[:, :, torch.argsort(order)]


def _forward(visual, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **_):
    """Drop-in for the stock forward: (patches, values) and (clips, 3) to (tokens, width), clips in their order.

    Of a family whose inner layers go to the language model, a pair: that, and a list of as many for these layers.
    """
    grids = [tuple(g) for g in grid_thw.tolist()]
    if len(set(grids)) == 1:
        out = _tower(visual, hidden_states, grids[0]).flatten(1, 2)
    else:
        parts = hidden_states.split([t * h * w for t, h, w in grids])
        clips: list = [None] * len(grids)
        for grid in set(grids):
            where = [i for i, g in enumerate(grids) if g == grid]
            for i, tokens in zip(where, _tower(visual, torch.cat([parts[i] for i in where]), grid).unbind(1)):
                clips[i] = tokens
        out = torch.cat(clips, dim=1)
    return (out[0], [*out[1:]]) if visual.family.deepstack else out[0]
