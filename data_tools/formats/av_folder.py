"""The guide's own layout: `videos/ID.camera_front_wide_120fov.mp4` beside `metas/ID.label.json`, one label a clip.

Why: this is the folder that the guide tells people to make. The answer to learn is the label as JSON; the guide's
`str(label)` would teach the model Python's spelling of a dictionary, which no JSON reader takes.

    read("data/train", drop_fields=("critical_object",))
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cookbook.data.samples import DataError, Sample, message, text
from data_tools.formats.sink import fresh, limits_of, make_rows, merged, store, write_text
from data_tools.formats.source import Place, Problems, inside, parse_json, read_text, safe_id, shown, skipping

VIDEO_SUFFIX, LABEL_SUFFIX = ".camera_front_wide_120fov.mp4", ".label.json"
PARTS = ("videos", "metas")
USUAL = ("train", "training", "validation", "val", "dev", "test", "eval")  # the order in which splits are shown
MAX_LABEL = 10 << 20  # bytes; a label is a few kilobytes
QUESTION = "Describe what you see in this video."


class Pair(NamedTuple):
    """A clip and its label; or, where `code` is not empty, a file that is no part of a whole pair, and why."""

    id: str
    video: Path | None = None
    meta: Path | None = None
    label: Mapping[str, Any] = {}
    code: str = ""  # "stray", "no-label", "no-video" or "label"
    wrong: str = ""

    @property
    def file(self) -> Path:
        """What a finding names: the label, else the clip."""
        return self.meta or self.video


def splits(folder: Path, names: Iterable[str] | None = None) -> dict[str, Path]:
    """Returns where each split lies, of `names` or of all; a folder without splits is "train".

    Raises DataError where one of them, or all of the layout, is missing.
    """

    def is_split(home: Path) -> bool:
        return any((home / part).is_dir() for part in PARTS)

    if names is None and is_split(folder):
        return {"train": folder}
    names, order = list(names or ()), {name: place for place, name in enumerate(USUAL)}
    there = names or sorted((p.name for p in folder.glob("*")), key=lambda name: (order.get(name, len(order)), name))
    homes = {name: folder / name for name in there if is_split(folder / name)}
    if missing := [name for name in names if name not in homes]:
        raise DataError(f"{folder}: holds no split {', '.join(missing)} with videos/ and metas/")
    if not homes:
        raise DataError(f"{folder}: holds neither videos/ and metas/ nor splits that do")
    return homes


def pairs(root: Path, video_suffix: str = VIDEO_SUFFIX, label_suffix: str = LABEL_SUFFIX) -> Iterator[Pair]:
    """Yields the pairs of one split by id, and every other visible file with what is wrong; looks into no clip."""
    videos, metas = {}, {}
    for part, suffix, by_id in zip(PARTS, (video_suffix, label_suffix), (videos, metas)):
        for file in sorted((root / part).glob("[!.]*")):
            key, end = file.name[: -len(suffix)], file.name[-len(suffix) :]
            if not key or end.lower() != suffix.lower():  # a camera may write .MP4
                yield Pair("", file, code="stray", wrong=f"does not end in {suffix}; left out")
            elif key in by_id:
                yield Pair("", file, code="stray", wrong=f"has the name of {shown(by_id[key].name)}; left out")
            else:
                by_id[key] = file
    for key in sorted(videos | metas):
        video, meta, words = videos.get(key), metas.get(key), shown(key)
        if meta is None:
            yield Pair(key, video, code="no-label", wrong=f"has no label metas/{words}{label_suffix}")
        elif video is None:
            yield Pair(key, meta=meta, code="no-video", wrong=f"has no clip videos/{words}{video_suffix}")
        else:
            try:
                label, wrong = _label(meta, root), ""
            except DataError as error:
                label, wrong = {}, str(error)
            yield Pair(key, video, meta, label, "label" if wrong else "", wrong)


def _label(file: Path, root: Path) -> dict[str, Any]:
    """Returns a label. Raises DataError for anything but an object with fields, in a file of the folder."""
    try:
        place, home = file.resolve(), root.resolve()
        size = place.stat().st_size if place.is_file() else 0
    except (OSError, RuntimeError) as error:  # no permission, links in a circle
        raise DataError(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    if not place.is_relative_to(home):
        raise DataError(f"lies outside of the data folder, at {os.path.relpath(place, home)}; copy it in")
    if not place.is_file():
        raise DataError("is not a file" if place.exists() else "is a symlink to nothing")
    if size > MAX_LABEL:
        raise DataError(f"is larger than {MAX_LABEL:,} bytes, which no label is")
    if not (words := read_text(place)).strip():
        raise DataError("is empty")
    label = parse_json(words)
    if not isinstance(label, dict) or not label:
        kinds = {dict: "empty", list: "a list", str: "a text", int: "a number", float: "a number"}
        raise DataError(f"is {kinds.get(type(label), 'true, false or null')}, not an object with fields")
    return label


def entries(
    path: Place, problems: Problems | None = None, *, drop_fields: Iterable[str] = (), **suffixes: str
) -> list[dict[str, str]]:
    """Returns the guide's entries, by id: {"video_id", "video_path", "caption_data"}; the caption is JSON text.

    Whatever is no whole pair is a problem, by the name of its file. `suffixes` are those of `pairs`.
    """
    root, found = Path(path), []
    if missing := [root / part for part in PARTS if not (root / part).is_dir()]:
        raise DataError(f"{missing[0]}: no such folder; this format needs videos/ and metas/ side by side")
    for pair in pairs(root, **suffixes):
        with skipping(problems, pair.file.relative_to(root).as_posix()):
            if pair.code != "stray":
                safe_id(pair.id)
            if pair.code:
                raise DataError(pair.wrong)
            kept = {key: value for key, value in pair.label.items() if key not in set(drop_fields)}
            if not kept:
                raise DataError("is empty without the fields to drop")
            video = inside(root, f"videos/{pair.video.name}")
            found.append({"video_id": pair.id, "video_path": str(video), "caption_data": label_json(kept)})
    return found


def label_json(label: Mapping[str, Any]) -> str:
    """Returns a label as the JSON text that is learned."""
    return json.dumps(label, indent=2, ensure_ascii=False)


def sample(name: str, video: str, answer: str, question: str = QUESTION) -> Sample:
    """Returns the sample of one clip: the question, and the answer to learn."""
    asked = message("user", {"type": "video", "video": video}, text(question))
    return Sample(name, name, (asked, message("assistant", text(answer))))


def read(path: Place, problems: Problems | None = None, *, question: str = QUESTION, **layout) -> list[Sample]:
    """Returns one sample a clip: the question, and the label as the answer to learn. `layout` goes to `entries`."""
    return [sample(*entry.values(), question) for entry in entries(path, problems, **layout)]


def write(
    samples: Iterable[Sample], path: Place, problems: Problems | None = None, *, question: str = QUESTION
) -> Counter[str]:
    """Write captions of single clips. Returns what had no place in the format, and for how many samples."""
    samples, root, left = list(samples), Path(path), Counter()
    for part in PARTS:
        fresh(root / part)
    clips = Counter(sample.group for sample in samples)

    def one(sample: Sample) -> dict:
        if clips[sample.group] > 1:
            raise DataError(f"{clips[sample.group]} samples share the clip {shown(sample.group)}; here a clip has one")
        turns = [merged(m["content"]) for m in sample.messages if m["role"] != "system"]
        match turns:
            case [[{"type": "video", "video": video}, {"type": "text", "text": asked}], [{"text": label}]]:
                if asked != question:
                    raise DataError(f"the question is {shown(repr(asked))}; this format asks only {question!r}")
            case _:
                raise DataError("is not one clip, one question and one answer")
        if not isinstance(fields := parse_json(label), dict) or not fields:
            raise DataError("the answer is not a JSON object with fields, so it is no label")
        store(Path(video), root / "videos" / f"{sample.id}{VIDEO_SUFFIX}")
        write_text(root / "metas" / f"{sample.id}{LABEL_SUFFIX}", label + "\n")
        lost = {"answer": sample.answer, "options": sample.options, "label": sample.label, "extra": sample.extra}
        lost |= {"system": sample.messages[0]["role"] == "system", "group": sample.group != sample.id}
        left.update([name for name, value in lost.items() if value] + sorted(limits_of(sample)))
        return {}

    make_rows(samples, one, problems)
    return left
