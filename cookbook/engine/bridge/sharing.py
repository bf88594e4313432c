"""GRPO: a prompt goes through once for all its completions, in training too.

Why: the completions of a group differ, their prompt and its clip do not; but cosmos-rl 0.4.7 puts each completion
behind a prompt of its own (policy/trainer/llm_trainer/grpo_trainer.py), once for the policy and once for the reference.
With 8 completions of 200 tokens behind 1,700 of a clip, four of five tokens are computed for nothing.
Here a packed mini-batch is [prompt, completion, completion, ...], and each completion attends to the prompt and itself;
the gradient of a prompt is the sum over its completions. Logits and gradients are those of the engine's own order
(`tests/engine/test_sharing.py`). Qwen3-VL, which the engine packs with flash-attn alone, gets one row and a mask
(`tests/engine/test_qwen3_engine.py`). Used by `cookbook.engine.bridge`.
"""

from collections.abc import Callable
from functools import wraps
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cookbook.data.architecture import KNOWN

MEDIA = (("video_token_id", "pixel_values_videos", "video_grid_thw"),
         ("image_token_id", "pixel_values", "image_grid_thw"))  # fmt: skip


class Shared(NamedTuple):
    """Which keys the packed queries see, part by part; it travels in the place of the engine's `cu_seqlens`."""

    queries: Tensor  # edges of the parts, as flash-attn takes them: int32 (parts + 1)
    keys: Tensor  # the same of their keys
    taken: Tensor  # the keys one part after another, as places in the pack
    longest_query: int
    longest_key: int


def attends_shared(bare: Callable) -> Callable:
    """Returns a flash_attn_varlen_func that takes a Shared too. A part's last query sees its last key."""

    @wraps(bare)
    def attend(q: Tensor, k: Tensor, v: Tensor, edges: Tensor | Shared, *args: Any, causal: bool) -> Tensor:
        if not isinstance(edges, Shared):
            return bare(q, k, v, edges, *args, causal=causal)
        lengths = edges.longest_query, edges.longest_key
        return bare(q, k[edges.taken], v[edges.taken], edges.queries, edges.keys, *lengths, causal=causal)

    attend.bare = bare
    return attend


def install_sharing() -> str:
    """Put it in place, for mini-batches of GRPO that are packed, if need be, and not compiled. Returns what it does."""
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker, Qwen2_5_VLM_DataPacker
    from cosmos_rl.policy.model.hf_models import HFModel
    from cosmos_rl.policy.model.qwen2_5_vl import Qwen2_5_VLConditionalModel as Native

    if not hasattr(HFModel.forward, "bare"):
        for packer in (Qwen2_5_VLM_DataPacker, HFVLMDataPacker):
            packer.policy_collate_fn = _moved_once(packer.policy_collate_fn)
        Native.forward, HFModel.forward = _shared(Native.forward), _shared_by_stock(HFModel.forward)
    return "once for its completions"


def _moved_once(bare: Callable) -> Callable:
    """Returns the packer's `policy_collate_fn`, with a clip that several rows show on the GPU before it is copied."""

    @wraps(bare)
    def collate(packer, samples: list[dict], *args: Any, **kwargs: Any) -> dict[str, Any]:
        shown = {id(s[key]): s[key] for s in samples for _, key, _ in MEDIA if s[key] is not None}
        shown = {name: pixels.to("cuda" if torch.cuda.is_available() else "cpu") for name, pixels in shown.items()}
        moved = [s | {key: shown.get(id(s[key])) for _, key, _ in MEDIA} for s in samples]
        return bare(packer, moved, *args, **kwargs)

    collate.bare = bare
    return collate


def _shared(bare: Callable) -> Callable:
    """Returns the model's `forward`, which lays a mini-batch out anew where rows begin with the same prompt."""

    @wraps(bare)
    def forward(model, input_ids=None, *args: Any, **kwargs: Any):
        lengths = kwargs.get("valid_input_len")
        compiled = any(hasattr(layer, "_orig_mod") for layer in model.model.layers.values())
        apart = args or lengths is None or compiled or kwargs.get("cp_mesh") is not None
        if apart or (laid := _laid_out(model, input_ids, lengths.tolist(), kwargs)) is None:
            return bare(model, input_ids, *args, **kwargs)
        for layer in model.model.layers.values():
            if not hasattr((attention := layer.self_attn).attn_func_varlen, "bare"):
                attention.attn_func_varlen = attends_shared(attention.attn_func_varlen)
        rows, columns = laid.rows, laid.columns
        given = {key: value for key, value in kwargs.items() if key != "valid_input_len"} | laid.shown
        given |= {"position_ids": kwargs["position_ids"][rows, :, columns].T[None],
                  "interested_tokens": kwargs["interested_tokens"][rows, columns][None],
                  "cu_seqlens": _shared_keys(laid.parts, input_ids.device)}  # fmt: skip
        return bare(model, input_ids[rows, columns][None], **given)

    forward.bare = bare
    return forward


