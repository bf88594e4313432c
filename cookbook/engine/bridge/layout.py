"""Mini-batches of SFT, laid out on the CPU before the GPU sees them.

Why: cosmos-rl 0.4.7 moves a mini-batch to the GPU first, from memory that cannot be read while the GPU computes, and
then asks the GPU where things are, dozens of times a clip: how long the samples are (utils/sequence_packing.py), where
a clip's tokens are (policy/model/qwen2_5_vl, forward), how the windows of its frames go (policy/model/vision_encoder).
Each question waits until all is computed that was asked before, so the GPU stands still while the CPU makes the next
mini-batch ready. And it never says which tokens have labels: 152,064 logits are made, copied to float32 and
differentiated for each token of a clip. Here the packer lays the samples end to end, says where everything is, and
sends all without waiting: for the engine's own Qwen2.5-VL, and by `.stock` for transformers' Qwen3-VL.
Losses and gradients are those of the engine's own order (`tests/engine/test_layout.py`).
So `train.sequence_packing` is as if it were always set. Used by `cookbook.engine.bridge`, where there is no tensor,
context or pipeline parallelism.
"""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cookbook.engine.bridge.sharing import MEDIA
from cookbook.engine.bridge.stock import GRIDS, PLACES, install_stock, is_known, media_of, take_laid_out


def install_layout() -> str:
    """Put it in place. Returns what it does."""
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker, Qwen2_5_VLM_DataPacker
    from cosmos_rl.policy.model import qwen2_5_vl
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer

    native, tower = qwen2_5_vl.Qwen2_5_VLConditionalModel, qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel
    if not hasattr(tower.forward, "bare"):
        sft_trainer.SFTTrainer.__init__ = _decided(sft_trainer.SFTTrainer.__init__, native)
        sft_trainer.async_safe_ce = _of_labels(sft_trainer.async_safe_ce)
        for packer in (Qwen2_5_VLM_DataPacker, HFVLMDataPacker):
            packer.sft_collate_fn = _laid_out(packer.sft_collate_fn)
        native.forward = _as_laid_out(_tower_once(native.forward))
        tower.forward = _frame_by_frame(tower.forward)
        install_stock()
    return "before the GPU sees it"


def _decided(bare: Callable, native: type) -> Callable:
    """Returns the trainer's `__init__`, which tells model and packers whether mini-batches come laid out."""

    @wraps(bare)
    def init(trainer, *args: Any, **kwargs: Any) -> None:
        bare(trainer, *args, **kwargs)
        alone = trainer.seq_len_multiple == 1 and not trainer.parallel_dims.pp_enabled
        lays_out = alone and (isinstance(trainer.model, native) or is_known(trainer.model))
        positions = take_laid_out(trainer.model, send) if lays_out and is_known(trainer.model) else None
        for packer in (trainer.data_packer, trainer.val_data_packer):
            packer.lays_out = lays_out
            packer.positions = positions
        if lays_out:
            trainer.model.check_sequence_packing_compatible = lambda: False  # there is nothing left to pack

    return init


def _laid_out(bare: Callable) -> Callable:
    """Returns the packer's `sft_collate_fn`, which lays a mini-batch out, and sends it, where the trainer wants that.

    Beside the rows of `input_ids` it has then `tokens` (1, tokens) of all samples end to end, their `position_ids`
    (3, 1, tokens) and edges `cu_seqlens`; the place of each token that a label follows, `interested_tokens` (labels),
    and those labels, `label_ids` (labels); of clips and images together the grids as a list and the places of their
    tokens.
    """

    @wraps(bare)
    def collate(packer, samples: list[dict], computed_max_len: int, ignore_label_id: int) -> dict[str, Any]:
        batch = bare(packer, samples, computed_max_len, ignore_label_id)
        stock = getattr(packer, "positions", None)
        if not getattr(packer, "lays_out", False):
            return batch
        lengths = [min(len(sample["input_ids"]), computed_max_len) for sample in samples]
        there = torch.arange(batch["input_ids"].shape[1]) < torch.tensor(lengths)[:, None]
        tokens, grids = batch["input_ids"][there], {name: batch[name] for _, _, name in MEDIA if name in batch}
        positions = stock(batch["input_ids"], attention_mask=there, **grids)[0] if stock else batch["position_ids"]
        following = batch["label_ids"].roll(-1, 1)
        following[:, -1] = ignore_label_id
        following = following[there]
        places = (following != ignore_label_id).nonzero()[:, 0]
        made = {
            "input_ids": batch["input_ids"],
            "tokens": tokens[None],
            "position_ids": positions[:, there][:, None],
            "cu_seqlens": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
            "interested_tokens": places,
            "label_ids": following[places],
        }
        media = [(token, pixels) for token, pixels, _ in MEDIA if pixels in batch]
        made |= {pixels: batch[pixels] for _, pixels in media}
        where = [(tokens == getattr(packer, token)).nonzero()[:, 0] for token, _ in media]
        made[PLACES] = torch.cat([places[:0], *where])  # clips and images go through the tower together
        lists = {name: grid.tolist() for name, grid in grids.items()}
        lists[GRIDS] = [grid for grid in lists.values() for grid in grid]
        made = {name: send(value) for name, value in made.items()}
        return made | lists | {"max_seqlen": max(lengths)}

    return collate


