"""What the model wrote during GRPO on cosmos-rl, in the file that a run of the local engine has.

Why: the engine keeps no completions, and a reward curve without them hides what was rewarded. The reward function sees
every one, so it keeps them: a line of JSON each, appended to the file named in COOKBOOK_GENERATIONS.
"""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cookbook.runs import read_jsonl

FILE = "COOKBOOK_GENERATIONS"


def keep(row: dict) -> None:
    """Append a row to the file in COOKBOOK_GENERATIONS; without one do nothing. Never raises."""
    try:
        if path := os.environ.get(FILE):
            with open(path, "a", encoding="utf-8") as file:  # one write: lines of two processes do not mix
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except Exception:  # a full disk must not end a training
        return


def number(path: Path, size: int) -> list[dict]:
    """Give each row its step: `size` completions a step, in the order in which they were rewarded. Returns the rows.

    The engine does not tell the reward which step it is for; where it throws groups away, the numbers run ahead.
    """
    rows = read_jsonl(path) if path.is_file() else []
    rows = [row | {"step": i // size + 1} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


def figures(rows: Sequence[dict]) -> dict[str, float]:
    """Returns what the engine does not report of one step: each part of the reward, and how many groups are all equal.

    A group is what was written for one prompt.
    """
    groups = defaultdict(set)
    for row in rows:
        groups[row["id"]].add(round(row["reward"], 6))
    parts = rows[0].keys() - {"step", "id", "output", "reference", "reward"}
    values = {f"train/reward_{part}": sum(row[part] for row in rows) / len(rows) for part in sorted(parts)}
    return values | {"train/zero_variance_share": sum(len(found) == 1 for found in groups.values()) / len(groups)}


def by_step(rows: Sequence[dict]) -> dict[int, dict[str, float]]:
    """Returns the figures of every step."""
    steps = defaultdict(list)
    for row in rows:
        steps[row["step"]].append(row)
    return {step: figures(part) for step, part in steps.items()}
