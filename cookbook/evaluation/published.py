"""Published numbers beside ours: NVIDIA's scoring rule, and a recipe's card: what it published, what we measured.

Why: two numbers compare only under one rule. NVIDIA's benchmark (cosmos-reason1, examples/benchmark; the same reading
is in its intelligent-transportation recipe) takes the first capital letter of the first <answer> block: "The answer is
B." becomes T. What no row can show: there, answers without a letter are asked again up to ten times, hotter each time,
and after the first clip that cannot be read every answer is compared with another question's key. And a published
number without its data size, or ours without its interval, says little: the recipe notebooks print a card from here.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from cookbook.data.answers import answer_blocks
from cookbook.data.quantities import number
from cookbook.display.tables import Table
from cookbook.evaluation import statistics
from cookbook.evaluation.metrics.boxes import grade
from cookbook.evaluation.metrics.choices import Row


def first_capital(output: str) -> str:
    """Returns the letter that the benchmark reads: the first A-Z of the first closed <answer> block, or ""."""
    return next((c for block in answer_blocks(output)[:1] for c in block if "A" <= c <= "Z"), "")


def published_right(row: Row) -> bool:
    """Returns whether the benchmark counts the row as right: its letter is the whole reference, case aside."""
    return first_capital(row["output"]).lower() == str(row["reference"]).lower()


def published_score(rows: Sequence[Row]) -> dict:
    """Returns n, accuracy (over all questions of all datasets at once), and unread (the share without a letter)."""
    if not rows:
        raise ValueError("no predictions to score")
    return {
        "n": len(rows),
        "accuracy": sum(published_right(row) for row in rows) / len(rows),
        "unread": sum(not first_capital(row["output"]) for row in rows) / len(rows),
    }


@dataclass(frozen=True)
class Published:
    """One published figure of a test set."""

    metric: str  # one of METRICS
    value: float | None  # None: published as a picture; nobody should read a number out of it
    n: int  # on how many; 0 where that is not said
    note: str = ""
    at_least: bool = False  # published as "more than this"


def accuracy(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Returns (share of right answers, low, high): Wilson's 95 % interval. Unread answers count as wrong."""
    correct = [row["correct"] for row in rows]
    return sum(correct) / len(correct), *statistics.interval(correct)


def pearson(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Returns (correlation of answers and references, low, high): Fisher's 95 % interval.

    Unread answers are left out, as in the published script. Where all answers are the same: (nan, nan, nan).
    """
    from scipy.stats import pearsonr

    pairs = [(float(row["reference"]), float(row["answer"])) for row in rows if row["answer"] is not None]
    if len(pairs) < 4 or any(len(set(column)) < 2 for column in zip(*pairs)):
        return math.nan, math.nan, math.nan
    found = pearsonr(*zip(*pairs))
    return float(found.statistic), *map(float, found.confidence_interval())


def weighted(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Returns (mean of the tasks' shares of right answers, low, high): every task weighs the same, whatever its size.

    A number is right within a tenth of its reference. So NVIDIA's evaluator of the warehouse questions counts, in its
    cosmos-framework (MetropolisSGDMetrics); compute_scores.py in the data's own download we could not compare.
    The 95 % interval is a bootstrap over pictures, of each answer's part in the mean.
    """

    def near(row: Row) -> bool:
        told, wanted = number(row["answer"]), number(row["reference"])
        return told is not None and 0.9 * wanted <= told <= 1.1 * wanted

    right = [near(row) if row["kind"] == "number" else row["correct"] for row in rows]
    tasks, sizes = [row["task"] for row in rows], Counter(row["task"] for row in rows)
    shares = {task: fmean(r for r, other in zip(right, tasks) if other == task) for task in sizes}
    parts = [(r - shares[task]) * len(rows) / (len(sizes) * sizes[task]) for r, task in zip(right, tasks)]
    low, high = statistics.clustered_interval(parts, [row["group"] for row in rows])
    score = fmean(shares.values())
    return score, max(0.0, score + low), min(1.0, score + high)


def of_boxes(figure: str, rows: Sequence[Row]) -> tuple[float, float, float]:
    """Returns (a figure of 3D boxes, as `boxes.grade` names it, low, high): its 95 % interval draws whole pictures."""
    parts = [(value, row["id"]) for row in rows for value in grade(row)[figure]]
    return (fmean(value for value, _ in parts), *statistics.clustered_interval(*zip(*parts))) if parts else (0.0,) * 3


METRICS = {"accuracy": accuracy, "pearson": pearson, "weighted": weighted}
METRICS |= {name: partial(of_boxes, name) for name in ("mean_iou", "iou_accuracy", "label_accuracy", "ap_2d", "ap_3d")}


def card(published: Sequence[Published], rows: Sequence[Row]) -> Table:
    """Returns a line a figure: published, yours with its interval, and a verdict. Raises ValueError for no rows."""
    if not rows:
        raise ValueError("no predictions to compare")
    lines = []
    for figure in published:
        value, low, high = METRICS[figure.metric](rows)
        name = figure.metric + f" ({figure.note})" * bool(figure.note)
        theirs = "plot only"
        if figure.value is not None:
            theirs = "> " * figure.at_least + f"{figure.value:.3f}" + f" of {figure.n}" * bool(figure.n)
        ours = [f"{value:.3f}", f"{low:.3f} to {high:.3f}"]
        ours = ["none: all answers are the same", ""] if math.isnan(value) else ours
        lines.append([name, theirs, *ours, len(rows), _verdict(figure, low, high)])
    return Table(["figure", "published", "yours", "95 %", "items", "verdict"], lines)


def _verdict(figure: Published, low: float, high: float) -> str:
    """Returns where the published value lies; its own uncertainty is not published, so this is a rough guide."""
    if figure.value is None or math.isnan(low):
        return "cannot be compared"
    if figure.at_least:
        return "agrees" if high > figure.value else "below"
    return "agrees" if low <= figure.value <= high else "above" if low > figure.value else "below"
