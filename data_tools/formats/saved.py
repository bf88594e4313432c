"""Folders of `datasets.save_to_disk` with a `conversations` column: each cell a chat conversation as JSON text.

Why: the video reward and the temporal recipes keep their data so. Clips are named by absolute paths, as NVIDIA's loader
for this format hands the conversation to the engine unchanged.

    read("data/videophy2_sft", media="/data/video_data")
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cookbook.data.samples import DataError, Sample
from data_tools.formats.hub import without_nulls
from data_tools.formats.sink import Shelf, fresh, make_rows, moved, tagged
from data_tools.formats.source import Names, Place, Problems, conversation, make_sample, parse_json, shown, skipping

COLUMN = "conversations"
EXTRA = "extra_json"  # the other fields: a table wants one type a column, and they may be of any
MARKS = ("state.json", "dataset_dict.json")  # what save_to_disk leaves in its folder, of one table or of several splits


def read(
    path: Place,
    problems: Problems | None = None,
    *,
    split: Names = None,
    media: Place | None = None,
    column: str = COLUMN,
) -> list[Sample]:
    """Returns one sample a row, of the wanted splits, all where none is named.

    `media` is the folder that may hold the clips, if not the dataset's own. Raises DataError where `datasets` cannot
    load the folder, or a split or the column is not there.
    """
    root, wanted = Path(media or path), {split} if isinstance(split, str) else set(split or ())
    tables = _tables(Path(path))
    if missing := wanted - tables.keys():
        raise DataError(f"{path}: has no split {', '.join(sorted(missing))}; it has {', '.join(tables)}")
    samples: list[Sample] = []
    for name, table in tables.items():
        if wanted and name not in wanted:
            continue
        if column not in table.column_names:
            raise DataError(f"{path}: has no column {column!r}; it has {', '.join(table.column_names)}")
        for number, row in enumerate(table):
            with skipping(problems, f"{Path(path).name}, {name}[{number}]"):
                samples.append(_sample(without_nulls(row), f"{name}-{number:06d}", root, column))
    return samples


def _tables(path: Path) -> dict[str, Any]:
    """Returns {split: table}, without columns of decoded media; a folder without splits is "train"."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets', pyarrow's and the file system's errors
        raise DataError(f"{path}: cannot be loaded from disk ({type(error).__name__}: {shown(error)})") from None
    tables = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
    heavy = (datasets.Image, datasets.Video, datasets.Audio)
    return {
        name: table.select_columns([c for c, kind in table.features.items() if not isinstance(kind, heavy)])
        for name, table in tables.items()
    }


def _sample(row: dict[str, Any], name: str, root: Path, column: str) -> Sample:
    turns = parse_json(row[column]) if isinstance(row.get(column), str) else row.get(column)
    messages = conversation(turns, root)
    sample = make_sample(row, messages, name, root, {column, EXTRA})
    extra = parse_json(row.get(EXTRA, "{}"))
    if not isinstance(extra, dict):
        raise DataError(f"{EXTRA} is not a table of fields")
    return replace(sample, extra={**sample.extra, **extra})


def write(samples: Iterable[Sample], path: Place, problems: Problems | None = None) -> Counter[str]:
    """Write a folder that `datasets.load_from_disk` opens, with the clips in videos/ and images/ inside it.

    Every field has a place; the result is always empty.
    """
    import datasets

    home = fresh(Path(path)).resolve()
    shelf = Shelf(home)

    def put(clip: Path, kind: str) -> str:
        return str(home / shelf.put(clip, kind))

    def one(sample: Sample) -> dict:
        extra = {EXTRA: json.dumps(dict(sample.extra), ensure_ascii=False)} if sample.extra else {}
        # the user's turns as parts, the others as text, as NVIDIA writes them and the engine asks for
        said = [(m["role"], moved(m, put)) for m in sample.messages]
        turns = [{"role": r, "content": p if r == "user" else "".join(x["text"] for x in p)} for r, p in said]
        return tagged(replace(sample, extra={}), {COLUMN: json.dumps(turns, ensure_ascii=False)} | extra)

    rows = make_rows(samples, one, problems)
    columns = dict.fromkeys(key for row in rows for key in row)
    table = datasets.Dataset.from_dict({key: [row.get(key) for row in rows] for key in columns}, split="train")
    shown_before = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # a bar on stderr for a second of writing
    table.save_to_disk(str(home))
    if shown_before:
        datasets.enable_progress_bars()
    return Counter()
