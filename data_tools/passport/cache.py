"""Remember what was read: one JSON line for each content, found by its SHA-256.

Why: decoding 9,000 clips takes an hour, hashing them a minute. The key is the content, so a renamed clip is known and
a changed one is not. The file is only ever appended to; a line that a crash cut off is skipped. In memory stands one
number a clip, so that it stays small in every worker.
"""

import json
import logging
from dataclasses import fields
from pathlib import Path

import av

from data_tools.passport.reader import Content

log = logging.getLogger(__name__)

READER = f"1 PyAV {av.__version__}"  # raise the number when `clip_reader` finds other facts in the same bytes
FIELDS = [field.name for field in fields(Content)]


class ClipCache:
    """The facts of contents that were read before, in FOLDER/clips.jsonl."""

    def __init__(self, folder: str | Path) -> None:
        """Open the cache; the folder is made when the first line is written."""
        self.file = Path(folder) / "clips.jsonl"
        self._places: dict[bytes, int] = {}  # where each line begins
        self._writable = True
        try:
            with self.file.open("rb") as lines:
                place = 0
                for line in lines:
                    if row := _row(line):
                        self._places[_key(row["sha256"], row["kind"])] = place
                    place += len(line)
        except OSError:  # none yet
            pass

    def get(self, sha256: str, kind: str) -> Content | None:
        """Returns the facts of this content, None where it was never read."""
        place = self._places.get(_key(sha256, kind))
        if place is None:
            return None
        with self.file.open("rb") as lines:
            lines.seek(place)
            row = _row(lines.readline())
        # None too where somebody replaced the file meanwhile
        return Content(**row["content"]) if row and (row["sha256"], row["kind"]) == (sha256, kind) else None

    def put(self, sha256: str, kind: str, content: Content) -> None:
        """Keep facts that depend on the content alone; what is known, or was not read to the end, is left out."""
        key = _key(sha256, kind)
        if not (sha256 and content.complete and self._writable) or key in self._places:
            return
        facts = {name: getattr(content, name) for name in FIELDS}
        row = {"reader": READER, "sha256": sha256, "kind": kind, "content": facts}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as lines:
                if lines.tell() and not self._ends_whole():
                    lines.write(b"\n")
                self._places[key] = lines.tell()
                lines.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            self._writable = False
            log.warning("%s: cannot be written, so clips will be read again (%s)", self.file, error.strerror)

    def _ends_whole(self) -> bool:
        with self.file.open("rb") as lines:
            lines.seek(-1, 2)
            return lines.read(1) == b"\n"


def _key(sha256: str, kind: str) -> bytes:
    return f"{kind} {sha256[:32]}".encode()


def _row(line: bytes) -> dict | None:
    """Returns a line of this reader, None for any other."""
    try:
        row = json.loads(line)
        known = row["reader"] == READER and set(row["content"]) == set(FIELDS)
        return row if known and isinstance(row["sha256"] + row["kind"], str) else None
    except (ValueError, KeyError, TypeError):
        return None
