"""How sure a score is: intervals, paired tests, and the two scores that need no model.

Why: on a few hundred questions two models differ by some points through luck alone. An accuracy therefore
never stands without its interval, two models that answered the same questions are compared pair by pair, and
both are read beside what guessing earns. scipy computes; this file fixes which formulas the project uses.
`cookbook.scores` and the evaluation notebook call it.

Both formulas take the questions as independent. Questions about one clip are not quite that, so where a clip
carries several of them the true intervals are somewhat wider.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest


def interval(correct: Sequence[bool], level: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval (low, high) of the share of right answers, both in [0, 1].

    Wilson (1927) stays inside [0, 1] and is honest for small samples and for shares near 0 or 1.
    Raises ValueError where there is no answer.
    """
    if not len(correct):
        raise ValueError("an interval needs at least one answer, found none")
    found = binomtest(sum(map(bool, correct)), len(correct)).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Paired:
    """Two models on the same items: counts of items, difference of the accuracies, McNemar's p-value."""

    won: int  # wrong before, right after
    lost: int  # right before, wrong after
    both: int  # right before and after
    neither: int  # wrong before and after
    difference: float  # accuracy after minus accuracy before, in [-1, 1]
    p: float  # chance of a difference at least this large if neither model were better


def paired(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """Compare two models that answered the same items in the same order, by the exact McNemar test.

    Only items on which the two disagree tell them apart: were the models equally good, each of those would be
    won or lost with probability 1/2 (McNemar 1947; exact binomial form, two-sided). With no such item p is 1.
    Raises ValueError where the lengths differ or nothing was answered.
    """
    if len(before) != len(after):
        raise ValueError(f"paired answers are needed: found {len(before)} before and {len(after)} after")
    if not len(before):
        raise ValueError("a comparison needs at least one item, found none")
    cells = Counter((bool(b), bool(a)) for b, a in zip(before, after))
    won, lost = cells[False, True], cells[True, False]
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Paired(won, lost, cells[True, True], cells[False, False], (won - lost) / len(before), p)


def chance(rows: Sequence[dict]) -> float:
    """Returns the accuracy to expect from blind guessing: the mean of 1 / number of options.

    Raises ValueError where there are no rows, or a row has no options.
    """
    if not rows:
        raise ValueError("the chance level needs at least one row, found none")
    for row in rows:
        if not row["options"]:
            raise ValueError(f"{row['id']}: has no options, so its chance level is unknown")
    return sum(1 / len(row["options"]) for row in rows) / len(rows)


def majority(rows: Sequence[dict], train_rows: Sequence[dict]) -> float:
    """Returns the accuracy on `rows` of always giving the most frequent training answer of the row's task.

    A model below this line has learned less than the habit. Of equally frequent answers the first in sorted
    order counts, so that the order of the rows does not matter. Both kinds of rows need "task" and
    "reference".
    Raises ValueError where there are no rows, or a task never occurs in `train_rows`.
    """
    if not rows:
        raise ValueError("the majority level needs at least one row, found none")
    counts: dict[str, Counter] = {}
    for row in train_rows:
        counts.setdefault(row["task"], Counter())[row["reference"]] += 1
    if missing := {row["task"] for row in rows} - counts.keys():
        raise ValueError(f"no training row has the task {', '.join(sorted(missing))}; found {sorted(counts)}")
    habit = {task: min(found, key=lambda answer: (-found[answer], answer)) for task, found in counts.items()}
    return sum(row["reference"] == habit[row["task"]] for row in rows) / len(rows)
