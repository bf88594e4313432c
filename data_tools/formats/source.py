"""What all readers share: safe names, files that stay in their folder, and bad rows that are told and not lost.

Why: a dataset is somebody else's folder. An id becomes a file name, a path in it is opened, and one bad row of a
million must neither stop the work nor vanish. Used by the formats beside this file.

    with skipping(problems, "metas/a.label.json"):   # a DataError within becomes (name, reason) in the list
        samples.append(…)
"""

import codecs
import json
import math
import os
import re
import string
import unicodedata
from collections import Counter
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

PASSPORT = "passport.json"  # looked for in the dataset's folder, where [custom] names no other; it holds no rows
TEXTS = ("answer", "label", "task")
ROLES = ("system", "user", "assistant")
DEEPEST = 50  # levels of a JSON value; Python's own limit would end the process of whoever walks through it
LENIENT, SPACE = json.JSONDecoder(parse_int=str), re.compile(r"[ \t\r\n]*")
BLANK = f"{string.whitespace}\u00a0\u3000\u200b\u200c\u200d\u2060\ufeff"  # what nobody sees
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
        same = (file.name for file in path.parent.glob("*") if file.name.lower() == path.name.strip().lower())
        hint = next((f"; {shown(near)} is there, write it so" for near in same if near != path.name), "")
        raise DataError(f"no such file: {shown(path)}{hint}")
    return path


def read_text(path: Path, most: int = -1) -> str:
    """Returns a file's text, of `most` bytes at most. Raises DataError where it is missing or not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(most)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError("is not UTF-8 but UTF-16; save it as UTF-8")
        words = content.decode("utf-8-sig", "strict" if most < 0 else "ignore")  # editors put a mark in front
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in words:
        raise DataError(f"holds a NUL at character {words.index(chr(0))}, as no text does; save it as UTF-8")
    return words


def parse_json(words: str) -> Any:
    """Returns the value. Raises DataError for what is not strict JSON: NaN, infinite numbers, halves of a character.

    A key that comes twice in one object is refused too: one of its values would be lost; and so is a value that is
    nested more than DEEPEST levels.
    """
    try:
        value = json.loads(words, parse_constant=_number, parse_float=_number, object_pairs_hook=_table)
        _require_flat(value)
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


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(table := dict(pairs)) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise DataError(f"holds the key {shown(repr(twice))} twice in one object; rename or delete one")
    return table


def _require_flat(value: Any, levels: int = DEEPEST) -> None:
    if not levels:
        raise DataError(f"is nested too deeply, more than {DEEPEST} levels")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(part, (dict, list)):
            _require_flat(part, levels - 1)


def read_rows(path: Path, problems: Problems | None) -> list[tuple[str, Any]]:
    """Returns (name, value) of every item of a JSON list, or else of every line, whatever the file's name ends in.

    A .json file that holds one object is one item. What is wrong with one item leaves the others as they are.
    """
    found, rows = [], []
    with skipping(problems, path.name):
        found = list(_items(read_text(path), path.suffix.lower() == ".jsonl"))
    for place, item in found:
        with skipping(problems, name := f"{path.name}, {place}"):
            rows.append((name, parse_json(item)))
    return rows


def _items(words: str, by_line: bool) -> Iterator[tuple[str, str]]:
    """Yields (place, JSON text) of each item. Raises DataError for a list that is no JSON, where its items end."""
    if not words.strip():
        raise DataError("is empty")
    lines = ((f"line {number}", line) for number, line in enumerate(words.split("\n"), 1) if line.strip())
    if not words.lstrip().startswith("["):
        yield from lines if by_line or _end_of_json(words, 0) < len(words.rstrip()) else [("item 0", words)]
        return
    at, number = _skipped(words, words.index("[") + 1), 0
    while words[at : at + 1] != "]":
        end = _end_of_json(words, at)
        behind = _skipped(words, max(end, 0))
        if end < 0 or words[behind : behind + 1] not in (",", "]"):
            line = words.count("\n", 0, at) + 1
            raise DataError(f"item {number} (line {line}) or what follows it is not valid JSON, or the file is cut off")
        yield f"item {number}", words[at:end]
        at, number = _skipped(words, behind + (words[behind] == ",")), number + 1  # a comma may stand behind the last
    if words[at + 1 :].strip():
        raise DataError("holds more behind the end of its list; make it one list")


def _skipped(words: str, at: int) -> int:
    return SPACE.match(words, at).end()


def _end_of_json(words: str, at: int) -> int:
    """Returns where the value that begins here ends, -1 where it does not; NaN and long numbers are values too."""
    try:
        return LENIENT.raw_decode(words, _skipped(words, at))[1]
    except (ValueError, RecursionError):
        return -1


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
        if not any(part["type"] in MEDIA or part["text"].strip(BLANK) for part in turn["content"]):
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
    for key in {"group", "answer"} - texts.keys() - known.keys():
        if row.get(key) is not None:
            raise DataError(f"{key} is {shown(repr(row[key]))}; it is a text or a number")
    group = texts.pop("group", "") or (_first_clip(messages, group) if isinstance(group, Path) else group) or name
    if options := row.get("options"):
        if not isinstance(options, (list, tuple)) or not all(isinstance(o, (str, int, float)) for o in options):
            raise DataError(f'options is {shown(repr(options))}; write a list of what may be answered: ["A", "B"]')
        texts["options"] = tuple(map(str, options))
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
