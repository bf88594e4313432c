"""Metrics of answers that can be nearly right: a number, a span of time, a JSON caption, how many of what.

Why: 3.4 for 3.5 metres is wrong for an exact match and nearly perfect for a forklift, and a mean over the fields of a
caption hides the one that got worse, so each has its own figures. Reading is tolerant; what cannot be read is the worst
value. recipes/av_caption_vqa.ipynb tests each field, recipes/warehouse_spatial.ipynb measures distances.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

from cookbook.data.answers import fields
from cookbook.data.quantities import iou, number, span
from cookbook.evaluation.metrics.choices import Row, ratio

PLURAL = re.compile(r"(?<=s|x|h)es$|(?<=[^us])s$")  # buses is bus, cars is car; words of another plural stay
PARTS = re.compile(r"[,;\n]|\band\b")  # of a list in words
NEAR = 0.1  # share of the reference: how the warehouse data's own script counts a hit


def numbers(rows: Sequence[Row]) -> dict:
    """Returns n, unread, exact, within_10_percent, mean_absolute_error and mean_relative_error.

    An answer without one number counts as 0 in both errors. The relative error leaves out references that are 0 (None
    where all are). Raises ValueError where there are no rows, or a reference is no number.
    """
    if not rows:
        raise ValueError("no predictions to measure")
    told, wanted = ([number(row[key]) for row in rows] for key in ("answer", "reference"))
    if None in wanted:
        raise ValueError(f"{rows[wanted.index(None)]['id']}: its reference is no number")
    errors = [abs((t or 0.0) - w) for t, w in zip(told, wanted)]
    relative = [error / abs(w) for error, w in zip(errors, wanted) if w]
    near = [t is not None and error <= NEAR * abs(w) for t, w, error in zip(told, wanted, errors)]
    return {
        "n": len(rows),
        "unread": told.count(None) / len(rows),
        "exact": sum(t == w for t, w in zip(told, wanted)) / len(rows),
        "within_10_percent": fmean(near),
        "mean_absolute_error": fmean(errors),
        "mean_relative_error": fmean(relative) if relative else None,
    }


def spans(rows: Sequence[Row]) -> dict:
    """Returns n, unread, mean_iou, iou_50, mean_absolute_error (seconds), mean_relative_error.

    The absolute error is the mean over start and end; the relative one divides it by the length of the true span, as
    the temporal-localization recipe does. Both leave out what could not be read; IoU counts it as 0.
    """
    told, wanted = ([span(row[key]) for row in rows] for key in ("answer", "reference"))
    if None in wanted:
        raise ValueError(f"{rows[wanted.index(None)]['id']}: its reference is no span of time, such as '3.2 - 5'")
    shared = list(map(iou, wanted, told))
    errors = [((abs(a[0] - b[0]) + abs(a[1] - b[1])) / 2, a[1] - a[0]) for a, b in zip(wanted, told) if b]
    relative = [error / length for error, length in errors if length]
    return {
        "n": len(rows),
        "unread": told.count(None) / len(rows),
        "mean_iou": fmean(shared),
        "iou_50": fmean([value >= 0.5 for value in shared]),
        "mean_absolute_error": fmean([error for error, _ in errors]) if errors else None,
        "mean_relative_error": fmean(relative) if relative else None,
    }


def same(a: Any, b: Any) -> bool:
    """Whether two values say the same: texts without regard to case and space, "true" as True, lists in any order."""

    def flat(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): flat(v) for k, v in value.items()}
        listed = isinstance(value, list | tuple)
        return sorted(str(flat(v)) for v in value) if listed else " ".join(str(value).lower().split())

    return flat(a) == flat(b)


def captions(rows: Sequence[Row]) -> dict:
    """Returns n, unread (no JSON found), exact (all fields right), field_accuracy, and fields: {name: n, accuracy, …}.

    Of each field: n (references that have it), accuracy, missing (not in the answer), and majority: what always giving
    the most frequent value would earn; a field at its majority was not learned.
    """
    read = [(fields(row["reference"]), fields(row["answer"] or "")) for row in rows]
    if wrong := next((row["id"] for row, (true, _) in zip(rows, read) if not true), None):
        raise ValueError(f"{wrong}: its reference is no JSON object")
    table = {}
    for name in sorted({name for true, _ in read for name in true}):
        asked = [(true[name], told) for true, told in read if name in true]
        values = Counter(" ".join(str(value).lower().split()) for value, _ in asked)
        table[name] = {
            "n": len(asked),
            "accuracy": fmean([same(value, told.get(name)) for value, told in asked]),
            "missing": fmean([name not in told for _, told in asked]),
            "majority": max(values.values()) / len(asked),
        }
    return {
        "n": len(rows),
        "unread": fmean([not told for _, told in read]),
        "exact": fmean([all(same(v, told.get(k)) for k, v in true.items()) for true, told in read]),
        "field_accuracy": sum(f["n"] * f["accuracy"] for f in table.values()) / sum(f["n"] for f in table.values()),
        "fields": table,
    }


def tally(words: str) -> Counter[str]:
    """Returns how many of each thing: of {"car": 2}, ["car", "car"], "2 cars, 1 person" or a bare number."""
    if told := fields(words):
        return Counter({str(k).lower(): int(v) for k, v in told.items() if re.fullmatch(r"-?\d{1,9}", str(v))})
    with suppress(ValueError, RecursionError):
        if isinstance(listed := json.loads(words[words.find("[") : words.rfind("]") + 1]), list):
            return Counter(str(thing).lower() for thing in listed)
    if bare := re.fullmatch(r"\D*(\d{1,9})[.\s]*", words):
        return Counter({"": int(bare[1])})
    parts = (re.search(r"(?<!\d)(\d{1,9})\s+(\S(?:.*\w)?)", part) for part in re.split(PARTS, words.lower()))
    return Counter({PLURAL.sub("", part[2]): int(part[1]) for part in parts if part})


def counts(rows: Sequence[Row]) -> dict:
    """Returns n, unread, exact, mean_absolute_error (things an item), precision, recall, f1, and things: {name: …}.

    Of each thing as many are found as both name, the rest of the answer is invented, the rest of the reference missed:
    detection without boxes. Sums over all items (micro).
    """
    pairs = [(tally(row["reference"]), tally(row["answer"] or "")) for row in rows]
    sums = zip(*((true & told, true - told, told - true) for true, told in pairs))
    cells = {key: sum(each, Counter()) for key, each in zip(("found", "missed", "invented"), sums)}
    found, missed, invented = (each.total() for each in cells.values())
    off = [((true - told) + (told - true)).total() for true, told in pairs]
    things = sorted({name for both in pairs for part in both for name in part})
    return {
        "n": len(rows),
        "unread": fmean([not told for _, told in pairs]),
        "exact": fmean([error == 0 for error in off]),
        "mean_absolute_error": fmean(off),
        "precision": ratio(found, found + invented),
        "recall": ratio(found, found + missed),
        "f1": ratio(2 * found, 2 * found + missed + invented),
        "things": {name: {key: each[name] for key, each in cells.items()} for name in things},
    }
