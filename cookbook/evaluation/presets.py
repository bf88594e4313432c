"""Presets: how answers are drawn, by name: greedy, or as a published evaluation has it (`configs/generation.yaml`).

Why: a published figure was made at a temperature, with a penalty, on so many frames; beside it stands only what was
drawn the same way. The default stays greedy, which repeats.

    contract, how = preset("video_rewards", contract)
    rows = predict(model, Encoder(processor, contract, model.config), samples, "sft", **how)
"""

from dataclasses import replace
from typing import Any

import yaml

from cookbook.data.contract import Contract
from cookbook.runs import ROOT

FILE = "configs/generation.yaml"


def preset(name: str, contract: Contract) -> tuple[Contract, dict[str, Any]]:
    """Returns (the contract with the preset's limits for clips, what `predict` and `predict_server` are told).

    "" is greedy. Where the preset names no length, it is the contract's. Raises ValueError for an unknown name.
    """
    known = yaml.safe_load((ROOT / FILE).read_text(encoding="utf-8"))
    if (name := name or "greedy") not in known:
        raise ValueError(f"{FILE} has no preset {name!r}; it has {', '.join(known)}")
    how = {"limit": contract.max_new_tokens} | known[name]
    limits = how.pop("video", {})
    return replace(contract, vision=replace(contract.vision, **limits)), how
