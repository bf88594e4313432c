"""The plan: memory, steps, hours and disk that a configuration asks for, before a GPU is booked.

Why: "does it fit, and will it be done by tomorrow?" is answered today by trying. The formulas were fitted to runs of an
8.29 B Qwen2.5-VL (random weights) in cosmos-rl 0.4.7 on NVIDIA H200s with SDPA attention: `cookbook.config.speed`;
tests/config/test_planner.py holds those runs. Everything else that a plan takes for granted stands in its
`assumptions`, and what should make it faster in `faster`.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from cookbook.config.document import Config, ConfigError
from cookbook.config.models import EIGHT, MODELS, SEVEN, Shape, family_of, shape_of
from cookbook.config.rules import VISIBLE, View, gpus_needed, lint, processes, sound_view, total_steps
from cookbook.config.schema import BATCH, GENERATIONS, MINI, POLICY, RESPONSE, ROLLOUT
from cookbook.config.speed import COMPILE, GIB, PACK, RECOMPUTE, faster, is_stock, peak, state, step_seconds, used, way
from cookbook.display.tables import AsTable, Table
from cookbook.runs import ROOT

RL_FACTOR = 14.2 / (0.4 + 8 * 0.675)  # a GRPO step's training, against SFT on the same tokens (one run)
# the same where a prompt goes through once for its completions, against LoRA's SFT (three steps; LOG.md, 2026-11-30)
SHARED_FACTOR = 4.83 / (8 * (0.36 + 0.052e-3 * (1662 + 8 * 256)))
# of LoRA whose prompts stand before each of their completions (the later of two steps of 8.77 B; LOG.md, 2026-11-30)
APART_FACTOR = 18.5 / (16 * (0.303 + 0.153e-3 * 2 * (1668 + 256) * EIGHT.parameters / SEVEN.parameters))
SECONDS_A_TOKEN = 5.8 / 256  # of 64 completions of 7B, from one training to the next (LOG.md, 2026-11-30)
LOGIT_GIB = 2.59e-3  # of one token that has logits: float32 copies, and their way back


@dataclass(frozen=True, repr=False)
class Plan(AsTable):
    """What a configuration asks for. `why` says what does not fit and what to turn first, or where it is tight."""

    fits: bool
    gpus: tuple[int, int]  # policy, rollout
    peak_gib: float  # on one policy GPU, as PyTorch counts its allocations
    steps: int
    hours: float
    disk_gib: float
    why: tuple[str, ...]
    assumptions: tuple[str, ...]
    faster: tuple[str, ...] = ()  # keys that should make it faster, one a line

    def _table(self) -> Table:
        policy, rollout = self.gpus
        rows = [
            ("fits", "yes" if self.fits else "no"),
            ("GPUs", f"{policy} for the policy" + (f", {rollout} for rollouts" if rollout else "")),
            ("peak memory of a policy GPU", f"{self.peak_gib:.1f} GiB"),
            ("steps", self.steps),
            ("hours", f"{self.hours:.2f}"),
            ("disk", f"{self.disk_gib:.0f} GiB"),
        ]
        for name, lines in (("why", self.why), ("faster with", self.faster), ("taken for granted", self.assumptions)):
            rows += zip_longest((name,), lines, fillvalue="") if lines else ()
        return Table(("", "plan"), rows)


def _model(view: View) -> Shape:
    return shape_of(view["policy.model_name_or_path"]) or SEVEN


def _parameters(view: View) -> tuple[float, str]:
    """Returns the model's parameters, and where the number comes from."""
    name = view["policy.model_name_or_path"]
    known, model = shape_of(name), _model(view)
    files = [] if known else [f for at in ("*", "*/*", "*/*/*") for f in (ROOT / name).glob(f"{at}.safetensors")]
    if files:
        largest = max(sum(f.stat().st_size for f in files if f.parent == home) for home in {f.parent for f in files})
        return largest / 2, f"{name}: the size of its files, two bytes a parameter"
    like = next(published.partition("/")[2] for published, shape in MODELS.items() if shape is model)
    source = f"{name} has" if known else f"{name} is neither known nor on this disk; taken to have"
    return model.parameters, f"{source} {model.parameters / 1e9:.2f} B parameters, as {like}"


