"""LLaVA JSON: a list of {id, video or image, conversations: [{from, value}]}, with <video> and <image> in the text.

Why: the warehouse, traffic and wafer recipes come in it, and most public instruction data. A placeholder says where in
the text the clip stands; several turns, several images and a system turn are all possible. One question and its answer
may stand there plainly: {"video", "question", "answer"}, the first thing that people write.

    read("annotations.json", media="train2017")
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cookbook.data.samples import MEDIA, DataError, Sample, message, text
from data_tools.formats.hub import data_files
from data_tools.formats.sink import Shelf, fresh, limits_of, make_rows, merged, tagged, write_json
from data_tools.formats.source import Find, Place, Problems, checked, inside, make_sample, read_rows, shown, skipping

FILE = "annotations.json"
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPEAKER_OF = {"user": "human", "assistant": "gpt", "system": "system"}
MEDIA_KEYS = {"video": ("video", "videos"), "image": ("image", "images")}
PLACEHOLDER = re.compile(r"<(video|image)>", re.IGNORECASE)


def annotations(path: Place) -> Path:
    """Returns the file with the items: the path itself, or the only .json or .jsonl file of a folder."""
    path = Path(path)
    if path.is_file():
        return path
    found = [f for f in data_files(path) if f.suffix.lower() != ".parquet"] if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    names = ", ".join(f.name for f in found) or "none"
    raise DataError(
        f"{path}: needs one .json file with the items, so name one (splits are train, val, test); found {names}"
    )


def read(path: Place, problems: Problems | None = None, *, media: Place | None = None) -> list[Sample]:
    """Returns one sample an item. `media` is the folder that the items' paths count from, if not the file's own."""
    file = annotations(path)
    root, samples = Path(media) if media else file.parent, []
    for number, (place, item) in enumerate(read_rows(file, problems)):
        with skipping(problems, place):
            if not isinstance(item, dict):
                raise DataError(f"is not an item with fields, but {type(item).__name__}")
            item = plainly_asked(item)
            messages = _messages(item, lambda name: inside(root, name))
            used = {"conversations", *(key for kind in MEDIA for key in MEDIA_KEYS[kind])}
            samples.append(make_sample(item, messages, f"{file.stem}-{number:06d}", root, used))
    return samples


def plainly_asked(item: dict[str, Any]) -> dict[str, Any]:
    """Returns an item of question and answer as a conversation; the answer is the reference too, among options."""
    if "conversations" in item or "question" not in item:
        return item
    said = {"human": item["question"], "gpt": item.get("answer")}
    said = {who: str(words) if isinstance(words, (int, float)) else words for who, words in said.items()}
    if odd := [type(words).__name__ for words in said.values() if not isinstance(words, str | None)]:
        raise DataError(f"question and answer are texts; found {odd[0]}")
    turns = [{"from": who, "value": words} for who, words in said.items() if words is not None]
    rest = {key: value for key, value in item.items() if key != "question" and (key != "answer" or "options" in item)}
    return rest | {"conversations": turns}


def _messages(item: dict[str, Any], find: Find) -> tuple[dict[str, Any], ...]:
    waiting = {kind: _media(item, kind) for kind in MEDIA}
    turns = item.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        seen = "" if "conversations" in item else f"; its fields are {shown(', '.join(map(str, item)))}"
        raise DataError(f"conversations is not a list of turns {{from, value}}{seen}")
    messages = []
    for turn in turns:
        if (role := SPEAKERS.get(str(turn.get("from")))) is None:
            raise DataError(f"the turn is from {shown(repr(turn.get('from')))}, none of {', '.join(SPEAKERS)}")
        parts = _parts(turn["value"], waiting, find) if role == "user" else [text(turn["value"])]
        messages.append(message(role, *parts))
    _add_rest(messages, [{"type": kind, kind: str(find(name))} for kind in MEDIA for name in waiting[kind]])
    return checked(messages)


def _media(item: dict[str, Any], kind: str) -> list[str]:
    found = [item[key] for key in MEDIA_KEYS[kind] if item.get(key)]
    names = [name for value in found for name in (value if isinstance(value, list) else [value])]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{kind} is neither a path nor a list of paths")
    return names


def _parts(value: str, waiting: dict[str, list[str]], find: Find) -> Iterator[dict[str, Any]]:
    """Yields the parts of a turn; one line end on each side of a placeholder belongs to the placeholder."""
    pieces = PLACEHOLDER.split(value)  # text, kind, text, kind, …, text
    for i, piece in enumerate(pieces):
        if i % 2:
            piece = piece.lower()
            if not waiting[piece]:
                raise DataError(f"there are more <{piece}> in the text than {piece}s in the item")
            yield {"type": piece, piece: str(find(waiting[piece].pop(0)))}
            continue
        words = piece.removeprefix("\n") if i else piece
        words = words.removesuffix("\n") if i < len(pieces) - 1 else words
        if words:
            yield text(words)


def _add_rest(messages: list[dict[str, Any]], rest: list[dict[str, Any]]) -> None:
    """Put clips that have no placeholder behind the last that has one, else before the first question."""
    spots = [(m["content"], i + 1) for m in messages for i, p in enumerate(m["content"]) if p["type"] in MEDIA]
    spots = spots or [(m["content"], 0) for m in messages if m["role"] == "user"][:1]
    for content, at in spots[-1:]:
        content[at:at] = rest


def write(samples: Iterable[Sample], path: Place, problems: Problems | None = None) -> Counter[str]:
    """Write FOLDER/annotations.json (or the .json file named) with the clips in videos/ and images/ beside it.

    Returns what had no place in the format, and for how many samples.
    """
    file = Path(path) if Path(path).suffix.lower() == ".json" else Path(path) / FILE
    left: Counter[str] = Counter()
    shelf = Shelf(fresh(file).parent)

    def one(sample: Sample) -> dict:
        turns = [{"from": SPEAKER_OF[m["role"]], "value": _value(merged(m["content"]))} for m in sample.messages]
        row = tagged(sample, {kind: "" for kind, _ in sample.media()} | {"conversations": turns})
        left.update(sorted(limits_of(sample)))
        names = {kind: [shelf.put(p, kind) for k, p in sample.media() if k == kind] for kind in MEDIA}
        return row | {kind: found[0] if len(found) == 1 else found for kind, found in names.items() if found}

    write_json(file, make_rows(samples, one, problems))
    return left


def _value(parts: list[dict[str, Any]]) -> str:
    for part in parts:
        if part["type"] == "text" and PLACEHOLDER.search(part["text"]):
            raise DataError("the text itself holds <video> or <image>, which would be read as a placeholder")
    return "\n".join(part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in parts)
