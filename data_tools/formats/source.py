"""What all readers share: safe names, files that stay in their folder, and bad rows that are told and not lost.

Why: a dataset is somebody else's folder. An id becomes a file name, a path in it is opened, and one bad row of a
million must neither stop the work nor vanish. Used by the formats beside this file.

    with skipping(problems, "metas/a.label.json"):   # a DataError within becomes (name, reason) in the list
        samples.append(…)
"""

import json
import math
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cookbook.data.samples import MEDIA, DataError, Sample, message, text

Place = str | Path
Names = str | Iterable[str] | None  # one, several, or all of them
Problems = list[tuple[str, str]]  # (file or row, what is wrong with it)
Find = Callable[[str], Path]  # from the name that a row gives to the file

TEXTS = ("answer", "label", "task")
ROLES = ("system", "user", "assistant")
LONGEST_ID = 150  # bytes: with a suffix it still is a file name everywhere (255)


@contextmanager
def skipping(problems: Problems | None, name: str) -> Iterator[None]:
    """Within it, a DataError is put down in `problems` under this name; without a list it is raised with the name."""
    try:
        yield
    except DataError as error:
        if problems is None:
            raise DataError(f"{shown(name)}: {error}") from None
        problems.append((shown(name), str(error)))


def shown(words: object, folder: str | Path | None = None) -> str:
    """Returns a text that any terminal can print: one line, controls escaped, at most 260 characters.

    A path is told relative to the folder, where it lies in it.
    """
    if folder is not None and isinstance(words, Path):
        path, home = os.path.abspath(words), os.path.abspath(folder)
        words = os.path.relpath(path, home) if path.startswith(home + os.sep) else words
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(words))
    return line if len(line) <= 260 else f"{line[:120]}…{line[-100:]}"


def safe_id(value: object) -> str:
    """Returns an id as text. Raises DataError for one that could not be a file name everywhere."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"the id is {shown(repr(value))}; an id is a text or a whole number")
    name = str(value)
    if not name.strip() or len(name.encode("utf-8", "replace")) > LONGEST_ID:
        raise DataError(f"the id {shown(name)!r} is empty or longer than {LONGEST_ID} bytes; rename it")
    # Cc: controls, Cs: halves of a character, which bad file names bring, Zl and Zp: line ends
    if ".." in name or any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        raise DataError(f"the id {shown(name)} holds '..', a separator or a control character; rename it")
    if name.startswith("."):
        raise DataError(f"the id {shown(name)} begins with a dot, so its files would be hidden; rename it")
    return name


def inside(root: Path, name: str) -> Path:
    """Returns the absolute path of a file of the dataset, links resolved.

    Raises DataError where the file is missing, or lies outside of `root`, by `..`, by a link or as an absolute path.
    """
    if not isinstance(name, str) or not name or any(unicodedata.category(c) == "Cc" for c in name):
        raise DataError(f"{shown(repr(name))} is no file name")
    if "://" in name and not name.startswith("file://"):
        raise DataError(f"{shown(name)} is not on this machine; download it, and name the file")
    try:
        path, home = (root / name.removeprefix("file://")).resolve(), root.resolve()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, bytes that are no name
        raise DataError(f"{shown(name)} cannot be opened ({error})") from None
    if not path.is_relative_to(home):
        raise DataError(f"{shown(name)} leaves the dataset's folder {shown(home)}; move it there, or name its folder")
    if not found:
        raise DataError(f"no such file: {shown(path)}")
    return path


def read_text(path: Path) -> str:
    """Returns a file's text. Raises DataError where it is missing or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # Windows editors put a mark in front
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def parse_json(words: str) -> Any:
    """Returns the value. Raises DataError for what is not strict JSON: NaN, infinite numbers, halves of a character."""
    try:
        value = json.loads(words, parse_constant=_number, parse_float=_number)
        if "\\ud" in words.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except DataError:
        raise
    except UnicodeEncodeError:
        raise DataError("holds half of a character (a lone \\ud… escape)") from None
    except RecursionError:
        raise DataError("is nested too deeply") from None
    except ValueError as error:  # a number of 5,000 digits too
        raise DataError(f"is not valid JSON ({error})") from None
    return value


