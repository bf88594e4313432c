"""Published numbers beside ours: NVIDIA's scoring rule, and a recipe's card: what it published, what we measured.

Why: two numbers compare only under one rule. NVIDIA's benchmark (cosmos-reason1, examples/benchmark; the same reading
is in its intelligent-transportation recipe) takes the first capital letter of the first <answer> block: "The answer is
B." becomes T. Here the rule is written again from what it does, and `compare_rules` shows each row on which it and ours
part. What no row can show: there, answers without a letter are asked again up to ten times, hotter each time, and after
the first clip that cannot be read every answer is compared with another question's key. And a published number without
its data size, or ours without its interval, says little: so the recipe notebooks print a card from here.

    published_score(rows)["accuracy"]
    card([Published("accuracy", 0.340, n=3300, note="SFT, step 100")], read("predictions.jsonl"))
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cookbook.display.tables import Table
from cookbook.evaluation import statistics

Row = Mapping[str, Any]
PLOT_ONLY = "plot only"  # published as a picture; nobody should read a number out of it


def first_capital(output: str, tagged: bool = True) -> str:
    """Returns the letter that the benchmark reads: the first A-Z of the first closed <answer> block, or "".

    With `tagged` False (its answer type "letter"), the first A-Z of the whole output.
    """
    if tagged:
        _, opened, rest = output.partition("<answer>")
        block, closed, _ = rest.partition("</answer>")
        if not (opened and closed):
            return ""
        output = block
    return next((c for c in output if "A" <= c <= "Z"), "")


def published_right(row: Row, tagged: bool = True) -> bool:
    """Returns whether the benchmark counts the row as right: its letter is the whole reference, case aside."""
    return first_capital(row["output"], tagged).lower() == str(row["reference"]).lower()


def published_score(rows: Sequence[Row], tagged: bool = True) -> dict:
    """Returns n, accuracy (over all questions of all datasets at once), and unread (the share without a letter)."""
    if not rows:
        raise ValueError("no predictions to score")
    return {
        "n": len(rows),
        "accuracy": sum(published_right(row, tagged) for row in rows) / len(rows),
        "unread": sum(not first_capital(row["output"], tagged) for row in rows) / len(rows),
    }


def compare_rules(rows: Sequence[Row], tagged: bool = True) -> list[dict]:
    """Returns the rows that our rule and the published one judge differently: id, reference, output, both readings."""
    return [
        {key: row[key] for key in ("id", "reference", "output")}
        | {"ours": row["answer"], "published": first_capital(row["output"], tagged)}
        for row in rows
        if row["correct"] != published_right(row, tagged)
    ]


# ---- cards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """One published figure of a test set: "accuracy" or "pearson", its value (None: plot only), and on how many."""

    metric: str
    value: float | None
    n: int
    note: str = ""
    at_least: bool = False  # published as "more than this"

    @property
    def shown(self) -> str:
        """The figure as the card has it."""
        of = f" of {self.n}" if self.n else ""
        return PLOT_ONLY if self.value is None else f"{'> ' if self.at_least else ''}{self.value:.3f}{of}"


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


def card(published: Sequence[Published], rows: Sequence[Row]) -> Table:
    """Returns a line a figure: published, yours with its interval, and a verdict. Raises ValueError for no rows."""
    if not rows:
        raise ValueError("no predictions to compare")
    lines = []
    for figure in published:
        value, low, high = METRICS[figure.metric](rows)
        name = f"{figure.metric} ({figure.note})" if figure.note else figure.metric
        yours = ["none: all answers are the same", ""]
        if not math.isnan(value):
            yours = [f"{value:.3f}", f"{low:.3f} to {high:.3f}"]
        lines.append([name, figure.shown, *yours, len(rows), _verdict(figure, low, high)])
    return Table(["figure", "published", "yours", "95 %", "items", "verdict"], lines)


def _verdict(figure: Published, low: float, high: float) -> str:
    """Returns where the published value lies; its own uncertainty is not published, so this is a rough guide."""
    if figure.value is None or math.isnan(low):
        return "cannot be compared"
    if figure.at_least:
        return "agrees" if high > figure.value else "below"
    return "agrees" if low <= figure.value <= high else "above" if low > figure.value else "below"
