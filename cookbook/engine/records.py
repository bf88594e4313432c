"""What a training on cosmos-rl leaves: its metrics and completions, in the files and under the names of a local run.

Why: what cosmos-rl prints is for people, and differs by mode. It hands the same numbers to any function in
`launch_worker(custom_logger_fns=[...])`; ours appends them to the file named in COOKBOOK_METRICS, one JSON line a call.
Training and validation report apart, so a step can have two rows: `read_engine_metrics` merges them. Unlike the local
engine's metrics these hold durations, and are not the same twice. The engine keeps no completions, and a reward curve
without them hides what was rewarded: the reward function appends each to the file named in COOKBOOK_GENERATIONS.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from cookbook.runs import GENERATIONS, METRICS, read_jsonl, read_metrics, write_jsonl

METRICS_TO, COMPLETIONS_TO = "COOKBOOK_METRICS", "COOKBOOK_GENERATIONS"  # variables of the engine's processes
ENGINE_METRICS = "engine_metrics.jsonl"  # what the engine reports, row by row
HELD_OUT = "val/reward_avg"  # the mean reward of held-out prompts
METRIC_NAMES = {  # ours, where the engine has another name than `training.sft` and `training.grpo`
    "train/grad_norm": "optimizer/grad_norm",  # GRPO
    "train/learning_rate": "optimizer/lr",  # GRPO
    "optimizer/lr_model": "optimizer/lr",  # SFT: one rate a part of the model; the language model's is ours
    "optimizer/lr_model.language_model": "optimizer/lr",  # the same with force_use_hf
}


def append_row(variable: str, row: Mapping[str, Any]) -> None:
    """Append a row to the file that a variable of the environment names; without one do nothing. Never raises."""
    with contextlib.suppress(Exception):  # a full disk must not end a training
        if path := os.environ.get(variable):
            with open(path, "a", encoding="utf-8") as file:  # one write: lines of two processes do not mix
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def log_metrics(data: Mapping[str, Any], step: int, held_out: str = HELD_OUT) -> None:
    """Append the numbers of one report to the file in COOKBOOK_METRICS; without one do nothing. Never raises.

    `held_out` is what the mean reward of held-out prompts is, where the loader knows: an accuracy for rewards of ours.
    """
    with contextlib.suppress(Exception):  # nor a report of another form
        numbers = {held_out if key == HELD_OUT else key: value for key, value in _translate(data).items()}
        import torch  # here: the doctor reads this module's names, and must not import torch

        if torch.cuda.is_initialized():  # not in the controller of GRPO, which must not take a GPU
            numbers["gpu/peak_gib"] = torch.cuda.max_memory_allocated() / 2**30  # the most so far, of this process
        append_row(METRICS_TO, {"step": int(step), **numbers})


def _translate(data: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers among the values, under our names; a tensor or array of one element is its number."""
    numbers = {}
    for key, value in data.items():
        with contextlib.suppress(RuntimeError, ValueError):  # more than one element
            value = value.item() if hasattr(value, "item") else value
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[METRIC_NAMES.get(key, key)] = value
    return numbers


def read_engine_metrics(path: str | Path, torn: bool = False) -> list[dict]:
    """Returns one row a step, in order, with all that was reported of it; the last report of a number counts.

    `path` and `torn` are as for runs.read_metrics. So a resumed run, which reports its first steps again, has no step
    twice.
    """
    steps: dict[int, dict] = defaultdict(dict)
    for row in read_metrics(path, torn):
        steps[row["step"]] |= _translate(row)
    return [steps[step] for step in sorted(steps)]


def add_completions(run: Path, size: int) -> None:
    """Number a run's completions by step, and add to its metrics what they tell of a step and the engine does not.

    That is the mean of each part of the reward, and the share of groups (what was written for one prompt) whose rewards
    are all equal. `size` completions make a step, in the order in which they were rewarded: the engine does not tell
    the reward which step it is for, and where it throws groups away, the numbers run ahead.
    """
    rows = [row | {"step": i // size + 1} for i, row in enumerate(read_jsonl(run / GENERATIONS))]
    write_jsonl(rows, run / GENERATIONS)
    told = {step: _figures(list(part)) for step, part in groupby(rows, key=itemgetter("step"))}
    write_jsonl([row | told.get(row["step"], {}) for row in read_metrics(run)], run / METRICS)


def _figures(rows: list[dict]) -> dict[str, float]:
    groups = defaultdict(set)
    for row in rows:
        groups[row["id"]].add(round(row["reward"], 6))
    parts = sorted(rows[0].keys() - {"step", "id", "output", "reference", "reward"})
    values = {f"train/reward_{part}": sum(row[part] for row in rows) / len(rows) for part in parts}
    return values | {"train/zero_variance_share": sum(len(found) == 1 for found in groups.values()) / len(groups)}
