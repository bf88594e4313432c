"""LoRA adapters: what the engine's table asks peft for, and the whole weights that come of them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from cookbook.checkpoint.shards import CheckpointError


def lora_settings(model, stated: Mapping[str, Any]):
    """Returns peft's LoraConfig of the engine's table, whose targets are parts of names; "all-linear" leaves the head.

    Raises CheckpointError where peft is missing.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise CheckpointError("LoRA needs peft: python -m pip install -c requirements.lock peft") from None
    known = {field.name for field in fields(LoraConfig)}
    stated = {**stated, "rank_pattern": stated.get("r_pattern") or stated.get("rank_pattern")}  # the engine's, peft's
    known -= {"init_lora_weights"}  # the engine has none for language models; peft's would rewrite the base
    settings = {key: value for key, value in stated.items() if key in known and value is not None}
    head, parts = model.get_output_embeddings(), settings.get("target_modules")
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    if isinstance(parts, list) or parts == "all-linear":
        wanted = [""] if parts == "all-linear" else parts
        settings["target_modules"] = [name for name in linear if any(part in name for part in wanted)]
    return LoraConfig(**settings)


def whole_weights(model) -> dict[str, Tensor]:
    """Returns the weights of a model, its adapters added to what they adapt, by the names of a model without any."""
    kept = {name: value for name, value in model.state_dict().items() if ".lora_" not in name}
    found = {name.replace(".base_layer.", "."): value for name, value in kept.items()}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            weight = found[f"{name}.weight"]
            found[f"{name}.weight"] = weight.float() + module.get_delta_weight("default").float()
    return found
