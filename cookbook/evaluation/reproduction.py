"""Reproduction cards: what a recipe published, what we measured, and whether a user's own run agrees.

Why: a published number without its data size, and ours without its interval, say little; and a miniature that goes in
the same direction is not the same number. The recipe notebooks print a card from here, and `compare` judges a run at
full scale by its predictions.

    compare([Published("accuracy", 0.340, n=3300, note="SFT, step 100")], read_predictions("predictions.jsonl"))
    print(table(rows))
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cookbook.evaluation import statistics
from cookbook.evaluation.predictions import read, read_row

PLOT_ONLY = "plot only"  # published as a picture; nobody should read a number out of it


@dataclass(frozen=True)
class Published:
    """One published figure of a test set: "accuracy" or "pearson", its value (None: plot only), and on how many."""

    metric: str
    value: float | None
    n: int
    note: str = ""
    at_least: bool = False  # published as "more than this"


def read_predictions(path: str | Path) -> list[dict]:
    """Returns the rows of a predictions.jsonl, answers read again. Raises ValueError for a file that is none."""
    try:
        return [read_row(row) for row in read(Path(path))]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: is no file of predictions ({error})") from None


def accuracy(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Returns (share of right answers, low, high): Wilson's 95 % interval. Unread answers count as wrong."""
    correct = [row["correct"] for row in rows]
    return sum(correct) / len(correct), *statistics.interval(correct)


def pearson(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Returns (correlation of answers and references, low, high): Fisher's 95 % interval.

    Answers that could not be read are left out, as the published script does. Where all answers are the same there
    is no correlation: (nan, nan, nan).
    """
    from scipy.stats import pearsonr

    pairs = [(float(row["reference"]), float(row["answer"])) for row in rows if row["answer"] is not None]
    wanted, told = zip(*pairs) if pairs else ((), ())
    if len(pairs) < 4 or len(set(told)) < 2 or len(set(wanted)) < 2:
        return math.nan, math.nan, math.nan
    found = pearsonr(wanted, told)
    return float(found.statistic), *map(float, found.confidence_interval())


METRICS = {"accuracy": accuracy, "pearson": pearson}


def compare(published: Sequence[Published], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns one line a figure: published, yours with its interval, and a verdict. Raises ValueError for no rows."""
    if not rows:
        raise ValueError("no predictions to compare")
    lines = []
    for figure in published:
        value, low, high = METRICS[figure.metric](rows)
        lines.append(
            {
                "figure": f"{figure.metric} ({figure.note})" if figure.note else figure.metric,
                "published": _shown(figure),
                "yours": "none: all answers are the same" if math.isnan(value) else f"{value:.3f}",
                "95 %": "" if math.isnan(value) else f"{low:.3f} to {high:.3f}",
                "items": str(len(rows)),
                "verdict": _verdict(figure, low, high),
            }
        )
    return lines


def _shown(figure: Published) -> str:
    if figure.value is None:
        return PLOT_ONLY
    return f"{'> ' if figure.at_least else ''}{figure.value:.3f} of {figure.n}"


def _verdict(figure: Published, low: float, high: float) -> str:
    """Returns where the published value lies; its own uncertainty is not published, so this is a rough guide."""
    if figure.value is None or math.isnan(low):
        return "cannot be compared"
    if figure.at_least:
        return "agrees" if high > figure.value else "below"
    return "agrees" if low <= figure.value <= high else "above" if low > figure.value else "below"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as aligned lines of text, the keys of the first as the heading."""
    heads = list(rows[0])
    cells = [heads, *([str(row.get(head, "")) for head in heads] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in cells)
