"""The plan: memory, steps, hours and disk that a configuration asks for, before a GPU is booked.

Why: "does it fit, and will it be done by tomorrow?" is answered today by trying. The formulas below were fitted to
runs of an 8.29 B Qwen2.5-VL (random weights) in cosmos-rl 0.4.7 on NVIDIA H200s, with gradient checkpointing, SDPA
attention, float32 master weights, one sample a mini-batch and two mini-batches a step; tests/config/test_planner.py
holds those runs. Everything else that a plan takes for granted stands in its `assumptions`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from cookbook.config.document import Config, ConfigError
from cookbook.config.models import MODELS, SEVEN
from cookbook.config.rules import VISIBLE, View, gpus_needed, lint, processes, sound_view, steps_per_epoch
from cookbook.config.schema import BATCH, GENERATIONS, MINI, POLICY, RESPONSE, ROLLOUT
from cookbook.display.tables import AsTable, Table
from cookbook.runs import ROOT

GIB = 2**30
PARAMETERS_7B = SEVEN.parameters  # of the model that the formulas were fitted to
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312}  # dense bfloat16, from NVIDIA's data sheets

# seconds of one mini-batch on one H200: max(floor, tokens * rate); and of the rest of the step
FULL = {"floor": 0.675, "floor_alone": 0.47, "rate": 0.258e-3, "rest": 0.4}
LORA = {"floor": 0.35, "floor_alone": 0.35, "rate": 0.1335e-3, "rest": 0.0}
LATER_FLOOR = 1.0  # of LoRA, in five later runs (tests/benchmarks/seven_billion.py); why it differs is not known
RL_FACTOR = 14.2 / (0.4 + 8 * 0.675)  # a GRPO step's training, against SFT on the same tokens (one run)
SECONDS_A_TOKEN = 7.8 / 64  # of one generate call of a sharded policy (the same run)


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
        for name, lines in (("why", self.why), ("taken for granted", self.assumptions)):
            rows += zip_longest((name,), lines, fillvalue="") if lines else ()
        return Table(("", "plan"), rows)


def _parameters(view: View) -> tuple[float, str]:
    """Returns the model's parameters, and where the number comes from."""
    name = view["policy.model_name_or_path"]
    if files := list((ROOT / name).glob("**/*.safetensors")):
        return sum(f.stat().st_size for f in files) / 2, f"{name}: the size of its files, two bytes a parameter"
    model = MODELS.get(name, SEVEN)
    like = ", as Cosmos-Reason1-7B" if model is SEVEN else ""
    return model.parameters, f"{name} has {model.parameters / 1e9:.2f} B parameters{like}"


def memory(parameters: float, shards: int, tokens: int, lora: bool = False, logits: float | None = None) -> float:
    """Returns GiB allocated at the peak of a training step on one GPU.

    `tokens` are those of one mini-batch on one GPU, padding included. Sharded states: float32 weights, gradients and
    both AdamW moments (16 bytes a parameter), or the frozen float32 base under LoRA (4 bytes). The rest is unsharded
    layers and the logits; `logits` is the vocabulary's share of the 7B model's, where it is known.
    """
    scale = parameters / PARAMETERS_7B
    logits = scale if logits is None else logits
    if lora:
        return 4 * parameters / shards / GIB + 0.66 * scale + 2.20e-3 * tokens * logits
    return 16 * parameters / shards / GIB + max(6.5 * scale, 0.5 * scale + 2.59e-3 * tokens * logits)


def loading(parameters: float, shards: int) -> float:
    """Returns GiB allocated while the weights are read: the sharded float32 copy, and all of the bfloat16 files.

    Of full training the first step takes more. Of LoRA this is the peak, up to some 6,700 tokens a mini-batch: 46.5 GiB
    on an H100 (`tests/benchmarks/seven_billion.py`).
    """
    return (4 / shards + 2) * parameters / GIB + 0.2


def step_seconds(shards: int, tokens: int, batches: int, lora: bool = False, gpu: str = "H200") -> float:
    """Returns the seconds of one optimizer step of `batches` mini-batches of `tokens` each, on every GPU."""
    floor, rate, rest = _speed(shards, lora, gpu)
    return batches * max(floor, tokens * rate) + rest


def _speed(shards: int, lora: bool, gpu: str) -> tuple[float, float, float]:
    """Returns seconds of the smallest mini-batch, whose time goes by in launching kernels, of a token, and the rest."""
    speed, slower = LORA if lora else FULL, PEAK_TFLOPS["H200"] / PEAK_TFLOPS[gpu]
    return speed["floor" if shards > 1 else "floor_alone"], speed["rate"] * slower, speed["rest"] * slower


def _used(peak: float) -> float:
    """Returns GiB that the card shows as used: the allocator reserves 3 to 9 % more, CUDA itself takes 1.4 GiB."""
    return peak * 1.03 + 1.4


