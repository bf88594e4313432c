"""What a step of a 7B model takes, as it was measured, and which keys make it faster on a card.

Why: the engine's defaults are its slowest way: one sample at a time, all of it computed twice, nothing compiled. Each
constant below names the runs that it rests on; LOG.md has their commands. All are of one H200 but the sharded ones.
`cookbook.config.planner` computes with it, and `python -m cookbook.config plan` ends with what it proposes.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

from cookbook.config.models import SEVEN, published_names, shape_of
from cookbook.config.rules import View, is_laid_out, is_stock
from cookbook.config.schema import BATCH, MINI

GIB = 2**30
PARAMETERS_7B = SEVEN.parameters  # of the model that was measured
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312}  # dense bfloat16, from NVIDIA's data sheets
PACK, COMPILE, RECOMPUTE = "train.sequence_packing", "train.compile", "policy.model_gradient_checkpointing"
TARGETS, RESHARD = "policy.lora.target_modules", "train.fsdp_reshard_after_forward"
ADAM, SMALL = "train.optm_name", "AdamW8bit"  # torchao's, whose moments take a byte each
WHOLE = 12.6 / 15.4  # of whole bfloat16 weights, what keeping them through a step adds to its peak (one run)
LANGUAGE = ["model.layers"]  # the language model's layers, by the names of the engine's own model
LANGUAGE_STOCK = ["language_model.layers"]  # and of transformers'
SHORT = 1_690  # tokens of the samples that were measured, but for some
STOCK_GIB = 4.4  # that a card shows as used beside what its allocator reserves else
TOWER = 0.6766e9 / PARAMETERS_7B  # the vision tower's share


@dataclass(frozen=True)
class Way:
    """One way through a mini-batch: max(floor, base + rate x tokens) seconds, and GiB a token until it ends.

    `longer`: seconds a token, for each token of its sample beyond SHORT; fitted to 8,190 of 7B and of 8B, compiled.
    """

    floor: float
    rate: float
    gib: float
    rest: float = 0.0  # seconds a step
    base: float = 0.0
    longer: float = 5.6e-9
    runs: str = "measured before packing; with logits of all tokens, so both are upper bounds (LOG.md, 2026-11-22)"


# all weights: recomputed, one sample a mini-batch, and logits of all tokens; on one GPU also packed and compiled
FULL = Way(0.675, 0.258e-3, 2.59e-3, rest=0.4, longer=0)  # one sample of 516 to 9,716 tokens
FULL_ALONE = Way(0.47, 0.258e-3, 2.59e-3, rest=0.4, longer=0)
FULL_PACKED = Way(0, 0.13e-3, 1.0e-3, rest=0.35, base=0.17, runs="one run of 3,380 tokens (LOG.md, 2026-11-30)")
FULL_KEPT = Way(0, 0.118e-3, 10.9e-3, rest=0.25, base=0.03, runs="16 mini-batches of 3,380 tokens (LOG.md, 2026-11-30)")
# the same of the language model alone, the tower frozen
LANGUAGE_KEPT = Way(
    0, 0.0815e-3, 5.0e-3, rest=0.25, base=0.03, runs="8 mini-batches of 6,761 tokens (LOG.md, 2026-11-30)"
)
# LoRA r 16: (adapters in the tower too, recomputed, compiled)
ONE, TWO = "one run of 13,522 tokens (LOG.md, 2026-11-30)", "two runs of 6,761 tokens (LOG.md, 2026-11-30)"
THREE = "runs of 1,690 to 13,522 tokens (LOG.md, 2026-11-30)"
LORA = {
    (True, True, False): Way(0, 0.154e-3, 0.95e-3, base=0.88, runs=THREE),
    (True, True, True): Way(0, 0.11e-3, 1.0e-3, base=0.50, runs=ONE),
    (True, False, False): Way(0, 0.060e-3, 11.2e-3, base=0.45, runs="one run of 6,762 tokens (LOG.md, 2026-11-29)"),
    (False, False, False): Way(0, 0.052e-3, 6.15e-3, base=0.36, runs=TWO),
    (False, False, True): Way(0, 0.040e-3, 4.9e-3, base=0.21, runs=TWO),
}
# the same of transformers' model, by one of 8B; where it is not compiled, with logits of all tokens
STOCK = LORA | {
    (True, True, False): Way(0, 0.153e-3, 2.71e-3, base=0.303, runs="one run of 1,689 tokens (LOG.md, 2026-11-30)"),
    (True, True, True): Way(0, 0.062e-3, 0.82e-3, base=0.50, runs="one run of 13,531 tokens (LOG.md, 2026-12-01)"),
    (False, True, True): Way(0, 0.060e-3, 0.82e-3, base=0.50, runs="one run of 13,531 tokens (LOG.md, 2026-12-01)"),
    (False, False, True): Way(
        0, 0.070e-3, 5.42e-3, base=0.05, runs="mini-batches of 3,378 to 16,390 tokens (LOG.md, 2026-12-01)"
    ),
}


def way(view: View, shards: int) -> Way:
    """Returns the measured way that is nearest to a configuration's, and not faster than it."""
    if not view.has_lora:
        fast = (view[PACK] or is_stock(view)) and view[COMPILE] and not view.is_rl
        kept = LANGUAGE_KEPT if freezes_the_tower(view) else FULL_KEPT
        alone = FULL_ALONE if not fast else FULL_PACKED if view[RECOMPUTE] else kept
        return FULL if shards > 1 else alone
    ways = STOCK if is_stock(view) else LORA
    recomputed, compiled = view[RECOMPUTE], bool(view[COMPILE])
    tower = adapts_the_tower(view)
    near = (tower, recomputed, compiled), (tower, recomputed, False), (True, recomputed, False)
    return next(ways[key] for key in near if key in ways)


