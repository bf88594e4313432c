"""Metrics: what a set of prediction rows is worth, for every kind of question that the guide names.

choices       one of a few options: multiple choice, yes or no, a grade
structures    nearly right: a number, a span of time, a JSON caption, how many of what
texts         free text: shared words, and meaning
boxes         vehicles as boxes in space

Why: accuracy is right for multiple choice and wrong for a caption. An answer that could not be read counts as wrong, or
as the worst value there is. Each kind of row has one function from rows to figures, and your own is one too:

    measure(rows, {"brief": lambda rows: {"words": fmean(len(row["output"].split()) for row in rows)}})["brief"]
"""

from collections.abc import Callable, Mapping, Sequence
from operator import eq

from cookbook.data.quantities import iou, number, span
from cookbook.evaluation.metrics import boxes, choices, structures, texts
from cookbook.evaluation.metrics.choices import Row
from cookbook.evaluation.metrics.structures import fields, same, tally
from cookbook.evaluation.metrics.texts import relaxed

Metric = Callable[[Sequence[Row]], dict]

KINDS: dict[str, Metric] = {
    "mcq": choices.mcq,
    "binary": choices.binary,
    "ordinal": choices.ordinal,
    "number": structures.numbers,
    "span": structures.spans,
    "text": texts.free_text,
    "json": structures.captions,
    "counts": structures.counts,
    "boxes": boxes.detections,
}
# where an answer need not be the reference letter by letter: (answer, reference) -> does it count as right?
RIGHT: dict[str, Callable[[str, str], bool]] = {
    "number": lambda told, wanted: number(told) is not None and number(told) == number(wanted),
    "text": lambda told, wanted: relaxed(told) == relaxed(wanted),
    "span": lambda told, wanted: iou(span(told), span(wanted)) >= 0.5,
    "json": lambda told, wanted: all(same(fields(told).get(key), value) for key, value in fields(wanted).items()),
    "counts": lambda told, wanted: tally(told) == tally(wanted),
    "boxes": boxes.all_found,
}


def measure(rows: Sequence[Row], custom: Mapping[str, Metric] | None = None) -> dict[str, dict]:
    """Returns {kind: figures} for each kind among the rows, and {name: figures} for each metric of your own.

    Raises ValueError for a kind that nothing measures, or a name that a kind has.
    """
    custom, kinds = custom or {}, sorted({row["kind"] for row in rows})
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"no metric for the kind {', '.join(map(repr, unknown))}; known are {', '.join(KINDS)}")
    if taken := KINDS.keys() & custom.keys():
        raise ValueError(f"a metric of your own cannot be named {', '.join(sorted(taken))}: that is a kind")
    found = {kind: KINDS[kind]([row for row in rows if row["kind"] == kind]) for kind in kinds}
    return found | {name: metric(rows) for name, metric in custom.items()}


def right(kind: str, answer: str | None, reference: str | None) -> bool:
    """Returns whether one answer counts as right.

    Texts: the same words (case, punctuation and articles aside). Spans: half of both together is shared (IoU 0.5).
    JSON and counts: every field is equal. Boxes: each vehicle with its label and an IoU of 0.5, and no other.
    """
    return None not in (answer, reference) and RIGHT.get(kind, eq)(answer, reference)