def _shared_by_stock(bare: Callable) -> Callable:
    """Returns the `forward` of the engine's wrapper of transformers' model, which does the same behind a mask.

    Its logits are (tokens that are asked for, words), as those of the engine's own model; not (rows, length, words).
    """

    @wraps(bare)
    def forward(model, input_ids=None, position_ids=None, *args: Any, **kwargs: Any):
        asked, inner, family = kwargs.get("interested_tokens"), model.model, KNOWN.get(model.hf_config.model_type)
        known = family and family.stamped and inner.config._attn_implementation == "sdpa"
        if not known or asked is None or args or position_ids is not None:
            return bare(model, input_ids, position_ids, *args, **kwargs)
        columns = torch.arange(asked.shape[1], device=asked.device)
        lengths = torch.where(asked.any(1), (asked * columns).amax(1) + 1, asked.shape[1])  # behind it nothing counts
        if (laid := _laid_out(model, input_ids, lengths.tolist(), kwargs)) is None:
            return bare(model, input_ids, position_ids, *args, **kwargs)
        grids = {key: kwargs.get(key) for _, _, key in MEDIA}
        places, _ = inner.model.get_rope_index(input_ids, attention_mask=columns < lengths[:, None], **grids)
        sees = torch.zeros(len(laid.rows), len(laid.rows), dtype=torch.bool, device=asked.device)
        for start, end, begin, last in laid.parts:
            sees[start:end, begin:last] = True
            sees[start:end, start:end] = True
        rows, columns = laid.rows, laid.columns
        wanted = asked[rows, columns].nonzero()[:, 0]
        out = inner(
            input_ids=input_ids[rows, columns][None], position_ids=places[:, rows, columns][:, None], use_cache=False,
            attention_mask=sees.tril()[None, None], logits_to_keep=wanted, **laid.shown,
        )  # fmt: skip
        out.logits = out.logits[0]
        return out

    forward.bare = bare
    return forward


class Laid(NamedTuple):
    """A mini-batch with each prompt once: where its tokens stood, and what its prompts show."""

    parts: list[tuple[int, int, int, int]]  # as `_parts` has them
    rows: Tensor  # (tokens)
    columns: Tensor
    shown: dict[str, Tensor]  # pixels and grids


def _laid_out(model, input_ids: Tensor, lengths: list[int], kwargs: dict[str, Any]) -> Laid | None:
    """Returns the layout of a mini-batch of GRPO; None for SFT, and where no two rows begin with the same prompt."""
    asked = kwargs.get("interested_tokens")
    if asked is None or "logprob_masks" not in kwargs or asked[:, 0].any():  # SFT has no such masks
        return None
    begins = asked.int().argmax(1).tolist()  # a prompt's last token is each completion's own: it has its logits
    media = _media(model, input_ids, kwargs)
    first = [0]  # for each row, the one whose prompt it shares
    for i, (a, b) in enumerate(pairwise(begins), 1):
        same = a == b > 0 and torch.equal(input_ids[i - 1, :b], input_ids[i, :b]) and _equal(media, i - 1, i)
        first.append(first[-1] if same else i)
    if len(set(first)) == len(first):
        return None
    parts, places = _parts(first, begins, lengths)
    shown = {}
    for pixels, grids, rows in media:
        own = [rows[i] for i in sorted(set(first))]
        shown |= {pixels: torch.cat([values for values, _ in own]), grids: torch.cat([grid for _, grid in own])}
    rows, columns = (torch.tensor(x, device=input_ids.device) for x in zip(*places))
    return Laid(parts, rows, columns, shown)


def _media(model, ids: Tensor, kwargs: dict) -> list[tuple[str, str, list[tuple[Tensor, Tensor]]]]:
    """Returns (name of the pixels, name of the grids, [(pixels, grids) of each row]) of clips, and of images."""
    found, unit = [], model.hf_config.vision_config.spatial_merge_size**2
    for token, pixels, grids in MEDIA:
        if (given := kwargs.get(grids)) is None:
            continue
        sizes, rows, done = given.prod(1).tolist(), [], 0
        ends = list(accumulate(sizes, initial=0))
        for wanted in ((ids == getattr(model, token)).sum(1) * unit).tolist():
            last = ends.index(ends[done] + wanted)
            rows.append((kwargs[pixels][ends[done] : ends[last]], given[done:last]))
            done = last
        found.append((pixels, grids, rows))
    return found


def _equal(media: list, one: int, two: int) -> bool:
    """Whether two rows show the same."""
    return all(torch.equal(a, b) for _, _, rows in media for a, b in zip(rows[one], rows[two]))


def _parts(first: list[int], begins: list[int], lengths: list[int]) -> tuple[list[tuple[int, int, int, int]], list]:
    """Returns the parts of the pack, and (row, column) of each of its tokens.

    A part is (start, end) of its queries, and of the prompt that it sees besides, as places in the pack.
    """
    parts, places, prompt = [], [], (0, 0)
    for row, (owner, begin, length) in enumerate(zip(first, begins, lengths)):
        if owner == row:
            prompt = len(places), len(places) + begin
            parts += [(*prompt, 0, 0)] if begin else []  # a row that asks for nothing begins at once
            places += [(row, column) for column in range(begin)]
        parts.append((len(places), len(places) + length - begin, *prompt))
        places += [(row, column) for column in range(begin, length)]
    return parts, places


def _shared_keys(parts: list[tuple[int, int, int, int]], device: torch.device) -> Shared:
    queries = [end - start for start, end, _, _ in parts]
    keys = [end - start + last - begin for start, end, begin, last in parts]
    taken = [torch.arange(*span) for start, end, *prompt in parts for span in (prompt, (start, end))]
    edges = (torch.tensor([0, *accumulate(x)], dtype=torch.int32, device=device) for x in (queries, keys))
    return Shared(*edges, torch.cat(taken).to(device), max(queries), max(keys))
