"""What a step of a 7B model takes, as it was measured, and which keys make it faster on a card.

Why: the engine's defaults are its slowest way: one sample at a time, all of it computed twice, nothing compiled. Each
constant below names the runs that it rests on; LOG.md has their commands. All are of one H200 but the sharded ones.
`cookbook.config.planner` computes with it, and `python -m cookbook.config plan` ends with what it proposes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from cookbook.config.models import SEVEN, family_of
from cookbook.config.rules import View
from cookbook.config.schema import BATCH, MINI

GIB = 2**30
PARAMETERS_7B = SEVEN.parameters  # of the model that was measured
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312}  # dense bfloat16, from NVIDIA's data sheets
PACK, COMPILE, RECOMPUTE = "train.sequence_packing", "train.compile", "policy.model_gradient_checkpointing"
TARGETS, RESHARD = "policy.lora.target_modules", "train.fsdp_reshard_after_forward"
LANGUAGE = ["model.layers"]  # the language model's layers, by the engine's names


@dataclass(frozen=True)
class Way:
    """One way through a mini-batch: max(floor, base + rate x tokens) seconds, and GiB a token until it ends."""

    floor: float
    rate: float
    gib: float
    rest: float = 0.0  # seconds a step
    base: float = 0.0
    runs: str = "measured before packing; with logits of all tokens, so both are upper bounds (LOG.md, 2026-11-22)"


# all weights: recomputed, one sample a mini-batch, and logits of all tokens; on one GPU also packed and compiled
FULL = Way(0.675, 0.258e-3, 2.59e-3, rest=0.4)
FULL_ALONE = Way(0.47, 0.258e-3, 2.59e-3, rest=0.4)
FULL_PACKED = Way(0, 0.13e-3, 1.0e-3, rest=0.35, base=0.17, runs="one run of 3,380 tokens (LOG.md, 2026-11-30)")
# LoRA r 16: (adapters in the tower too, recomputed, compiled)
ONE, TWO = "one run of 13,522 tokens (LOG.md, 2026-11-30)", "two runs of 6,761 tokens (LOG.md, 2026-11-30)"
THREE = "runs of 1,690 to 13,522 tokens (LOG.md, 2026-11-30)"
LORA = {
    (True, True, False): Way(0, 0.154e-3, 0.95e-3, base=0.88, runs=THREE),
    (True, True, True): Way(0, 0.11e-3, 1.0e-3, base=0.50, runs=ONE),
    (True, False, False): Way(0, 0.060e-3, 11.2e-3, base=0.45, runs="one run of 6,762 tokens (LOG.md, 2026-11-29)"),
    (False, False, False): Way(0, 0.052e-3, 6.15e-3, base=0.36, runs=TWO),
    (False, False, True): Way(0, 0.040e-3, 4.9e-3, base=0.24, runs=TWO),
}


def way(view: View, shards: int) -> Way:
    """Returns the measured way that is nearest to a configuration's, and not faster than it."""
    if not view.has_lora:
        fast = view[PACK] and view[COMPILE] and not view.is_rl
        return FULL if shards > 1 else FULL_PACKED if fast else FULL_ALONE
    recomputed, compiled = view[RECOMPUTE], bool(view[COMPILE])
    tower = adapts_the_tower(view)
    near = (tower, recomputed, compiled), (tower, recomputed, False), (True, recomputed, False)
    return next(LORA[key] for key in near if key in LORA)


def adapts_the_tower(view: View) -> bool:
    """Whether adapters stand in the vision tower too: then the way back leads through it."""
    targets = view[TARGETS]
    return not (isinstance(targets, list) and targets and all(name.startswith("model.") for name in targets))


def memory(parameters: float, shards: int, tokens: int, how: Way, lora: bool = False) -> float:
    """Returns GiB allocated at the peak of a training step on one GPU.

    `tokens` are those of one mini-batch on one GPU, padding included. Sharded states: float32 weights, gradients and
    both AdamW moments (16 bytes a parameter), or under LoRA the frozen base in bfloat16 (2 bytes a parameter). The rest
    is unsharded layers and what a mini-batch leaves.
    """
    scale = parameters / PARAMETERS_7B
    if lora:
        return 2 * parameters / shards / GIB + (0.66 + how.gib * tokens) * scale
    return 16 * parameters / shards / GIB + max(6.5, 0.5 + how.gib * tokens) * scale


def step_seconds(tokens: int, batches: int, how: Way, gpu: str = "H200") -> float:
    """Returns the seconds of one optimizer step of `batches` mini-batches of `tokens` each, on every GPU."""
    slower = PEAK_TFLOPS["H200"] / PEAK_TFLOPS[gpu]
    return batches * max(how.floor, how.base + tokens * how.rate * slower) + how.rest * slower


def used(peak: float) -> float:
    """Returns GiB that the card shows as used: the allocator reserves 3 to 9 % more, CUDA itself takes 1.4 GiB."""
    return peak * 1.03 + 1.4


def faster(view: View, parameters: float, shards: int, gpu_gib: float, tokens: int) -> Iterator[tuple[str, Any, str]]:
    """Yields (key, value, why) that should make an SFT with samples of so many tokens faster on these cards."""
    if view.is_rl or view["train.force_use_hf"] or not family_of(view["policy.model_name_or_path"]).native:
        return  # packing and compiling are of the engine's own model; GRPO was not measured with them
    room = (gpu_gib - 1.4) / 1.09
    changed: dict[str, Any] = {COMPILE: True}
    why = {
        COMPILE: "0.72 s became 0.51 s for 6,761 tokens of LoRA; the first step takes a minute longer",
        TARGETS: "no way back through the vision tower; another training: adapters in the language model alone",
        RECOMPUTE: "nothing is computed twice: half of the time where launching kernels is not what takes it",
        PACK: "samples stand end to end, without padding, and gradients reach the tower (cookbook/engine/packing.py)",
        MINI: f"samples of {tokens:,} tokens together: kernels of one alone are launched, not computed",
        RESHARD: "weights stay whole between the way there and the way back: not measured",
    }
    if view.has_lora:
        kept = LORA[False, False, True]
        changed |= {TARGETS: LANGUAGE, RECOMPUTE: memory(parameters, shards, tokens, kept, lora=True) > room}
        how = kept if not changed[RECOMPUTE] else LORA[True, True, False]
    else:
        how = FULL if shards > 1 else FULL_PACKED
    fits = [n for n in range(1, view[BATCH] + 1) if view[BATCH] % n == 0
            and memory(parameters, shards, n * tokens, how, view.has_lora) <= room]  # fmt: skip
    if fits and fits[-1] > 1:
        changed |= {PACK: True, MINI: next((n for n in fits if n * tokens >= 13_500), fits[-1])}
    most = max(fits, default=inf) * tokens
    if shards > 1 and memory(parameters, shards, most, how, view.has_lora) + 2 * parameters / GIB < room:
        changed[RESHARD] = "never"
    if changed.get(RECOMPUTE):
        del changed[RECOMPUTE]  # it fits as it is
    yield from ((key, value, why[key]) for key, value in changed.items() if view[key] != value)