def _shape(view: View, tokens: int) -> tuple[int, int, int, int]:
    """Returns (shards, tokens of a mini-batch, mini-batches a step on one GPU, samples a step on one GPU)."""
    sharded = max(view[f"{POLICY}.dp_shard_size"], 1)
    ranks = sharded * view[f"{POLICY}.dp_replicate_size"]
    rows = view[BATCH] // ranks if view.is_rl else view[BATCH]
    packed = view[MINI] * tokens
    if view.is_rl:
        prompts = math.ceil(view[MINI] / view[GENERATIONS]) if _shares_prompts(view) else view[MINI]
        packed = prompts * tokens + view[MINI] * view[RESPONSE]
    return sharded * view[f"{POLICY}.tp_size"], packed, max(rows // view[MINI], 1), rows


def _shares_prompts(view: View) -> bool:
    """Whether a prompt goes through once for its completions in a mini-batch (cookbook/engine/bridge/sharing.py)."""
    if is_stock(view):  # transformers' Qwen3-VL goes through behind a mask, where one replica has all of it
        alone = view[f"{POLICY}.dp_replicate_size"] == view[f"{POLICY}.tp_size"] == 1
        return alone and family_of(view["policy.model_name_or_path"]).stamped
    return view[PACK] and not view[COMPILE]


def _peak(view: View, parameters: float, tokens: int) -> float:
    shards, packed, _, _ = _shape(view, tokens)
    size = _model(view).parameters / SEVEN.parameters  # logits are as many in a small model
    found = peak(view, parameters, shards, packed / size)
    if view.is_rl and view.has_lora:
        logits = view[MINI] * view[RESPONSE] if _shares_prompts(view) else packed
        found += LOGIT_GIB * logits * parameters / SEVEN.parameters
    if view.is_rl and view["mode"] == "colocated":
        rows = view["rollout.batch_size"] * view[GENERATIONS]
        cache = rows * (tokens + view[RESPONSE]) * _model(view).cache_bytes / GIB
        drawing = ((state(view) - 4) / shards + 2) * parameters / GIB + 2 + cache  # whole weights, and no gradients
        found = found + cache if view.has_lora else max(found, drawing)  # LoRA's recorded steps keep their cache
    return found


def _used(view: View, peak: float) -> float:
    return used(peak, family_of(view["policy.model_name_or_path"]).native)


def _seconds(view: View, tokens: int, gpu: str) -> float:
    """Returns the seconds of one optimizer step; in GRPO with its generation, where that is known."""
    shards, packed, batches, rows = _shape(view, tokens)
    size = _model(view).parameters / SEVEN.parameters
    seconds = step_seconds(round(packed * size), batches, way(view, shards), gpu, tokens)
    if not view.is_rl:
        return seconds
    seconds *= SHARED_FACTOR if _shares_prompts(view) else APART_FACTOR if view.has_lora else RL_FACTOR
    if view["mode"] == "colocated":
        calls = math.ceil(rows / view[GENERATIONS] / view["rollout.batch_size"])
        seconds += calls * view[RESPONSE] * SECONDS_A_TOKEN
    return seconds


def _disk(view: View, parameters: float, steps: int) -> float:
    """Returns GiB of checkpoints and exports at the end, the best one kept beside the last ones."""
    if not view["train.ckpt.enable_checkpoint"]:
        return 0.0
    every = view["train.ckpt.save_freq_in_epoch"]
    saves = math.ceil(view["train.epoch"] / every) if every > 0 else math.ceil(steps / view["train.ckpt.save_freq"])
    keep = view["train.ckpt.max_keep"]
    kept = (saves if keep < 0 else min(saves, keep)) + bool(view["validation.enable"])
    each = 4 if view.has_lora else state(view) - 4 + 2  # float32 weights and moments of what is trained, the export
    each += 4 if view.is_rl and view["train.train_policy.kl_beta"] else 0  # the reference
    return kept * parameters * each / GIB


def plan(
    config: Config, *, gpus: int, gpu_gib: float, samples: int, tokens: int, gpu: str = "H200", advise: bool = True
) -> Plan:
    """Returns what the configuration asks for on `gpus` GPUs of `gpu_gib` GiB.

    `samples`: items in the training set. `tokens`: of a typical long sample, vision and text; in RL of its prompt.
    `gpu`: one of PEAK_TFLOPS. Memory reproduces the measured runs within 2 %, step times within 10 % on the same host;
    RL times rest on four runs. With `advise`, a plan that does not fit names the first change that would.
    """
    told = {"gpus": gpus, "gpu_gib": gpu_gib, "samples": samples, "tokens": tokens}
    if odd := [f"{name} = {value}" for name, value in told.items() if not (name != "gpu_gib") <= value < 2**40]:
        raise ConfigError(f"{config.name}: a plan needs numbers above 0, not {', '.join(odd)}")
    found = lint(config, gpus=gpus, samples=samples, tokens=tokens)
    view = sound_view(config)[0]
    parameters, source = _parameters(view)
    peak = _peak(view, parameters, tokens)
    steps = total_steps(view, samples)
    why = [f"{f.key}: {f.message}" for f in found if f.level == "error"]
    why += (large := [*_too_large(view, parameters, peak, gpu_gib)])
    fits = not why
    if fits and peak * 1.09 + 1.4 > gpu_gib:
        why = [f"tight: {_used(view, peak):.0f} of {gpu_gib:g} GiB, and fragmentation may take 6 % more"]
    elif not fits and advise:
        helps = _advice(config, gpus=gpus, gpu_gib=gpu_gib, samples=samples, tokens=tokens, gpu=gpu)
        why += [helps] if large or helps.startswith("first") else []  # GPUs mend no length
    return Plan(
        fits=fits,
        gpus=gpus_needed(view),
        peak_gib=peak,
        steps=steps,
        hours=steps * _seconds(view, tokens, gpu) / 3600,
        disk_gib=_disk(view, parameters, steps),
        why=tuple(why),
        assumptions=(source, *_assumptions(view, tokens, gpu)),
        faster=tuple(_faster(config, parameters, gpu_gib, tokens, gpu)) if advise and fits else (),
    )


def _faster(config: Config, parameters: float, gpu_gib: float, tokens: int, gpu: str) -> Iterator[str]:
    """Yields the keys that should make a training faster, and what they should bring together."""
    view = sound_view(config)[0]
    shards, _, _, rows = _shape(view, tokens)
    found = list(faster(view, parameters, shards, gpu_gib, tokens))
    if not found:
        return
    then = sound_view(config.edit({key: value for key, value, _ in found}))[0]
    before, after = (rows * tokens / _seconds(v, tokens, gpu) for v in (view, then))
    if after < before or _used(then, _peak(then, parameters, tokens)) > gpu_gib:
        return
    yield from (f"{key} = {json.dumps(value)}: {why}" for key, value, why in found)
    if after > before:  # of weights on several GPUs no such run was made
        yield f"together {before:,.0f} to {after:,.0f} tokens/s on each GPU, from runs with packing or near it"


def _too_large(view: View, parameters: float, peak: float, gpu_gib: float) -> Iterator[str]:
    """Yields what does not go into a GPU of the policy, and into one of the rollouts."""
    if (needed := _used(view, peak)) > gpu_gib:
        yield f"a policy GPU needs {needed:.0f} GiB (peak {peak:.0f}) and has {gpu_gib:g}"
    if gpus_needed(view)[1]:
        weights = 2 * parameters / GIB / view[f"{ROLLOUT}.tp_size"]
        room = view["rollout.gpu_memory_utilization"] * gpu_gib
        if weights * 1.1 > room:
            yield f"a rollout GPU needs {weights:.0f} GiB for weights alone and may use {room:.0f}"


def _assumptions(view: View, tokens: int, gpu: str) -> Iterator[str]:
    yield f"every sample has {tokens} tokens" + (f" and an answer of {view[RESPONSE]}" if view.is_rl else "")
    yield "time as on an H200" + ("" if gpu == "H200" else f", scaled by the peak bfloat16 rate of an {gpu}")
    how = way(view, _shape(view, tokens)[0])
    yield f"seconds and memory of a mini-batch: {how.runs}"
    stock = is_stock(view) and view.has_lora
    measured = "nvidia/Cosmos-Reason2-8B" if stock else "nvidia/Cosmos-Reason1-7B"
    if _model(view) is not MODELS[measured]:
        yield f"memory and time are {measured}'s in proportion to the parameters: not measured for this model"
    yield "waiting for clips to decode, validation and saving are not counted"
    if view[f"{POLICY}.tp_size"] > 1 or (view.has_lora and view[f"{POLICY}.dp_shard_size"] > 1):
        yield "tensor parallelism, and LoRA on several GPUs, are taken to share memory evenly: not measured"
    if not (view.has_lora or view[RECOMPUTE] or view[PACK]):
        yield "gradient checkpointing is off: the peak is higher than this, not measured"
    if view.is_rl:
        once = f"LoRA of {'8B' if stock else '7B'} on one GPU, a prompt once for its completions"
        yield f"GRPO's time rests on one measured run: {once if _shares_prompts(view) else 'prompts apart'}"
        if view["mode"] != "colocated":
            yield "rollouts are taken to keep up with training: their own time was not measured, this is a lower bound"


def _layout(view: View, size: int) -> dict[str, int]:
    """Returns the changes that spread the policy over `size` GPUs; colocated rollouts take the same."""
    halves = (POLICY, ROLLOUT) if view["mode"] == "colocated" else (POLICY,)
    return {f"{half}.dp_shard_size": size for half in halves}


def _advice(config: Config, **known: Any) -> str:
    """Returns the first change, from small to large, with which the plan fits."""
    view = sound_view(config)[0]
    spread = [_layout(view, n) for n in VISIBLE if n + gpus_needed(view)[1] <= known["gpus"]]
    smaller = [{MINI: n} for n in (8, 4, 2, 1) if n < view[MINI]]
    smaller += [{RECOMPUTE: True, **size} for size in ({}, *smaller) if not view[RECOMPUTE]]
    lora = {"policy.lora.r": 16, "policy.lora.target_modules": "all-linear"}
    for changes in (*spread, *smaller, *(size | {MINI: 1} for size in spread), lora, lora | {MINI: 1}):
        if plan(config.edit(changes), **known, advise=False).fits:
            return "first turn " + ", ".join(f"{key} = {value!r}".replace("'", '"') for key, value in changes.items())
    more = next((f"{n} GPUs, " for n in VISIBLE if n > known["gpus"]), "")
    return f"no change of layout, batch or LoRA fits: take {more}larger GPUs, or fewer tokens a sample"


def layouts(config: Config, *, gpu_gib: float, samples: int, tokens: int, gpu: str = "H200") -> dict[int, Plan]:
    """Returns a plan for 1, 2, 4 and 8 GPUs: the policy takes all that the rollouts leave."""
    view, known = View(config), {"gpu_gib": gpu_gib, "samples": samples, "tokens": tokens, "gpu": gpu}
    rollout, rest = gpus_needed(view)[1], processes(view, POLICY) // max(view[f"{POLICY}.dp_shard_size"], 1)
    changed = {n: config.edit(_layout(view, max(n - rollout, 1) // rest or 1)) for n in VISIBLE}
    return {n: plan(changed[n], gpus=n, **known, advise=False) for n in VISIBLE}