def adapts_the_tower(view: View) -> bool:
    """Whether adapters stand in the vision tower too: then the way back leads through it."""
    targets = view[TARGETS]
    language = ("model.", "language_model.")
    return not (isinstance(targets, list) and targets and all(name.startswith(language) for name in targets))


def freezes_the_tower(view: View) -> bool:
    """Whether no weight of the vision tower learns, so that none has a gradient or moments."""
    model = shape_of(view["policy.model_name_or_path"]) or SEVEN
    tower = [name for name in published_names(model) if name.startswith(model.family.prefixes[0])]
    chosen, frozen = view["policy.trainable_pattern"] or [""], view["policy.freeze_pattern"] or ()
    flags = view.config.table("policy.trainable_map")

    def learns(name: str) -> bool:
        found = any(re.search(pattern, name) for pattern in chosen)
        for path, flag in flags.items():  # the last one that holds
            found = flag if f"{name}.".startswith(f"{path}.") else found
        return found and not any(re.search(pattern, name) for pattern in frozen)

    with suppress(re.error):  # which the lint names
        return not any(map(learns, tower))
    return False


def state(view: View) -> float:
    """Returns bytes a parameter that are sharded: float32 weights, gradients, moments; of LoRA the bfloat16 base."""
    learned = 10 if view[ADAM] == SMALL else 16
    frozen = TOWER if freezes_the_tower(view) else 0
    return 2 if view.has_lora else learned * (1 - frozen) + 4 * frozen


def memory(parameters: float, shards: int, tokens: float, how: Way, state: float = 16, whole: bool = False) -> float:
    """Returns GiB allocated at the peak of a training step on one GPU.

    `tokens` are those of one mini-batch on one GPU, padding included; `state` as above, 2 for LoRA. The rest is
    unsharded layers, all of them where weights stay `whole`, and what a mini-batch leaves.
    """
    scale, least = parameters / PARAMETERS_7B, (0.66, 0) if state == 2 else (0.5, 6.5)
    rest = max(least[1], least[0] + how.gib * tokens) * scale
    return (state / shards + whole * 2 * WHOLE) * parameters / GIB + rest


def peak(view: View, parameters: float, shards: int, tokens: float) -> float:
    """Returns the same for a configuration as it stands."""
    whole = view[RESHARD] == "never" and not view.has_lora
    return memory(parameters, shards, tokens, way(view, shards), state(view), whole)


