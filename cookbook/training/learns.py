"""What of a model learns on the local engine: all of it, LoRA adapters, or what patterns choose, as cosmos-rl has it.

Why: a first try on one GPU, or of a model that is too large to train whole, needs no engine; and a key that is read on
GPUs and dropped here would train another model without a word. Exports are whole weights, as all that follows wants.
"""

import re

from cookbook.checkpoint.adapters import lora_settings
from cookbook.config import Config, ConfigError
from cookbook.config.patterns import RENAMED
from cookbook.data.architecture import of_config

LORA, FREEZE = "policy.lora", "policy.freeze_pattern"


def set_learning(model, config: Config):
    """Put adapters on the model where `policy.lora` asks for them, and freeze what does not learn. Returns the model.

    Adapters learn in float32, beside weights of any type. In the engine's order: `policy.lora`, `trainable_pattern`,
    `trainable_map`, `freeze_pattern`, each by the engine's names. Raises ConfigError for what the local engine does not
    do, and for a pattern that hits nothing.
    """
    if stated := config.table(LORA):
        _adapt(model, config, stated)
    native = of_config(model.config).native
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
        for name in hit("policy.trainable_map", path, [n for n in weights if f"{n}.".startswith(f"{path}.")]):
            weights[name].requires_grad_(flag)
    for name in matched(FREEZE):
        weights[name].requires_grad_(False)
    if not any(weight.requires_grad for weight in weights.values()):
        raise ConfigError(f"{config.name}: {FREEZE} and its like leave no weight that learns")
    return model


def _adapt(model, config: Config, stated: dict) -> None:
    if stated.get("modules_to_save"):
        raise ConfigError(f"{config.name}: {LORA}.modules_to_save: the local engine trains adapters alone; take it out")
    keys = ("r", "lora_alpha", "lora_dropout", "use_rslora")
    settings = lora_settings(model, {key: config[f"{LORA}.{key}"] for key in keys} | stated)
    if not settings.target_modules:
        raise ConfigError(f"{config.name}: {LORA}.target_modules = {stated['target_modules']} hits no linear layer")
    from peft import inject_adapter_in_model

    inject_adapter_in_model(settings, model)
    for name, weight in model.named_parameters():
        if weight.requires_grad_(".lora_" in name).requires_grad:
            weight.data = weight.data.float()


def _engine_name(name: str) -> str:
    start = next((start for start in RENAMED if name.startswith(start)), "")
    return RENAMED.get(start, "") + name.removeprefix(start)