def _number(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise DataError(f"holds {digits}, which is not valid JSON")
    return number


def read_rows(path: Path, problems: Problems | None) -> list[tuple[str, Any]]:
    """Returns (name, value) of every item of a JSON list, or of every line of a .jsonl file."""
    by_line, items, rows = path.suffix == ".jsonl", [], []
    with skipping(problems, path.name):
        items = read_text(path).split("\n") if by_line else parse_json(read_text(path))
        if not isinstance(items, list):
            raise DataError(f"is not a list of items, but {type(items).__name__}")
    for number, item in enumerate(items, 1 if by_line else 0):
        with skipping(problems, name := f"{path.name}, {'line' if by_line else 'item'} {number}"):
            if not by_line or item.strip():
                rows.append((name, parse_json(item) if by_line else item))
    return rows


def conversation(rows: object, find: Find | Path) -> tuple[dict[str, Any], ...]:
    """Returns chat messages in the form of samples: each content a list of parts, media as absolute paths.

    Takes contents as text or as parts; `find` may be the folder that the files lie in. Raises DataError for anything
    that no chat template could render as meant.
    """
    find = partial(inside, find) if isinstance(find, Path) else find
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("the conversation is not a list of messages")
    return checked([message(row.get("role"), *_parts(row.get("content"), find)) for row in rows])


def _parts(content: object, find: Find) -> Iterator[dict[str, Any]]:
    for part in [text(content)] if isinstance(content, str) else content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (*MEDIA, "text") or not isinstance(part.get(kind), str):
            raise DataError(f"{shown(repr(part))} is neither text nor the path of a video or an image")
        yield part if kind == "text" else part | {kind: str(find(part[kind]))}


def checked(messages: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Returns the messages. Raises DataError where roles or contents are not those of a conversation."""
    roles = [m["role"] for m in messages]
    if unknown := [role for role in roles if role not in ROLES]:
        raise DataError(f"the role {shown(repr(unknown[0]))} is none of {', '.join(ROLES)}")
    if "system" in roles[1:]:
        raise DataError("the system turn does not stand first")
    if [role for role in roles if role != "system"][:1] != ["user"]:
        raise DataError("the conversation does not begin with a question (a user turn)")
    for turn in messages:
        if not any(part["type"] in MEDIA or part["text"].strip() for part in turn["content"]):
            raise DataError(f"the {turn['role']} turn is empty")
        if turn["role"] != "user" and any(part["type"] in MEDIA for part in turn["content"]):
            raise DataError(f"the {turn['role']} turn holds a video or an image")
    return tuple(messages)


def make_sample(
    row: Mapping[str, Any], messages: tuple, spare_id: str, group: str | Path, used: Collection[str], **known: Any
) -> Sample:
    """Returns the sample of a row: its fields where the row names them, every other key but `used` in `extra`.

    `known` are fields that the format itself knows; the spare id and group are for rows that name none. A folder as the
    group stands for the first clip's path in it, without the suffix.
    """
    texts = {key: str(row[key]) for key in ("group", *TEXTS) if isinstance(row.get(key), (str, int, float))}
    name = safe_id(row.get("id", spare_id))
    group = texts.pop("group", "") or (_first_clip(messages, group) if isinstance(group, Path) else group) or name
    options = row.get("options")
    if isinstance(options, (list, tuple)) and options and all(isinstance(o, str) for o in options):
        texts["options"] = tuple(options)
    fields = texts | known
    extra = {key: value for key, value in row.items() if key not in {"id", "group", *used, *fields}}
    return Sample(name, group, messages, extra=extra, **fields)


def _first_clip(messages: tuple, root: Path) -> str:
    """Returns the path of the first clip or image below the root, without its suffix; "" where there is none."""
    paths = [Path(p[p["type"]]) for m in messages for p in m["content"] if p["type"] in MEDIA]
    if not paths:
        return ""
    path, home = paths[0], root.resolve()
    return (path.relative_to(home) if path.is_relative_to(home) else path).with_suffix("").as_posix()
