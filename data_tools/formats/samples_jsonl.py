"""The project's own file: one sample a line, nothing lost, clips by their path relative to the file.

Why: a dataset that was checked, split and balanced is kept as it is, can be read line by line in any editor, and moves
to another machine with its folder.

    write(samples, "data/road")          # data/road/samples.jsonl, with the clips in data/road/videos
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cookbook.data.samples import DataError, Sample
from data_tools.formats.sink import Shelf, fresh, make_rows, moved, write_text
from data_tools.formats.source import TEXTS, Place, Problems, conversation, read_rows, safe_id, skipping

FILE = "samples.jsonl"
NEEDED = {"id", "group", "messages"}
KEYS = NEEDED | {*TEXTS, "options", "extra"}


def read(path: Place, problems: Problems | None = None) -> list[Sample]:
    """Returns one sample a line, of the file or of the samples.jsonl of a folder."""
    file, samples = _file(path), []
    for place, row in read_rows(file, problems):
        with skipping(problems, place):
            samples.append(_sample(row, file.parent))
    return samples


def _file(path: Place) -> Path:
    return Path(path) if Path(path).suffix.lower() in (".json", ".jsonl") else Path(path) / FILE


def _sample(row: object, home: Path) -> Sample:
    if not isinstance(row, dict) or not NEEDED <= row.keys() <= KEYS:
        found = sorted(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"is no sample: it has {sorted(NEEDED)} and may have {sorted(KEYS - NEEDED)}; found {found}")
    options, extra = row.get("options", []), row.get("extra", {})
    if not all(isinstance(row.get(key, ""), str) for key in ("group", *TEXTS)):
        raise DataError(f"group, {', '.join(TEXTS)} are texts")
    if not isinstance(extra, dict) or not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        raise DataError("options is a list of texts, extra a table")
    messages = conversation(row["messages"], home)
    texts = {key: row[key] for key in TEXTS if key in row}
    return Sample(safe_id(row["id"]), row["group"], messages, options=tuple(options), extra=extra, **texts)


def write(samples: Iterable[Sample], path: Place, problems: Problems | None = None) -> Counter[str]:
    """Write a .jsonl file, or samples.jsonl in a folder; clips from elsewhere are put in videos/ and images/ beside it.

    Every field has a place; the result is always empty.
    """
    file = fresh(_file(path))
    shelf = Shelf(file.parent)

    def one(sample: Sample) -> dict[str, Any]:
        messages = [{"role": m["role"], "content": moved(m, shelf.put)} for m in sample.messages]
        row = {name: getattr(sample, name) for name in (*TEXTS, "options", "extra")}
        kept = {name: value for name, value in row.items() if value or (isinstance(value, str) and name != "task")}
        return {"id": sample.id, "group": sample.group, "messages": messages} | kept

    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in make_rows(samples, one, problems)))
    return Counter()
