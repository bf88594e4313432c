"""The engine's metrics, in the file and under the names that the rest of the cookbook reads.

Why: what cosmos-rl prints is for people, and differs by mode. It hands the same numbers to any function in
`launch_worker(custom_logger_fns=[...])`; ours appends them to the file named in COOKBOOK_METRICS, one JSON line a call.
Most names are those of `training.sft` and `training.grpo` already; NAMES has the others. Training and validation report
apart, so a step can have two rows: the curves of `display.plots` take them as they are, `read_engine_metrics` merges
them. Unlike the local engine's metrics these hold durations, and are not the same twice.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cookbook.runs import read_metrics

FILE = "COOKBOOK_METRICS"

NAMES = {
    "train/grad_norm": "optimizer/grad_norm",  # GRPO
    "train/learning_rate": "optimizer/lr",  # GRPO
    "optimizer/lr_model": "optimizer/lr",  # SFT: one rate a part of the model; the language model's is ours
    "optimizer/lr_model.language_model": "optimizer/lr",  # the same with force_use_hf
}


HELD_OUT = "val/reward_avg"  # the mean reward of held-out prompts


def log_metrics(data: Mapping[str, Any], step: int, held_out: str = HELD_OUT) -> None:
    """Append the numbers of one report to the file in COOKBOOK_METRICS; without one do nothing. Never raises.

    `held_out` is what the mean reward of held-out prompts is, where the loader knows: an accuracy for rewards of ours.
    """
    try:
        if path := os.environ.get(FILE):
            numbers = {held_out if key == HELD_OUT else key: value for key, value in translate(data).items()}
            line = json.dumps({"step": int(step), **numbers, **memory()}) + "\n"
            with open(path, "a", encoding="utf-8") as file:  # one write: lines of two processes do not mix
                file.write(line)
    except Exception:  # a full disk must not end a training
        return


def memory() -> dict[str, float]:
    """Returns the most GiB that this process has had on its GPU so far; nothing in a process without one."""
    if not torch.cuda.is_initialized():  # the controller of GRPO, which must not take one
        return {}
    return {"gpu/peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def translate(data: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers among the values, under our names; a tensor or array of one element is its number."""
    numbers = {NAMES.get(key, key): _number(value) for key, value in data.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    try:
        value = value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError):  # more than one element
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_engine_metrics(path: str | Path) -> list[dict]:
    """Returns one row a step, in order, with all that was reported of it; the last report of a number counts.

    `path` is as for runs.read_metrics. So a resumed run, which reports its first steps again, has no step twice.
    """
    steps: dict[int, dict] = {}
    for row in read_metrics(path):
        steps.setdefault(row["step"], {}).update(translate(row))
    return [steps[step] for step in sorted(steps)]
