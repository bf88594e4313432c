"""Inspect clips: what each file really holds, and what is wrong with it.

Why: one corrupt clip kills a run after an hour, or worse, silently alters it. So every clip is decoded once, frame by
frame, before any GPU is booked. A bad clip is a finding, never an exception; a decoder that crashes or hangs on it
takes down a worker process, never the caller. What was read is remembered: decoding 9,000 clips takes an hour, hashing
them a minute.

    facts = inspect("clip.mp4")                       # one clip, in this process
    facts.frames, facts.findings
    inspect_all(paths, folder=dataset)                # many, in worker processes, in the order given

Scripts that call `inspect_all` need the usual `if __name__ == "__main__":`, since workers import the main module;
where they cannot start, the clips are read in this process, with a warning in the log.
"""

import faulthandler
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import av

from cookbook import runs
from data_tools.formats.source import Place
from data_tools.passport.findings import ERROR, Finding, Limits, error, judge_file
from data_tools.passport.reader import Content, inspect_image, inspect_video

Chunks = list[list[Path]]  # what a worker takes at a time
CACHE = ".cache/clips"  # below runs/, wherever that is when clips are read
CHUNK = 16  # clips a worker takes at a time: few enough to share the work evenly, enough to hide the hand-over
WATCHDOG = 3  # times the patience: hashing and decoding keep to it each, unless the decoder itself never returns
READER = f"2 PyAV {av.__version__}"  # raise the number when `reader` finds other facts in the same bytes
FACTS = [field.name for field in fields(Content)]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipFacts(Content):
    """What is known of one clip or image file; of a few hundred bytes."""

    path: Path = Path()
    bytes: int = 0
    sha256: str = ""  # of the content; "" where it could not be read
    findings: tuple[Finding, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether training and evaluation can read it: there may be warnings, but no error."""
        return all(finding.severity != ERROR for finding in self.findings)


class ClipCache:
    """The facts of contents that were read before, in FOLDER/clips.jsonl: one JSON line each.

    The key is the content's SHA-256, so a renamed clip is known and a changed one is not. The file is only ever
    appended to; a line that a crash cut off is skipped. In memory stands one number a clip, so workers stay small.
    """

    def __init__(self, folder: Place) -> None:
        """Open the cache; the folder is made when the first line is written."""
        self.file = Path(folder) / "clips.jsonl"
        self._places: dict[str, int] = {}  # where each line begins
        self._writable, last, place = True, b"\n", 0
        try:
            with self.file.open("rb") as lines:
                for last in lines:
                    if row := _row(last):
                        self._places[row["key"]] = place
                    place += len(last)
        except OSError:  # none yet
            pass
        self._is_whole = last.endswith(b"\n")

    def get(self, sha256: str, kind: str) -> Content | None:
        key = f"{kind} {sha256}"
        if key not in self._places:
            return None
        with self.file.open("rb") as lines:
            lines.seek(self._places[key])
            row = _row(lines.readline())
        return Content(**row["content"]) if row and row["key"] == key else None  # another, where the file was replaced

    def put(self, sha256: str, kind: str, content: Content) -> None:
        """Keep facts that depend on the content alone; what is known, or was not read to the end, is left out."""
        key = f"{kind} {sha256}"
        if not (sha256 and content.complete and self._writable) or key in self._places:
            return
        facts = {name: getattr(content, name) for name in FACTS}
        row = {"reader": READER, "sha256": sha256, "kind": kind, "content": facts}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as lines:
                if not self._is_whole:
                    lines.write(b"\n")
                self._places[key], self._is_whole = lines.tell(), True
                lines.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            self._writable = False
            log.warning("%s: cannot be written, so clips will be read again (%s)", self.file, error.strerror)


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
        known = row["reader"] == READER and set(row["content"]) == set(FACTS)
        return row | {"key": row["kind"] + " " + row["sha256"]} if known else None
    except (ValueError, KeyError, TypeError):
        return None


def inspect(
    path: Place,
    *,
    kind: str = "video",
    folder: Place | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    cache: ClipCache | None = None,
) -> ClipFacts:
    """Read one file of the given kind, "video" or "image". Returns its facts and findings; never raises for a bad file.

    With `folder`, a file that lies elsewhere (by a symlink or `..`) is refused unread. With `cache`, a content that
    was read before is not decoded again.
    """
    path = Path(path)
    try:
        if refused := _refusal(path, folder):
            return ClipFacts(path=path, findings=(refused,))
        size, sha256 = _digest(path, time.monotonic() + limits.patience)
    except (OSError, ValueError, RuntimeError) as problem:  # no permission, a name with a NUL, a loop of symlinks
        words = getattr(problem, "strerror", None) or problem
        return ClipFacts(path=path, findings=(error("unreadable", f"cannot be opened ({words})"),))
    if not sha256:
        late = error("slow", f"{size:,} bytes, not read within {limits.patience:g} seconds")
        return ClipFacts(path=path, bytes=size, findings=(late,))
    content = cache.get(sha256, kind) if cache else None
    if content is None:
        content = inspect_image(path) if kind == "image" else inspect_video(path, limits.patience)
    found = judge_file(content, path, size, limits, kind)
    return ClipFacts(**vars(content), path=path, bytes=size, sha256=sha256, findings=found)


def _refusal(path: Path, folder: Place | None) -> Finding | None:
    """Returns why the file is not to be opened, None where it may be."""
    if folder is not None and not path.resolve().is_relative_to(Path(folder).resolve()):
        place = os.path.relpath(path.resolve(), Path(folder).resolve())
        return error("outside", f"lies outside of the data folder, at {place}; copy it in")
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return error("missing", "is a symlink to nothing" if path.is_symlink() else "does not exist")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return error("not-a-file", "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
    return None if status.st_size else error("empty", "holds no bytes")


def _digest(path: Path, deadline: float) -> tuple[int, str]:
    """Returns the size in bytes and the SHA-256, "" where the time was up. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
            if time.monotonic() > deadline:
                return size, ""
    return size, digest.hexdigest()


def inspect_all(
    paths: Sequence[Place],
    *,
    kind: str = "video",
    folder: Place | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    cache: Place | None = CACHE,
    workers: int = 2,
) -> list[ClipFacts]:
    """Inspect files in `workers` processes; with 0, in this one. Returns their facts in the order of `paths`.

    `cache` is a folder (by default one below runs/), None for none. A file that crashes or hangs the decoder gets the
    finding "crash", and the others are read all the same.
    """
    paths = [Path(path) for path in paths]
    cache = runs.path(cache) if cache == CACHE else cache
    store = ClipCache(cache) if cache is not None else None
    task = partial(inspect, kind=kind, folder=folder, limits=limits)
    if workers := min(workers, len(paths)):
        size = max(1, min(CHUNK, len(paths) // (4 * workers)))
        chunks = [paths[i : i + size] for i in range(0, len(paths), size)]
        stream = _in_workers(chunks, task, limits.patience, cache, workers)
    else:
        stream = (task(path, cache=store) for path in paths)
    found = []
    for facts in stream:
        found.append(facts)
        if store is not None:
            store.put(facts.sha256, kind, facts)
    return found


def _in_workers(chunks: Chunks, task: Callable, patience: float, cache: Place | None, workers: int) -> Iterator:
    """Yields the facts in order. After a crash, the chunk that may have caused it is read clip by clip."""
    while chunks:
        for found in _until_a_crash(chunks, task, patience, cache, workers):
            chunks = chunks[1:]
            yield from found
        if not chunks:
            return
        if not any(True for _ in _until_a_crash([[]], task, patience, cache, 1)):
            log.warning("worker processes cannot start here; the clips are read in this one")
            yield from (task(path) for chunk in chunks for path in chunk)
            return
        suspects, *chunks = chunks
        if len(suspects) > 1 or workers > 1:
            yield from _in_workers([[path] for path in suspects], task, patience, cache, 1)
        else:
            words = f"crashes the decoder, or hangs it for more than {WATCHDOG * patience:g} seconds"
            yield ClipFacts(path=suspects[0], findings=(error("crash", words),))


def _until_a_crash(chunks: Chunks, task: Callable, patience: float, cache: Place | None, workers: int) -> Iterator:
    """Yields the facts of one chunk after the other, up to the first that a dead worker left unfinished."""
    # not "fork": it copies the threads' locks of a process that has loaded torch
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (cache,))
    try:
        for future in [pool.submit(_work, task, patience, chunk) for chunk in chunks]:
            yield future.result()
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(cancel_futures=True)  # what still waits is not begun


_store: ClipCache | None = None  # of a worker process
_nowhere = None


def _start_worker(cache: Place | None) -> None:
    global _store, _nowhere
    Thread(target=_end_with_parent, daemon=True).start()
    _store = ClipCache(cache) if cache is not None else None
    _nowhere = open(os.devnull, "w")  # noqa: SIM115 - the watchdog writes to it as long as the process lives


def _end_with_parent() -> None:
    """End this process when its parent is gone: one that was killed says nothing, and the worker would wait."""
    parent_process().join()
    os._exit(1)


def _work(task: Callable, patience: float, paths: list[Path]) -> list[ClipFacts]:
    """Read some clips in a worker. One that hangs inside the decoder ends the process: no other way leads out."""
    found, armed = [], float("-inf")
    for path in paths:
        if time.monotonic() - armed > patience:  # not for every clip: each time costs a thread
            faulthandler.dump_traceback_later((WATCHDOG + 1) * patience, exit=True, file=_nowhere)
            armed = time.monotonic()
        found.append(task(path, cache=_store))
    faulthandler.cancel_dump_traceback_later()
    return found