def _shape(view: View, tokens: int) -> tuple[int, int, int, int]:
    """Returns (shards, tokens of a mini-batch, mini-batches a step on one GPU, samples a step on one GPU)."""
    sharded = max(view[f"{POLICY}.dp_shard_size"], 1)
    ranks = sharded * view[f"{POLICY}.dp_replicate_size"]
    rows = view[BATCH] // ranks if view.is_rl else view[BATCH]
    longest = tokens + (view[RESPONSE] if view.is_rl else 0)
    return sharded * view[f"{POLICY}.tp_size"], view[MINI] * longest, max(rows // view[MINI], 1), rows


def _peak(view: View, parameters: float, tokens: int) -> float:
    shards, packed, _, _ = _shape(view, tokens)
    name = view["policy.model_name_or_path"]
    logits = 1.0 if name in MODELS else None  # all of them know about 152,000 words
    peak = max(loading(parameters, shards), memory(parameters, shards, packed, view.has_lora, logits))
    if view.is_rl and view["mode"] == "colocated":
        each = MODELS.get(name, SEVEN).cache_bytes / GIB
        cache = view["rollout.batch_size"] * view[GENERATIONS] * (tokens + view[RESPONSE]) * each
        peak = max(peak, 16 * parameters / shards / GIB + 6.5 + cache)
    return peak


def _seconds(view: View, tokens: int, gpu: str) -> float:
    """Returns the seconds of one optimizer step; in GRPO with its generation, where that is known."""
    shards, packed, batches, rows = _shape(view, tokens)
    size = MODELS.get(view["policy.model_name_or_path"], SEVEN).parameters / PARAMETERS_7B
    seconds = step_seconds(shards, packed * size, batches, view.has_lora, gpu)
    if not view.is_rl:
        return seconds
    seconds *= RL_FACTOR
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
    state = 4 if view.has_lora else 12  # float32 weights, and two AdamW moments of what is trained
    state += 4 if view.is_rl and view["train.train_policy.kl_beta"] else 0  # the reference
    return kept * parameters * (state + (0 if view.has_lora else 2)) / GIB


def plan(
    config: Config, *, gpus: int, gpu_gib: float, samples: int, tokens: int, gpu: str = "H200", advise: bool = True
) -> Plan:
    """Returns what the configuration asks for on `gpus` GPUs of `gpu_gib` GiB.

    `samples`: items in the training set. `tokens`: of a typical long sample, vision and text; in RL of its prompt.
    `gpu`: one of PEAK_TFLOPS. Memory reproduces the measured runs within 1 %, step times within 5 % on the same host;
    RL times rest on one run. With `advise`, a plan that does not fit names the first change that would.
    """
    told = {"gpus": gpus, "gpu_gib": gpu_gib, "samples": samples, "tokens": tokens}
    if odd := [f"{name} = {value}" for name, value in told.items() if not (name != "gpu_gib") <= value < 2**40]:
        raise ConfigError(f"{config.name}: a plan needs numbers above 0, not {', '.join(odd)}")
    found = lint(config, gpus=gpus, samples=samples, tokens=tokens)
    view = sound_view(config)[0]
    parameters, source = _parameters(view)
    peak = _peak(view, parameters, tokens)
    steps = math.floor(steps_per_epoch(view, samples) * view["train.epoch"])
    steps = min(steps, view["train.max_num_steps"] or steps)
    why = [f"{f.key}: {f.message}" for f in found if f.level == "error"]
    why += _too_large(view, parameters, peak, gpu_gib)
    fits = not why
    if fits and peak * 1.09 + 1.4 > gpu_gib:
        why = [f"tight: {_used(peak):.0f} of {gpu_gib:g} GiB, and fragmentation may take 6 % more"]
    elif not fits and advise:
        why.append(_advice(config, gpus=gpus, gpu_gib=gpu_gib, samples=samples, tokens=tokens, gpu=gpu))
    return Plan(
        fits=fits,
        gpus=gpus_needed(view),
        peak_gib=peak,
        steps=steps,
        hours=steps * _seconds(view, tokens, gpu) / 3600,
        disk_gib=_disk(view, parameters, steps),
        why=tuple(why),
        assumptions=(source, *_assumptions(view, tokens, gpu)),
    )


def _too_large(view: View, parameters: float, peak: float, gpu_gib: float) -> Iterator[str]:
    """Yields what does not go into a GPU of the policy, and into one of the rollouts."""
    if _used(peak) > gpu_gib:
        yield f"a policy GPU needs {_used(peak):.0f} GiB (peak {peak:.0f}) and has {gpu_gib:g}"
    if gpus_needed(view)[1]:
        weights = 2 * parameters / GIB / view[f"{ROLLOUT}.tp_size"]
        room = view["rollout.gpu_memory_utilization"] * gpu_gib
        if weights * 1.1 > room:
            yield f"a rollout GPU needs {weights:.0f} GiB for weights alone and may use {room:.0f}"


def _assumptions(view: View, tokens: int, gpu: str) -> Iterator[str]:
    yield f"every sample has {tokens} tokens" + (f" and an answer of {view[RESPONSE]}" if view.is_rl else "")
    yield "time as on an H200" + ("" if gpu == "H200" else f", scaled by the peak bfloat16 rate of an {gpu}")
    shards, packed, _, _ = _shape(view, tokens)
    floor, rate, _ = _speed(shards, view.has_lora, gpu)
    if packed * rate < floor:
        launching = f"a mini-batch below {floor / rate:,.0f} tokens takes {floor} s, in which the CPU launches kernels"
        yield f"{launching}; later runs took {LATER_FLOOR} s for LoRA instead of {LORA['floor_alone']}"
    if MODELS.get(view["policy.model_name_or_path"], SEVEN) is not SEVEN:
        yield "memory and time are Cosmos-Reason1-7B's in proportion to the parameters: not measured for this model"
    yield "waiting for clips to decode, validation and saving are not counted"
    if view[f"{POLICY}.tp_size"] > 1 or (view.has_lora and view[f"{POLICY}.dp_shard_size"] > 1):
        yield "tensor parallelism, and LoRA on several GPUs, are taken to share memory evenly: not measured"
    if not view["policy.model_gradient_checkpointing"]:
        yield "gradient checkpointing is off: the peak is higher than this, not measured"
    if view.is_rl:
        yield "GRPO's time rests on one measured run"
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
