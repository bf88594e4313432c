"""Prediction rows: one answer each, judged, kept in a file, and read again without a model.

Why: the answers are the result. A row holds all that scoring needs, so that a better parser or a new metric never asks
for the GPU again. `predict` and `server.predict_server` make them.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from cookbook.data.answers import FORMATS, option_texts, read_answer
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.evaluation.metrics import right
from cookbook.runs import named, read_jsonl, write_jsonl

NEEDED = ("id", "group", "kind", "reference", "output", "options")
STAMP = ("model", "contract", "weights", "decoding")  # what must be equal for a stored answer to be used again

log = logging.getLogger(__name__)


def kind_of(sample: Sample) -> str:
    """Returns the sample's kind: what its extra field `kind` says, else by its options and reference."""
    if kind := sample.extra.get("kind"):
        return kind
    if options := sample.options:
        return "ordinal" if all(map(str.isdigit, options)) else "binary" if len(options) == 2 else "mcq"
    return "json" if (sample.answer or sample.target or "").lstrip("` json\n").startswith("{") else "text"


def judge(sample: Sample, output: str, contract: Contract) -> dict:
    """Returns the row of one completion: the sample, the contract's hash and form, and what `read_row` adds.

    Where the data name no task, it is the kind.
    """
    target = sample.target if sample.answer is None else None
    reference = sample.answer if target is None else contract.read_answer(target)
    return read_row({
        "id": sample.id, "group": sample.group, "task": sample.task or kind_of(sample), "kind": kind_of(sample),
        "question": sample.question, "options": list(sample.options), "reference": reference, "output": output,
        "video": named(Path(sample.video)) if sample.video else None,
        "contract": contract.hash, "answer_format": contract.answer_format,
    })  # fmt: skip


def read_row(row: Mapping[str, Any], form: str | None = None) -> dict:
    """Returns the row with answer, correct, well_formed, lenient and lenient_correct, read again. Needs NEEDED only.

    answer: the option stated where the format wants it; None, where none is, counts as wrong. lenient: wherever it
    stands. The format is `form`, else the row's own, else think_answer. `options` may be {letter: words}. Raises
    ValueError for a missing field.
    """
    if lacks := ", ".join(key for key in NEEDED if key not in row):
        raise ValueError(f"{row.get('id', 'a row')}: has no {lacks}; a prediction needs {', '.join(NEEDED)}")
    form, options = form or row.get("answer_format") or "think_answer", row["options"]
    if not isinstance(row["output"], str) or not isinstance(options, list | tuple | Mapping) or form not in FORMATS:
        wanted = f"output is a text, options a list or table of texts, answer_format one of {', '.join(FORMATS)}"
        raise ValueError(f"{row['id']}: is no prediction: {wanted}")
    options = options if isinstance(options, Mapping) else list(map(str, options))
    texts = options if isinstance(options, Mapping) else option_texts(row.get("question", ""), options)
    kind, output, wanted = row["kind"], row["output"], row["reference"]
    answer, lenient = (read_answer(form, output, list(options), texts, forgiving) for forgiving in (False, True))
    return {"task": "", "question": "", "video": None, "answer_format": form} | dict(row) | {
        "answer": answer,
        "correct": right(kind, answer, wanted),
        "well_formed": FORMATS[form].well_formed(output),
        "lenient": lenient,
        "lenient_correct": right(kind, lenient, wanted),
    }  # fmt: skip


def vote(rows: Sequence[dict]) -> dict:
    """Returns the row whose answer is the most frequent one of several to the same question; of equals the first."""
    told = Counter(row["answer"] for row in rows if row["answer"] is not None)
    best = max(rows, key=lambda row: told[row["answer"]])  # None counts 0
    return best | {"outputs": [row["output"] for row in rows], "agreement": told[best["answer"]] / len(rows)}


class Store:
    """The rows of one evaluation, in memory and, with a path, in a file that grows as they come."""

    def __init__(self, path: Path | None, samples: Sequence[Sample], contract: Contract, stamp: dict[str, Any]) -> None:
        """`stamp` stands in every row. Rows of another model, contract or decoding are kept aside, as *.old."""
        self.path, self.contract, self.stamp = path, contract, {"contract": contract.hash} | stamp
        self._keys = [_key(judge(sample, "", contract)) for sample in samples]
        self._rows = self._left()
        self.todo = [sample for sample, key in zip(samples, self._keys) if key not in self._rows]

    def _left(self) -> dict[tuple, dict]:
        """Returns the rows that an earlier run has left, but for those with an error: those are tried again."""
        if self.path is None or not self.path.exists():
            return {}
        rows = read_jsonl(self.path, True, ("id", "question", "reference", "video"))
        if other := [key for row in rows for key in STAMP if row.get(key) != self.stamp.get(key)]:
            log.warning("%s: was made otherwise (%s differs); kept as %s.old", self.path, other[0], self.path.name)
            self.path.replace(self.path.with_name(self.path.name + ".old"))
            return {}
        return {_key(row): row for row in rows if not row.get("error")}

    def __enter__(self) -> "Store":
        if self.path:
            write_jsonl(self._rows.values(), self.path)  # without a torn line, and without what is tried again
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.path and kind is None:
            write_jsonl(self.rows, self.path)

    def add(self, sample: Sample, outputs: Sequence[str], error: str | None = None) -> None:
        """Keep what a model said to a sample; several outputs are voted on, none stand for an error."""
        rows = [judge(sample, output, self.contract) for output in outputs or [""]]
        row = vote(rows) if len(rows) > 1 else rows[0]
        self._rows[_key(row)] = row = row | self.stamp | {"error": error}
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    @property
    def rows(self) -> list[dict]:
        """The rows in the order of the samples."""
        return [self._rows[key] for key in self._keys]


_key = itemgetter("id", "question", "reference", "video")


def read(path: str | Path, form: str | None = None) -> list[dict]:
    """Returns the rows of a predictions file, answers read again (`read_row`).

    Raises ValueError for another file, for a row that cannot be scored, as one without a reference, for an id that
    stands twice, and for rows of several models or ways to ask.
    """
    try:
        rows = [read_row(row, form) for row in read_jsonl(Path(path))]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no file of predictions ({error})") from None
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        texts = [*((key, row[key]) for key in ("reference", "kind")), *(("option", o) for o in row["options"])]
        odd = [f"{key} {value!r}" for key, value in texts if not isinstance(value, str)]
        odd += ["group"] * isinstance(row["group"], list | dict)
        if odd:
            raise ValueError(f"{path}: row {number} cannot be scored, its {odd[0]} is no text; mend it, or cut it out")
        if (before := first.setdefault(str(row["id"]), number)) != number:
            raise ValueError(f"{path}: rows {before} and {number} have one id, {row['id']!r}; keep one of them")
        if key := next((key for key in STAMP if row.get(key) != rows[0].get(key)), None):
            differs = f"{key} is {rows[0].get(key)!r} in row 1 and {row.get(key)!r} in row {number}"
            raise ValueError(f"{path}: {differs}: one file holds the answers of one model, asked in one way; divide it")
    return rows