def step_seconds(tokens: int, batches: int, how: Way, gpu: str = "H200", length: int = SHORT) -> float:
    """Returns the seconds of one optimizer step of `batches` mini-batches of `tokens`, from samples of `length`."""
    slower = PEAK_TFLOPS["H200"] / PEAK_TFLOPS[gpu]
    rate = how.rate + how.longer * max(length - SHORT, 0)
    return batches * max(how.floor, how.base + tokens * rate * slower) + how.rest * slower


def used(peak: float, native: bool = True) -> float:
    """Returns GiB that the card shows as used: the allocator reserves 3 to 9 % more, CUDA itself takes 1.4 GiB.

    For a family that the engine has no model of its own for it is STOCK_GIB more, by 8B's three runs.
    """
    return peak * 1.03 + 1.4 + (0 if native else STOCK_GIB)


def faster(view: View, parameters: float, shards: int, gpu_gib: float, tokens: int) -> Iterator[tuple[str, Any, str]]:
    """Yields (key, value, why) that should make an SFT with samples of so many tokens faster on these cards."""
    if not is_laid_out(view):
        return  # GRPO was not measured with them
    stock = is_stock(view)
    scaled = tokens * PARAMETERS_7B / parameters  # logits are as many in a small model
    room, size = (gpu_gib - 1.4 - stock * STOCK_GIB) / 1.09, state(view)
    changed: dict[str, Any] = {COMPILE: True}
    why = {
        COMPILE: "1.49 s became 1.08 s for 13,531 tokens of 8B, with LoRA; the first step takes a minute longer"
        if stock
        else "0.72 s became 0.51 s for 6,761 tokens of LoRA; the first step takes a minute longer",
        TARGETS: "no way back through the vision tower; another training: adapters in the language model alone",
        RECOMPUTE: "nothing is computed twice: half of the time where launching kernels is not what takes it",
        PACK: "samples stand end to end, without padding, and gradients reach the tower",
        MINI: f"samples of {tokens:,} tokens together: kernels of one alone are launched, not computed",
        RESHARD: "weights are gathered once a step; measured on one GPU alone",
        ADAM: "moments of 8 bits leave room for what is computed twice else; another training",
    }
    if view.has_lora:
        ways, language = (STOCK, LANGUAGE_STOCK) if stock else (LORA, LANGUAGE)
        how = ways[False, False, True]
        changed |= {TARGETS: language, RECOMPUTE: memory(parameters, shards, scaled, how, size) > room}
        how = ways.get((False, True, True), ways[True, True, False]) if changed[RECOMPUTE] else how
    else:
        how = FULL if shards > 1 else FULL_PACKED
        ways = ({}, {ADAM: SMALL}) if shards == 1 and not stock else ()  # of transformers' model not measured
        for more in ways:
            then = View(view.config.edit({PACK: True, COMPILE: True, RECOMPUTE: False, RESHARD: "never"} | more))
            if peak(then, parameters, 1, scaled) <= room:
                changed |= {RECOMPUTE: False, RESHARD: "never"} | more
                how, size = way(then, 1), state(then)
                break
    whole = changed.get(RESHARD) == "never"
    fits = [n for n in range(1, view[BATCH] + 1) if view[BATCH] % n == 0
            and memory(parameters, shards, n * scaled, how, size, whole) <= room]  # fmt: skip
    if fits and max(fits[-1], view[MINI]) > 1:
        changed[MINI] = next((n for n in fits if n * tokens >= 13_500), fits[-1])
        changed |= {} if stock else {PACK: changed[MINI] > 1}
        why |= {PACK: "one sample alone has nothing to pack"} if changed[MINI] == 1 else {}
    most = max(fits, default=inf) * scaled
    if shards > 1 and not stock and memory(parameters, shards, most, how, size, whole=True) < room:
        changed[RESHARD] = "never"
    if changed.get(RECOMPUTE):
        del changed[RECOMPUTE]  # it fits as it is
    yield from ((key, value, why[key]) for key, value in changed.items() if view[key] != value)
