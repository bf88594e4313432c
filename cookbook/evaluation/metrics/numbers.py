"""Metrics of answers that are a number, such as a distance in metres.

Why: 3.4 for 3.5 metres is wrong for an exact match and nearly perfect for a forklift. The size of the error counts, and
beside it the share within a tenth of the truth, which is how the warehouse data's own script counts a hit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cookbook.data.answers import number

Row = Mapping[str, Any]
NEAR = 0.1  # share of the reference


def numbers(rows: Sequence[Row]) -> dict:
    """Returns n, unread, exact, within_10_percent, mean_absolute_error and mean_relative_error.

    An answer without one number counts as 0 in both errors. The relative error leaves out references that are 0 (None
    where all are). Raises ValueError where there are no rows, or a reference is no number.
    """
    if not rows:
        raise ValueError("no predictions to measure")
    if wrong := next((row["id"] for row in rows if number(row["reference"]) is None), None):
        raise ValueError(f"{wrong}: its reference is no number")
    told, wanted = [number(row["answer"]) for row in rows], [number(row["reference"]) for row in rows]
    errors = [abs((t or 0.0) - w) for t, w in zip(told, wanted)]
    relative = [error / abs(w) for error, w in zip(errors, wanted) if w]
    near = [t is not None and error <= NEAR * abs(w) for t, w, error in zip(told, wanted, errors)]
    return {
        "n": len(rows),
        "unread": told.count(None) / len(rows),
        "exact": sum(t == w for t, w in zip(told, wanted)) / len(rows),
        "within_10_percent": sum(near) / len(rows),
        "mean_absolute_error": sum(errors) / len(errors),
        "mean_relative_error": sum(relative) / len(relative) if relative else None,
    }
