"""Where the errors come from: do they go with the weather, with the length of the answer, with another model's errors?

Why: an accuracy does not say what to collect next. The guide asks for an "error correlation analysis": this measures
how strongly being wrong goes with each property of an item, and how far two models fail on the same items.

    error_correlation(rows, {"weather": weather_of_row, "words": lambda row: len(row["output"].split())})
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Row = Mapping[str, Any]
Factor = Callable[[Row], Any]


def error_correlation(rows: Sequence[Row], factors: Mapping[str, Factor]) -> dict[str, dict]:
    """Returns for each factor how strongly being wrong goes with it, strongest first.

    Of numbers: {"kind": "number", "strength": |r|, "r", "p"}, the point-biserial correlation (above 0: larger values
    go with errors). Of other values: {"kind": "category", "strength": V, "p", "values": {value: {"n", "wrong"}}},
    Cramér's V from the chi-squared test, `wrong` being the share of errors. Strength is in [0, 1]; None where nothing
    varies. With many factors some p below 0.05 are luck: 1 in 20.
    """
    wrong = np.array([not row["correct"] for row in rows], dtype=float)
    found = {name: _one(wrong, [factor(row) for row in rows]) for name, factor in factors.items()}
    return dict(sorted(found.items(), key=lambda item: (-(item[1]["strength"] or 0), item[0])))


def _one(wrong: np.ndarray, values: list[Any]) -> dict:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        if np.ptp(wrong) == 0 or np.ptp(values) == 0:
            return {"kind": "number", "strength": None, "r": None, "p": None}
        r, p = stats.pointbiserialr(wrong, values)
        return {"kind": "number", "strength": abs(float(r)), "r": float(r), "p": float(p)}
    words = np.array([str(v) for v in values])
    table = {str(v): {"n": int((words == v).sum()), "wrong": float(wrong[words == v].mean())} for v in np.unique(words)}
    if len(table) < 2 or np.ptp(wrong) == 0:
        return {"kind": "category", "strength": None, "p": None, "values": table}
    cells = np.array([[((words == v) & (wrong == w)).sum() for w in (0, 1)] for v in table])
    chi = stats.chi2_contingency(cells, correction=False)
    return {
        "kind": "category",
        "strength": float(np.sqrt(chi.statistic / len(values))),  # with two columns the smaller side less one is 1
        "p": float(chi.pvalue),
        "values": table,
    }


def shared_errors(a: Sequence[Row], b: Sequence[Row]) -> dict:
    """Returns how far two models fail alike on the same items: both, only_first, only_second, phi, kappa.

    phi is the correlation of being wrong (1: the same items, 0: unrelated). kappa is Cohen's, of the answers
    themselves: 1 where both always say the same, 0 where they agree as often as luck would. None where nothing varies.
    """
    pairs = Counter((bool(x["correct"]), bool(y["correct"])) for x, y in zip(a, b))
    first, second = ([float(not row["correct"]) for row in rows] for rows in (a, b))
    told = [[str(row["answer"]) for row in rows] for rows in (a, b)]
    agree = float(np.mean([x == y for x, y in zip(*told)]))
    shares = [Counter(words) for words in told]
    luck = sum(shares[0][w] * shares[1][w] for w in shares[0]) / len(a) ** 2
    return {
        "both": pairs[False, False],
        "only_first": pairs[False, True],
        "only_second": pairs[True, False],
        "phi": float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) and np.ptp(second) else None,
        "kappa": (agree - luck) / (1 - luck) if luck < 1 else None,
    }
