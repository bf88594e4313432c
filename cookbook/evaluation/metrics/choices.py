"""Metrics of answers that are one of a few options: multiple choice, yes or no, a grade; and what errors go with.

Why: accuracy alone hides a model that always says "No" or likes the letter C, and does not say what to collect next.
scikit-learn and scipy compute; an answer that could not be read has a column of its own in the confusion, and counts as
wrong everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cookbook.display.tables import Table

Row = Mapping[str, Any]
NONE = "(none)"  # the answer that could not be read
POSITIVE = ("yes", "true", "positive", "1")


def _pairs(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Returns (references, answers), NONE where there is no answer. Raises ValueError where there are no rows."""
    if not rows:
        raise ValueError("no predictions to measure")
    return [row["reference"] for row in rows], [NONE if row["answer"] is None else row["answer"] for row in rows]


def confusion(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Returns {reference: {answer: how often}}; unread answers stand under "(none)"."""
    wanted, told = _pairs(rows)
    from sklearn.metrics import confusion_matrix

    labels = [*sorted(set(wanted) | set(told) - {NONE}), NONE]
    table = confusion_matrix(wanted, told, labels=labels)
    return {w: {t: int(table[i, j]) for j, t in enumerate(labels)} for i, w in enumerate(labels) if table[i].sum()}


def mcq(rows: Sequence[Row]) -> dict:
    """Returns n, accuracy, unread (share), options, and the confusion.

    `options` has for each one: n (how often it is right), told (how often it was the answer), recall and precision;
    None where there is nothing to divide by.
    """
    from sklearn.metrics import precision_recall_fscore_support

    wanted, told = _pairs(rows)
    options = sorted(set(wanted) | set(told) - {NONE})
    figures = precision_recall_fscore_support(wanted, told, labels=options, zero_division=np.nan)
    precision, recall = ([None if np.isnan(x) else float(x) for x in part] for part in figures[:2])
    return {
        "n": len(rows),
        "accuracy": sum(w == t for w, t in zip(wanted, told)) / len(rows),
        "unread": told.count(NONE) / len(rows),
        "options": {
            o: {"n": wanted.count(o), "told": told.count(o), "recall": r, "precision": p}
            for o, r, p in zip(options, recall, precision)
        },
        "confusion": confusion(rows),
    }


def binary(rows: Sequence[Row], positive: str | None = None) -> dict:
    """Returns n, accuracy, unread, positive, precision, recall, f1, balanced_accuracy, mcc, and the confusion.

    `positive` is the answer to be found: Yes or True where that is an option, else the first. Answers that could not
    be read count as the opposite of their reference. Balanced accuracy is the mean of both recalls; what needs a
    class that never occurs is None.
    """
    from sklearn import metrics

    wanted, told = _pairs(rows)
    options = list(dict.fromkeys(o for row in rows for o in row.get("options") or [row["reference"]]))
    if positive is None:
        positive = next((o for o in options if o.lower() in POSITIVE), options[0])
    w = np.array([x == positive for x in wanted])
    t = np.array([not a if b == NONE else b == positive for a, b in zip(w, told)])
    both = bool(w.any() and not w.all())
    return {
        "n": len(rows),
        "accuracy": float((w == t).mean()),
        "unread": told.count(NONE) / len(rows),
        "positive": positive,
        "precision": float(metrics.precision_score(w, t)) if t.any() else None,
        "recall": float(metrics.recall_score(w, t)) if w.any() else None,
        "f1": float(metrics.f1_score(w, t)) if (w | t).any() else None,
        "balanced_accuracy": float(metrics.balanced_accuracy_score(w, t)) if both else None,
        "mcc": float(metrics.matthews_corrcoef(w, t)) if both else None,
        "confusion": confusion(rows),
    }


def ordinal(rows: Sequence[Row]) -> dict:
    """Returns n, accuracy, within_1, unread, mean_error, mean_absolute_error, spearman and pearson.

    Both correlations and both errors leave out what could not be read (`unread` says how much); accuracy and within_1
    count it as wrong. mean_error is answer minus reference: above 0 the model is generous. A correlation is None where
    all answers, or all references, are the same: a model that always says 4 has none.
    """
    from scipy import stats

    _pairs(rows)
    read = [(float(r["reference"]), float(r["answer"])) for r in rows if r["answer"] is not None]
    wanted, told = np.array(read).reshape(-1, 2).T
    error = told - wanted
    varied = len(read) > 1 and np.ptp(wanted) > 0 and np.ptp(told) > 0
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
    wrong = np.array([not row["correct"] for row in rows])
    found = [(name, *_goes_with(wrong, [of(row) for row in rows])) for name, of in properties.items()]
    found.sort(key=lambda line: (-np.nan_to_num(line[1], nan=-1), line[0]))
    lines = [[name, f"{v:.2f}", f"{p:.1g}", said] if v == v else [name, "–", "–", said] for name, v, p, said in found]
    return Table(["property", "strength", "p", "wrong"], lines)


def _goes_with(wrong: np.ndarray, values: list[Any]) -> tuple[float, float, str]:
    """Returns strength, p (both nan where nothing varies), and the errors in words."""
    from scipy.stats import chi2_contingency, pointbiserialr
    from scipy.stats.contingency import association

    varies = wrong.any() and not wrong.all() and len(set(values)) > 1
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        means = [f"{np.mean(np.array(values)[part]):.3g}" if part.any() else "none" for part in (wrong, ~wrong)]
        r, p = pointbiserialr(wrong, values) if varies else (np.nan, np.nan)
        return abs(r), p, "{} on average where wrong, {} where right".format(*means)
    words = np.array([str(v) for v in values])
    cells = np.array([[((words == v) & part).sum() for part in (wrong, ~wrong)] for v in np.unique(words)])
    said = ", ".join(f"{v} {n[0] / n.sum():.2f} of {n.sum()}" for v, n in zip(np.unique(words), cells))
    if not varies:
        return np.nan, np.nan, said
    return association(cells, method="cramer"), chi2_contingency(cells, correction=False).pvalue, said
