"""What a training on cosmos-rl leaves: its metrics and completions, in the files and under the names of a local run.

Why: what cosmos-rl prints is for people, and differs by mode. It hands the same numbers to any function in
`launch_worker(custom_logger_fns=[...])`; ours appends them to the file named in COOKBOOK_METRICS, one JSON line a call.
Most names are those of `training.sft` and `training.grpo` already; METRIC_NAMES has the others. Training and validation
report apart, so a step can have two rows: the curves of `display.plots` take them as they are, `read_engine_metrics`
merges them. Unlike the local engine's metrics these hold durations, and are not the same twice.

The engine keeps no completions, and a reward curve without them hides what was rewarded. The reward function sees
every one, so it keeps them: a line of JSON each, appended to the file named in COOKBOOK_GENERATIONS.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cookbook.runs import read_jsonl, read_metrics

METRICS_TO, COMPLETIONS_TO = "COOKBOOK_METRICS", "COOKBOOK_GENERATIONS"  # variables of the engine's processes
ENGINE_METRICS = "engine_metrics.jsonl"  # what the engine reports, row by row
HELD_OUT = "val/reward_avg"  # the mean reward of held-out prompts
METRIC_NAMES = {
    "train/grad_norm": "optimizer/grad_norm",  # GRPO
    "train/learning_rate": "optimizer/lr",  # GRPO
    "optimizer/lr_model": "optimizer/lr",  # SFT: one rate a part of the model; the language model's is ours
    "optimizer/lr_model.language_model": "optimizer/lr",  # the same with force_use_hf
}


def _append(variable: str, row: Mapping[str, Any]) -> None:
    """Append a row to the file that a variable of the environment names; without one do nothing. Raises OSError."""
    if path := os.environ.get(variable):
        with open(path, "a", encoding="utf-8") as file:  # one write: lines of two processes do not mix
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# ---- metrics ----------------------------------------------------------------------------------------------------


def log_metrics(data: Mapping[str, Any], step: int, held_out: str = HELD_OUT) -> None:
    """Append the numbers of one report to the file in COOKBOOK_METRICS; without one do nothing. Never raises.

    `held_out` is what the mean reward of held-out prompts is, where the loader knows: an accuracy for rewards of ours.
    """
    with contextlib.suppress(Exception):  # a full disk must not end a training
        numbers = {held_out if key == HELD_OUT else key: value for key, value in _translate(data).items()}
        _append(METRICS_TO, {"step": int(step), **numbers, **peak_memory()})


def peak_memory() -> dict[str, float]:
    """Returns the most GiB that this process has had on its GPU so far; nothing in a process without one."""
    import torch  # here: the doctor reads this module's names, and must not import torch

    if not torch.cuda.is_initialized():  # the controller of GRPO, which must not take one
        return {}
    return {"gpu/peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def _translate(data: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers among the values, under our names; a tensor or array of one element is its number."""
    numbers = {METRIC_NAMES.get(key, key): _number(value) for key, value in data.items()}
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
        steps.setdefault(row["step"], {}).update(_translate(row))
    return [steps[step] for step in sorted(steps)]


# ---- completions ------------------------------------------------------------------------------------------------


def keep_completion(row: Mapping[str, Any]) -> None:
    """Append a row to the file in COOKBOOK_GENERATIONS; without one do nothing. Never raises."""
    with contextlib.suppress(Exception):  # a full disk must not end a training
        _append(COMPLETIONS_TO, row)


def number_completions(path: Path, size: int) -> list[dict]:
    """Give each row its step: `size` completions a step, in the order in which they were rewarded. Returns the rows.

    The engine does not tell the reward which step it is for; where it throws groups away, the numbers run ahead.
    """
    rows = read_jsonl(path) if path.is_file() else []
    rows = [row | {"step": i // size + 1} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


def _figures(rows: Sequence[dict]) -> dict[str, float]:
    """Returns what the engine does not report of one step: each part of the reward, and how many groups are all equal.

    A group is what was written for one prompt.
    """
    groups = defaultdict(set)
    for row in rows:
        groups[row["id"]].add(round(row["reward"], 6))
    parts = rows[0].keys() - {"step", "id", "output", "reference", "reward"}
    values = {f"train/reward_{part}": sum(row[part] for row in rows) / len(rows) for part in sorted(parts)}
    return values | {"train/zero_variance_share": sum(len(found) == 1 for found in groups.values()) / len(groups)}


def completion_figures(rows: Sequence[dict]) -> dict[int, dict[str, float]]:
    """Returns what the engine does not report of each step: the parts of the reward, and how many groups are equal."""
    steps = defaultdict(list)
    for row in rows:
        steps[row["step"]].append(row)
    return {step: _figures(part) for step, part in steps.items()}
