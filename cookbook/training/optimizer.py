"""What both loops share: the order of the samples, what of a model learns, and the optimizer, by the engine's keys.

Why: a first try on one GPU, or of a model that is too large to train whole, needs no engine; and a key that is read on
GPUs and dropped here would train another model without a word.
"""

import math
import random
import re

import torch

from cookbook.checkpoint.adapters import lora_settings
from cookbook.config import Config, ConfigError
from cookbook.config.patterns import RENAMED
from cookbook.data.architecture import of_config
from cookbook.data.samples import Sample

LORA, FREEZE = "policy.lora", "policy.freeze_pattern"

DECAY = {  # what is left of the rate when a share of the decay is done
    "linear": lambda done: 1 - done,
    "sqrt": lambda done: 1 - math.sqrt(done),
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "none": lambda done: 1.0,
}


def batches(samples: list[Sample], size: int, epochs: int, seed: int) -> list[list[Sample]]:
    """Returns the batches of all epochs. Each epoch shuffles anew, has a sample once, drops its incomplete rest."""
    rng = random.Random(seed)
    out = []
    for _ in range(epochs):
        shuffled = rng.sample(samples, len(samples))
        out += [shuffled[i : i + size] for i in range(0, len(samples) - size + 1, size)]
    return out


def set_learning(model, config: Config):
    """Put adapters on the model where `policy.lora` asks for them, and freeze what does not learn. Returns the model.

    Adapters learn in float32, beside weights of any type. In the engine's order: `policy.lora`, `trainable_pattern`,
    `trainable_map`, `freeze_pattern`, each by the engine's names. Raises ConfigError for what the local engine does not
    do, and for a pattern that hits nothing.
    """
    several = config.table("train.optm_lr") or isinstance(config["train.optm_lr"], list)
    if (name := config["train.optm_name"]) != "AdamW" or several:
        raise ConfigError(f"{config.name}: the local engine has AdamW and one rate, not {name}, or rates by module")
    if stated := config.table(LORA):
        _adapt(model, config, stated)
    native = of_config(model.config).native and not config["train.force_use_hf"]
    weights = {_engine_name(name) if native else name: weight for name, weight in model.named_parameters()}

    def hit(key: str, what: str, names: list[str]) -> list[str]:
        if not names:
            raise ConfigError(f"{config.name}: {key}: {what!r} hits no weight")
        return names

    def matched(key: str) -> list[str]:
        patterns = config[key] or []
        return [name for p in patterns for name in hit(key, p, [n for n in weights if re.search(p, n)])]

    if chosen := matched("policy.trainable_pattern"):
        for name, weight in weights.items():
            weight.requires_grad_(name in chosen)
    for path, flag in config.table("policy.trainable_map").items():
        if flag and stated:
            raise ConfigError(f"{config.name}: policy.trainable_map: {path!r} may only be false beside {LORA}")
        for name in hit("policy.trainable_map", path, [n for n in weights if f"{n}.".startswith(f"{path}.")]):
            weights[name].requires_grad_(flag)
    for name in matched(FREEZE):
        weights[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ConfigError(f"{config.name}: {FREEZE} and its like leave no weight that learns")
    # the language model's layers are computed twice, not kept; not in GRPO, whose completions take their prompt's keys
    if config["policy.model_gradient_checkpointing"] and config.kind == "sft":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _adapt(model, config: Config, stated: dict) -> None:
    keys = ("r", "lora_alpha", "lora_dropout", "use_rslora")
    odd = sorted(stated.keys() - {*keys, "target_modules"})
    if config["policy.trainable_pattern"]:
        odd.append("beside policy.trainable_pattern")
    if config.kind == "grpo" and config[f"{LORA}.lora_dropout"]:
        odd.append("lora_dropout in RL")
    if odd:
        raise ConfigError(f"{config.name}: {LORA}: the local engine has no {', '.join(odd)}; take it out")
    settings = lora_settings(model, {key: config[f"{LORA}.{key}"] for key in keys} | stated)
    if not settings.target_modules:
        raise ConfigError(f"{config.name}: {LORA}.target_modules = {stated['target_modules']} hits no linear layer")
    from peft import inject_adapter_in_model

    inject_adapter_in_model(settings, model)
    for name, weight in model.named_parameters():
        if weight.requires_grad_(".lora_" in name).requires_grad:
            weight.data = weight.data.float()


def _engine_name(name: str) -> str:
    name = name.replace(".base_layer.", ".").replace(".default.", ".")  # peft's own parts of it
    start = next((start for start in RENAMED if name.startswith(start)), "")
    return RENAMED.get(start, "") + name.removeprefix(start)


def rate_factor(step: int, steps: int, config: Config) -> float:
    """Returns the share of the peak learning rate at a step (from 0): linear warm-up, constant, then decay.

    It is cosmos-rl's own schedule (`build_lr_schedulers`), to the digit: a warm-up from 0 takes its first step at rate
    0, so nothing is learned there. The keys: `optm_warmup_steps` (a count, or a share of all steps),
    `optm_warmup_start_factor`, `optm_decay_ratio` (the last share of steps that decays, after the warm-up at most; left
    out: all of those), `optm_decay_type` (one of DECAY; left out: "none"), `optm_min_lr_factor`.
    """
    warmup = config["train.optm_warmup_steps"]
    warmup = min(int(warmup * steps) if isinstance(warmup, float) and warmup <= 1 else int(warmup), steps)
    if step < warmup:
        start = config["train.optm_warmup_start_factor"]
        return start + (1 - start) * step / (warmup - 1) if warmup > 1 else 1.0
    ratio = config["train.optm_decay_ratio"]
    decay = steps - warmup if ratio is None else min(round(ratio * steps), steps - warmup)
    done = max(0, step - (steps - decay)) / decay if decay else 0.0
    floor = config["train.optm_min_lr_factor"]
    return floor + (1 - floor) * DECAY[config["train.optm_decay_type"] or "none"](done)


class Optimizer:
    """AdamW with the engine's schedule and gradient clipping; `step()` does all three."""

    def __init__(self, model, config: Config, steps: int) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.config, self.steps, self.done = config, steps, 0
        self.rate = 0.0
        self.adam = torch.optim.AdamW(
            self.parameters,
            lr=config["train.optm_lr"],
            betas=tuple(config["train.optm_betas"]),
            eps=config["train.epsilon"],
            weight_decay=config["train.optm_weight_decay"],
        )

    def step(self) -> float:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping."""
        self.rate = self.config["train.optm_lr"] * rate_factor(self.done, self.steps, self.config)
        for group in self.adam.param_groups:
            group["lr"] = self.rate
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config["train.optm_grad_norm_clip"])
        self.adam.step()
        self.adam.zero_grad()
        self.done += 1
        return norm.item()
