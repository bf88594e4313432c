"""Metrics: what a set of prediction rows is worth, for every kind of question that the guide names.

Why: accuracy is right for multiple choice and wrong for a caption. Each row has a `kind`; each kind has one function
from rows to figures, and libraries that others keep compute them. An answer that could not be read counts as wrong, or
as the worst value there is; it is never left out. A metric of your own is a function too:

    def brief(rows):
        return {"share_below_20_words": sum(len(r["output"].split()) < 20 for r in rows) / len(rows)}

    measure(rows, {"brief": brief})["brief"]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cookbook.data.quantities import iou, number, span
from cookbook.evaluation.metrics import choices, structures, texts

Row = Mapping[str, Any]
Metric = Callable[[Sequence[Row]], dict]

KINDS: dict[str, Metric] = {
    "mcq": choices.mcq,
    "binary": choices.binary,
    "ordinal": choices.ordinal,
    "number": structures.numbers,
    "span": structures.spans,
    "text": texts.text,
    "json": structures.captions,
    "counts": structures.counts,
}


def measure(rows: Sequence[Row], custom: Mapping[str, Metric] | None = None) -> dict[str, dict]:
    """Returns {kind: figures} for each kind among the rows, and {name: figures} for each metric of your own.

    Raises ValueError for a kind that nothing measures, or a name that a kind has.
    """
    kinds = sorted({row["kind"] for row in rows})
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"no metric for the kind {', '.join(map(repr, unknown))}; known are {', '.join(KINDS)}")
    if taken := KINDS.keys() & (custom or {}).keys():
        raise ValueError(f"a metric of your own cannot be named {', '.join(sorted(taken))}: that is a kind")
    found = {kind: KINDS[kind]([row for row in rows if row["kind"] == kind]) for kind in kinds}
    return found | {name: metric(rows) for name, metric in (custom or {}).items()}


def right(kind: str, answer: str | None, reference: str | None) -> bool:
    """Returns whether one answer counts as right.

    Choices: the same option. Numbers: the same number. Texts: the same words (case, punctuation and articles aside).
    Spans: half of both together is shared (IoU 0.5). JSON and counts: every field is equal.
    """
    if answer is None or reference is None:
        return False
    if kind == "number":
        return (told := number(answer)) is not None and told == number(reference)
    if kind == "text":
        return texts.relaxed(answer) == texts.relaxed(reference)
    if kind == "span":
        return iou(span(answer), span(reference)) >= 0.5
    if kind == "json":
        told, wanted = structures.fields(answer), structures.fields(reference)
        return all(structures.same(told.get(key), value) for key, value in wanted.items())
    if kind == "counts":
        return structures.tally(answer) == structures.tally(reference)
    return answer == reference
