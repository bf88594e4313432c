"""Metrics of answers that are one of a few options: multiple choice, yes or no, a grade; and what errors go with.

Why: accuracy alone hides a model that always says "No" or likes the letter C, and does not say what to collect next.
An answer that could not be read has a column of its own in the confusion, and counts as wrong everywhere.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cookbook.display.tables import Table

Row = Mapping[str, Any]
NONE = "(none)"  # the answer that could not be read
POSITIVE = ("yes", "true", "positive", "1")


def answer_pairs(rows: Sequence[Row], unread: str = NONE) -> tuple[list[str], list[str]]:
    """Returns (references, answers), `unread` where there is no answer. Raises ValueError where there are no rows."""
    if not rows:
        raise ValueError("no predictions to measure")
    return [row["reference"] for row in rows], [unread if row["answer"] is None else row["answer"] for row in rows]


def confusion(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Returns {reference: {answer: how often}}; unread answers stand under "(none)"."""
    wanted, told = answer_pairs(rows)
    labels, cells = [*sorted(set(wanted) | set(told) - {NONE}), NONE], Counter(zip(wanted, told))
    return {w: {t: cells[w, t] for t in labels} for w in sorted(set(wanted))}


def mcq(rows: Sequence[Row]) -> dict:
    """Returns n, accuracy, unread (share), options, and the confusion.

    `options` has for each one: n (how often it is right), told (how often it was the answer), recall and precision.
    """
    wanted, told = answer_pairs(rows)
    right, answers, hits = Counter(wanted), Counter(told), Counter(w for w, t in zip(wanted, told) if w == t)
    options = sorted(right.keys() | answers.keys() - {NONE})
    table = {o: (right[o], answers[o], ratio(hits[o], right[o]), ratio(hits[o], answers[o])) for o in options}
    return {
        "n": len(rows),
        "accuracy": hits.total() / len(rows),
        "unread": answers[NONE] / len(rows),
        "options": {option: dict(zip(("n", "told", "recall", "precision"), line)) for option, line in table.items()},
        "confusion": confusion(rows),
    }


def letter_bias(rows: Sequence[Row]) -> dict:
    """Returns how much a model likes some options: distance and recall_std, both 0 for one that likes none.

    distance is half the sum of the differences between how often an option is told and is right: 1 for an answer that
    never is right. recall_std is the standard deviation of the recalls (RStd, Zheng et al. 2024). Best on the rows of
    `circular`, where each option is right as often.
    """
    options = mcq(rows)["options"].values()
    read = sum(option["told"] for option in options) or 1
    distance = sum(abs(option["n"] / len(rows) - option["told"] / read) for option in options) / 2
    return {"distance": distance, "recall_std": float(np.std([o["recall"] for o in options if o["n"]]))}


def ratio(part: float, whole: float) -> float | None:
    """Returns part / whole, None where there is nothing to divide by."""
    return part / whole if whole else None


def binary(rows: Sequence[Row]) -> dict:
    """Returns n, accuracy, unread, positive, precision, recall, f1, balanced_accuracy, mcc, and the confusion.

    `positive` is the answer to be found: Yes or True where that is an option, else the first. What could not be read
    counts as the opposite of its reference; what needs a class that never occurs is None.
    """
    wanted, told = answer_pairs(rows)
    options = list(dict.fromkeys(o for row in rows for o in row.get("options") or [row["reference"]]))
    positive = next((o for o in options if o.lower() in POSITIVE), options[0])
    w = np.array([x == positive for x in wanted])
    t = np.array([not a if b == NONE else b == positive for a, b in zip(w, told)])
    hits, alarms, missed, quiet = (int((a & b).sum()) for a, b in ((w, t), (~w, t), (w, ~t), (~w, ~t)))
    both, margins = bool(w.any() and not w.all()), w.sum() * (~w).sum() * t.sum() * (~t).sum()
    return {
        "n": len(rows),
        "accuracy": float((w == t).mean()),
        "unread": told.count(NONE) / len(rows),
        "positive": positive,
        "precision": ratio(hits, hits + alarms),
        "recall": ratio(hits, hits + missed),
        "f1": ratio(2 * hits, 2 * hits + alarms + missed),
        "balanced_accuracy": (hits / (hits + missed) + quiet / (quiet + alarms)) / 2 if both else None,
        "mcc": float((hits * quiet - alarms * missed) / margins**0.5) if both and margins else 0.0 if both else None,
        "confusion": confusion(rows),
    }


def ordinal(rows: Sequence[Row]) -> dict:
    """Returns n, accuracy, within_1, unread, mean_error, mean_absolute_error, spearman and pearson.

    Correlations and errors leave out what could not be read; accuracy and within_1 count it as wrong. mean_error is
    answer minus reference: above 0 the model is generous. A model that always says 4 has no correlation: None.
    """
    from scipy import stats

    answer_pairs(rows)
    read = [(float(r["reference"]), float(r["answer"])) for r in rows if r["answer"] is not None]
    wanted, told = np.array(read).reshape(-1, 2).T
    error, varied = told - wanted, len(read) > 1 and np.ptp(wanted) > 0 and np.ptp(told) > 0
    return {
        "n": len(rows),
        "accuracy": float((error == 0).sum()) / len(rows),
        "within_1": float((np.abs(error) <= 1).sum()) / len(rows),
        "unread": 1 - len(read) / len(rows),
        "mean_error": float(error.mean()) if read else None,
        "mean_absolute_error": float(np.abs(error).mean()) if read else None,
        "spearman": float(stats.spearmanr(wanted, told).statistic) if varied else None,
        "pearson": float(stats.pearsonr(wanted, told).statistic) if varied else None,
    }


def error_correlation(rows: Sequence[Row], properties: Mapping[str, Callable[[Row], Any]]) -> Table:
    """Returns how strongly being wrong goes with each property of a row, strongest first: the guide's error analysis.

    Strength is in [0, 1]: |r| of a number (point-biserial), Cramér's V of any other value, with its p-value, "–" where
    nothing varies. "wrong" has each value's share of errors, or a number's means. With twenty properties one has a p
    below 0.05 by luck.
    """
    from scipy.stats import chi2_contingency, pointbiserialr
    from scipy.stats.contingency import association, crosstab

    wrong, found = np.array([not row["correct"] for row in rows]), []
    for name, of in properties.items():
        values = np.array([of(row) for row in rows])
        varies, strength, p = len(set(wrong.tolist())) > 1 < len(set(values.tolist())), -1.0, 1.0
        if values.dtype.kind in "iuf":
            means = [f"{values[part].mean():.3g}" if part.any() else "none" for part in (wrong, ~wrong)]
            said = "{} on average where wrong, {} where right".format(*means)
            if varies:
                strength, p = map(abs, pointbiserialr(wrong, values))
        else:
            (words, _), cells = crosstab(values.astype(str), wrong, levels=(None, (True, False)))
            said = ", ".join(f"{word} {n[0] / n.sum():.2f} of {n.sum()}" for word, n in zip(words, cells))
            if varies:
                strength, p = association(cells, method="cramer"), chi2_contingency(cells, correction=False).pvalue
        found.append((-strength, name, *([f"{strength:.2f}", f"{p:.1g}"] if varies else ["–", "–"]), said))
    return Table(["property", "strength", "p", "wrong"], [list(line[1:]) for line in sorted(found)])