def _of_labels(bare: Callable) -> Callable:
    """Returns the engine's `async_safe_ce`, which takes logits (labels, words) and labels (labels) as they are too."""

    @wraps(bare)
    def loss(output: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if target.ndim == 1:
            kwargs |= dict.fromkeys(("output_packing_mask", "target_packing_mask"), slice(None))  # all of both
        return bare(output, target, *args, **kwargs)

    return loss


def send(value: Tensor) -> Tensor:
    """Returns the tensor on the GPU, where there is one; nothing waits until it is there."""
    return value.pin_memory().to("cuda", non_blocking=True) if torch.cuda.is_available() else value


def _as_laid_out(bare: Callable) -> Callable:
    """Returns the model's `forward`, which takes what `_laid_out` made as it is."""

    @wraps(bare)
    def forward(model, *args: Any, tokens: Tensor | None = None, **kwargs: Any):
        if tokens is None:
            return bare(model, *args, **kwargs)
        places = kwargs["interested_tokens"]
        return model.model(
            inputs_embeds=_embedded(model, tokens, kwargs),
            position_ids=kwargs["position_ids"].permute(1, 0, 2).contiguous(),
            interested_tokens=(torch.zeros_like(places), places),
            cu_seqlens=kwargs["cu_seqlens"],
            max_seqlen=kwargs["max_seqlen"],
        )

    return forward


def _tower_once(bare: Callable) -> Callable:
    """Returns the model's `forward`, which calls its tower once for rows too, as GRPO has them (`media_of`)."""

    @wraps(bare)
    def forward(model, input_ids=None, *args: Any, **kwargs: Any):
        if args or kwargs.get("position_ids") is None or model.visual is None:
            return bare(model, input_ids, *args, **kwargs)
        media = [names for names in MEDIA if kwargs.get(names[1]) is not None]
        where = [(input_ids.flatten() == getattr(model, token)).nonzero()[:, 0] for token, *_ in media]
        shown = {pixels: kwargs[pixels] for _, pixels, _ in media}
        shown[PLACES] = torch.cat([input_ids.new_zeros(0), *where])
        shown[GRIDS] = [grid for *_, name in media for grid in kwargs[name].tolist()]
        own = {name for _, *names in MEDIA for name in names}
        given = {name: value for name, value in kwargs.items() if name not in own}
        given["position_ids"] = kwargs["position_ids"].permute(1, 0, 2).contiguous()
        return model.model(inputs_embeds=_embedded(model, input_ids, shown), **given)

    return forward


def _embedded(model, tokens: Tensor, shown: dict[str, Any]) -> Tensor:
    """Returns what goes into the first layer: (rows, length, width) of tokens (rows, length)."""
    embedded = model.model.embed_tokens(tokens)
    seen = model.visual(*media_of(model.visual, embedded, shown))
    seen = seen if shown[GRIDS] else seen[:0]
    return embedded.flatten(0, 1).index_copy(0, shown[PLACES], seen.to(embedded.dtype)).view_as(embedded)


class Frame(NamedTuple):
    """How a step of time of a clip, or an image, goes through the tower: the merged patches window by window."""

    order: Tensor  # (merged patches), on the tower's device
    angles: Tensor  # of all patches in that order: (patches, width of a head)
    windows: list[int]  # patches of each window


def frame_of(tower: torch.nn.Module, height: int, width: int) -> Frame:
    """Returns the layout of one step of time of so many patches, as the engine's tower makes it."""
    grid, merged = torch.tensor([[1, height, width]]), tower.spatial_merge_unit
    order, edges = tower.get_window_index(grid)
    edges = sorted(set(edges))
    angles = tower.rot_pos_emb(grid).view(len(order), merged, -1)[order].flatten(0, 1)
    order = order.to(angles.device)
    return Frame(order, torch.cat([angles, angles], dim=-1), [b - a for a, b in pairwise(edges)])


def _frame_by_frame(bare: Callable) -> Callable:
    """Returns the tower's `forward`, which takes grids as a list too: [(steps of time, height, width)] in patches."""

    @wraps(bare)
    def forward(tower, hidden_states: Tensor, grid_thw: Tensor | list) -> Tensor:
        if isinstance(grid_thw, Tensor):
            return bare(tower, hidden_states, grid_thw)
        if not hasattr(tower, "frame_of"):
            tower.frame_of = lru_cache(maxsize=64)(partial(frame_of, tower))
        frames = [tower.frame_of(height, width) for time, height, width in grid_thw for _ in range(time)]
        starts = accumulate((len(frame.order) for frame in frames), initial=0)
        order = torch.cat([frame.order + start for frame, start in zip(frames, starts)])
        angles = torch.cat([frame.angles for frame in frames])
        windows = [size for frame in frames for size in frame.windows]
        wholes = [len(frame.angles) for frame in frames]
        edges = {
            sizes is wholes: (send(torch.tensor([0, *accumulate(sizes)], dtype=torch.int32)), max(sizes))
            for sizes in (windows, wholes)
        }
        hidden = tower.patch_embed(hidden_states)
        hidden = hidden.view(len(order), tower.spatial_merge_unit, -1)[order].flatten(0, 1)
        given = angles.cos(), angles.sin()
        for name, block in tower.blocks.items():
            sequences, longest = edges[int(name) in tower.fullatt_block_indexes]
            if getattr(block, "_gradient_checkpointing_enabled", False):
                hidden = checkpoint(block, hidden, sequences, given, longest, use_reentrant=False)
            else:
                hidden = block(hidden, cu_seqlens=sequences, position_embeddings=given, max_seqlen=longest)
        return tower.merger(hidden)[order.argsort()]

    forward.bare = bare
    return forward
