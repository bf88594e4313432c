"""What all writers share: nothing is overwritten, a clip is stored once under a name of its own, rows keep all fields.

Why: recipes that name a clip by its row number hand one sample the clip of another as soon as the rows are shuffled.
Here a name is bound to the file it came from, and a name that is taken is never used again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from threading import Lock
from typing import Any

from cookbook.data.samples import MEDIA, DataError, Sample, text
from cookbook.runs import write_whole
from data_tools.formats.source import Problems, safe_id, skipping

FOLDERS = {"video": "videos", "image": "images"}


def fresh(path: Path) -> Path:
    """Returns the path. Raises DataError where something stands there already."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"{path}: is there already; choose another place, or delete it")
    return path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write a folder, which is made. Raises DataError where another does, or none can."""
    import fcntl  # POSIX only

    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DataError(f"{folder}: is being written by another process; wait, or choose another place") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); choose a place with room") from None
    finally:
        with suppress(OSError):  # a folder with something in it stays
            folder.rmdir()
        os.close(opened)


class Shelf:
    """The clips of a dataset that is being written: each source file is linked or copied in once."""

    def __init__(self, home: Path, folders: Mapping[str, str] = FOLDERS) -> None:
        """`folders` names the folder below `home` for each kind of media."""
        self.home, self.folders, self.lock = home.resolve(), folders, Lock()
        self.names: dict[Path, str] = {}

    def put(self, source: Path, kind: str) -> str:
        """Returns the clip's path relative to the dataset's folder; a clip that is in the folder stays where it is."""
        source = source.resolve()
        with self.lock:
            if source not in self.names:
                here = source.is_relative_to(self.home)
                self.names[source] = source.relative_to(self.home).as_posix() if here else self._store(source, kind)
            return self.names[source]

    def _store(self, source: Path, kind: str) -> str:
        folder = self.home / self.folders[kind]
        names = (source.stem + end + source.suffix for end in chain([""], (f"-{n}" for n in count(2))))
        place = next(folder / name for name in names if not (folder / name).exists())
        store(source, place)
        return place.relative_to(self.home).as_posix()


def store(source: Path, place: Path) -> None:
    """Give a file a second name: a hard link, which takes no space, or a copy on another disk. Raises DataError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        raise DataError(f"{place}: is there already")
    try:
        try:
            os.link(source, place)
        except OSError:
            shutil.copy2(source, place)
    except OSError as error:
        place.unlink(missing_ok=True)
        raise DataError(f"{source}: cannot be copied ({error.strerror})") from None


def make_rows(samples: Iterable[Sample], one: Callable[[Sample], dict], problems: Problems | None) -> list[dict]:
    """Returns one row a sample. Raises DataError where no sample at all can be written."""
    samples, rows = list(samples), []
    for sample in samples:
        with skipping(problems, sample.id):
            safe_id(sample.id)
            rows.append(one(sample))
    if not rows:
        why = f"; {': '.join(problems[-1])}" if problems else ""
        raise DataError(f"none of {len(samples)} samples can be written in this format{why}")
    return rows


def tagged(sample: Sample, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row with all other fields of the sample beside it, and those of `extra`."""
    fields = {"answer": sample.answer, "options": list(sample.options) or None}
    fields |= {"label": sample.label, "task": sample.task or None}
    out = {"id": sample.id, "group": sample.group, **row} | {k: v for k, v in fields.items() if v is not None}
    if both := out.keys() & sample.extra.keys():
        raise DataError(f"the extra field {sorted(both)[0]!r} has the name of a field of this format; rename it")
    return out | dict(sample.extra)


def merged(content: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the parts of a turn with neighbouring texts joined and empty ones left out."""
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "text" and parts and parts[-1]["type"] == "text":
            parts[-1] = text(parts[-1]["text"] + part["text"])
        elif part["type"] != "text" or part["text"]:
            parts.append(dict(part))
    return parts


def moved(turn: Mapping[str, Any], put: Callable[[Path, str], str]) -> list[dict[str, Any]]:
    """Returns the parts of a turn, each clip named by what `put` returns for (path, kind)."""
    return [
        dict(part) if (kind := part["type"]) == "text" else {**part, kind: put(Path(part[kind]), kind)}
        for part in turn["content"]
    ]


def limits_of(sample: Sample) -> set[str]:
    """Returns the keys that media parts carry beside their path, such as fps; most formats have no place for them."""
    parts = (part for m in sample.messages for part in m["content"] if part["type"] in MEDIA)
    return {key for part in parts for key in part if key not in ("type", part["type"])}


def write_text(path: Path, words: str) -> None:
    """Write a file, whole or not at all, in a folder that may not be there yet. Raises OSError or RunError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, words.encode())


def write_json(path: Path, value: object) -> None:
    """Write JSON as people read it: one item a block, letters as they are."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
