"""What rows say beyond a score: letters that a model likes, items won and lost, subgroups, skills kept.

Why: "71 %" does not say where the model got better, or what it lost on the way. Everything here takes rows and
returns plain figures, so that a notebook, a report and a test read the same.

    letter_bias(rows)["distance"]
    kept_skills(base_rows, rl_rows)["signal"]["verdict"]
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cookbook.evaluation import statistics
from cookbook.evaluation.controls import TURN

Row = Mapping[str, Any]


def circular_score(rows: Sequence[Row]) -> dict:
    """Returns n (items), accuracy (mean over turns), circular (share right in every turn), and the letter bias.

    "Right in every turn" is CircularEval (MMBench, Liu et al. 2023): a guesser among four earns 1/256.
    """
    items = defaultdict(list)
    for row in rows:
        items[row["id"].rpartition(TURN)[0]].append(row)
    turned = [part for part in items.values() if len(part) > 1] or list(items.values())
    return {
        "n": len(items),
        "accuracy": float(np.mean([np.mean([row["correct"] for row in part]) for part in items.values()])),
        "circular": float(np.mean([all(row["correct"] for row in part) for part in items.values()])),
        "bias": letter_bias([row for part in turned for row in part]),
    }


def letter_bias(rows: Sequence[Row]) -> dict:
    """Returns how much a model likes some options: letters {option: {right, told, recall}}, distance, recall_std.

    right and told are shares of the rows; distance is half the sum of their differences (0: answers as often as right,
    1: always where it never is right). recall_std is the standard deviation of the recalls (RStd, Zheng et al. 2024):
    0 for a model that knows each letter equally well. Best on the rows of `circular`, where each is right as often.
    """
    options = sorted({option for row in rows for option in row["options"]})
    wanted, told = Counter(row["reference"] for row in rows), Counter(row["answer"] for row in rows)
    hits = Counter(row["reference"] for row in rows if row["correct"])
    letters = {
        o: {
            "right": wanted[o] / len(rows),
            "told": told[o] / len(rows),
            "recall": hits[o] / wanted[o] if wanted[o] else None,
        }
        for o in options
    }
    recalls = [found["recall"] for found in letters.values() if found["recall"] is not None]
    read = sum(told[o] for o in options) or 1
    return {
        "letters": letters,
        "distance": sum(abs(wanted[o] / len(rows) - told[o] / read) for o in options) / 2,
        "recall_std": float(np.std(recalls)),
    }


def won_and_lost(before: Sequence[Row], after: Sequence[Row]) -> dict[str, list[str]]:
    """Returns the ids of items that the later model won and lost: {"won": […], "lost": […]}."""
    pairs = list(zip(before, after))
    return {
        "won": [b["id"] for a, b in pairs if b["correct"] and not a["correct"]],
        "lost": [b["id"] for a, b in pairs if a["correct"] and not b["correct"]],
    }


def subgroups(rows: Sequence[Row], by: str | Callable[[Row], Any]) -> dict[str, dict]:
    """Returns {value: {"n", "accuracy", "ci95"}} for each value of a field, or of a function of the row.

    A small subgroup has a wide interval; the lowest of many is low by luck too.
    """
    of = by if callable(by) else lambda row: row[by]
    parts = defaultdict(list)
    for row in rows:
        parts[str(of(row))].append(row["correct"])
    return {
        value: {"n": len(part), "accuracy": sum(part) / len(part), "ci95": list(statistics.interval(part))}
        for value, part in sorted(parts.items())
    }


def kept_skills(before: Sequence[Row], after: Sequence[Row], margin: float = 0.05) -> dict[str, dict]:
    """Returns whether post-training kept each task of a regression set: {task: {verdict, difference, ci95, n}}.

    "lost": the 95 % interval of the difference lies below 0. "kept": it lies above -margin, so that no loss worth
    naming is left. "not certain": anything else; ask more questions. The interval draws whole clips. Raises ValueError
    where the rows are not of the same items.
    """
    if [a["id"] for a in before] != [b["id"] for b in after]:
        raise ValueError("a regression set needs the same items in the same order, before and after")
    found = {}
    for task in sorted({row["task"] for row in before}):
        pairs = [(a, b) for a, b in zip(before, after) if a["task"] == task]
        right = [[row["correct"] for row in rows] for rows in zip(*pairs)]
        step = statistics.paired_clustered(*right, [a["group"] for a, _ in pairs])
        low, high = step.ci95
        # where no answer changed, redrawing finds nothing: what may still hide is what Wilson leaves of 0 in n
        if low == high == 0:
            low = -statistics.interval([False] * len(pairs))[1]
        verdict = "lost" if high < 0 else "kept" if low > -margin else "not certain"
        found[task] = {"verdict": verdict, "difference": step.difference, "ci95": [low, high], "n": len(pairs)}
    return found
