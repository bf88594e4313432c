"""Look through a folder of the guide's layout, whatever state it is in: pairs, leftovers, bad labels.

Why: a loader that skips what it cannot use trains on less than its owner thinks. Here every file is accounted for:
it is part of a sample, or of a finding with its name. Used by `data_tools.passport`.

    FOLDER/videos/ID.camera_front_wide_120fov.mp4  +  FOLDER/metas/ID.label.json     # one split
    FOLDER/train/videos/…, FOLDER/test/videos/…                                      # several

    layout = read_layout("data")
    layout.samples["train"], layout.findings
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cookbook.samples import DataError, Sample, message, text
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.formats.source import parse_json, read_text
from data_tools.passport.findings import ERROR, WARNING, Finding

PARTS = ("videos", "metas")
USUAL = ("train", "training", "validation", "val", "dev", "test", "eval")  # the order in which splits are shown
ALONE = "train"  # the name of the split where the folder holds no splits
MAX_LABEL = 10 << 20  # bytes; a label is a few kilobytes
QUESTION = "Describe what you see in this video."  # the guide's


@dataclass
class Layout:
    """What a folder holds."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)  # by split
    findings: list[Finding] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)  # split, id, why there is no sample of it


def read_layout(
    folder: str | Path,
    *,
    splits: list[str] | None = None,
    video_suffix: str = VIDEO_SUFFIX,
    label_suffix: str = LABEL_SUFFIX,
    question: str = QUESTION,
    vision: Mapping[str, Any] | None = None,
    label: str | None = None,
) -> Layout:
    """Pair the clips and labels of a folder. Returns a sample for each whole pair, a finding for everything else.

    `splits` names the subfolders to look into; without it they are found. `vision` is added to each video part (fps,
    max_pixels, …), `label` names the field of the label that balancing counts.
    Raises DataError where the folder has no such layout at all.
    """
    folder, layout = Path(folder), Layout()
    for split, home in _homes(folder, splits).items():
        samples = layout.samples.setdefault(split, [])
        videos = _by_id(layout, split, folder, home / PARTS[0], video_suffix)
        labels = _by_id(layout, split, folder, home / PARTS[1], label_suffix)
        for key in sorted(videos.keys() | labels.keys()):
            if key not in labels:
                name = f"metas/{key}{label_suffix}"
                _leave_out(layout, folder, split, key, videos[key], "no-label", f"has no label {name}")
            elif key not in videos:
                name = f"videos/{key}{video_suffix}"
                _leave_out(layout, folder, split, key, labels[key], "no-video", f"has no clip {name}")
            else:
                try:
                    found = read_label(labels[key], folder)
                except DataError as error:
                    _leave_out(layout, folder, split, key, labels[key], "label", str(error))
                else:
                    samples.append(_sample(key, videos[key], found, question, vision or {}, label))
    return layout


def read_label(path: Path, folder: Path) -> dict:
    """Returns the label of a file inside `folder`. Raises DataError, saying why, for anything but a JSON object."""
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            place = os.path.relpath(path.resolve(), folder.resolve())
            raise DataError(f"lies outside of the data folder, at {place}; copy it in")
        if not path.is_file():
            raise DataError("is not a file" if path.exists() else "is a symlink to nothing")
        with path.open("rb") as file:
            data = file.read(MAX_LABEL + 1)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    if not data.strip():
        raise DataError("is empty")
    if len(data) > MAX_LABEL:
        raise DataError(f"is larger than {MAX_LABEL:,} bytes, which no label is")
    label = parse_json(read_text(path))
    if not isinstance(label, dict) or not label:
        raise DataError(f"must be a JSON object with fields, is {_kind(label)}")
    return label


def _homes(folder: Path, splits: list[str] | None) -> dict[str, Path]:
    """Returns where each split lies. Raises DataError where nothing lies there."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if splits is None and any((folder / part).is_dir() for part in PARTS):
        return {ALONE: folder}
    names = splits if splits is not None else sorted((entry.name for entry in folder.iterdir()), key=_place)
    homes = {name: folder / name for name in names if any((folder / name / part).is_dir() for part in PARTS)}
    if missing := [name for name in splits or () if name not in homes]:
        raise DataError(f"{folder}: holds no split {', '.join(missing)} with videos/ and metas/")
    if not homes:
        raise DataError(f"{folder}: holds neither videos/ and metas/ nor splits that do")
    return homes


def _place(split: str) -> tuple[int, str]:
    return (USUAL.index(split) if split in USUAL else len(USUAL), split)


def _by_id(layout: Layout, split: str, folder: Path, home: Path, suffix: str) -> dict[str, Path]:
    """Returns the files of one folder by their id; any other visible file becomes a finding."""
    found = {}
    for path in _visible(home):
        if path.name.endswith(suffix) and len(path.name) > len(suffix):
            found[path.name.removesuffix(suffix)] = path
        else:
            words = f"does not end in {suffix}; left out"
            layout.findings.append(Finding("stray", WARNING, words, shown(path, folder), split))
    return found


def _visible(home: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(home))
    except OSError:  # the folder is missing, and all of its files with it
        names = []
    yield from (home / name for name in names if not name.startswith("."))


def _leave_out(layout: Layout, folder: Path, split: str, key: str, path: Path, code: str, words: str) -> None:
    layout.findings.append(Finding(code, ERROR, words, shown(path, folder), split))
    layout.left_out.append((split, key, f"{code}: {words}"))


def _sample(key: str, video: Path, label: dict, question: str, vision: Mapping[str, Any], field: str | None) -> Sample:
    clip = {"type": "video", "video": str(video.absolute()), **vision}
    answer = json.dumps(label, ensure_ascii=False)
    messages = (message("user", clip, text(question)), message("assistant", text(answer)))
    counted = label.get(field) if field else None
    return Sample(key, key, messages, label=None if counted is None else str(counted), extra={"meta": label})


def shown(path: str | Path, folder: str | Path | None = None) -> str:
    """Returns a path or id as one printable line, relative to the folder where it lies in it."""
    if folder is not None and isinstance(path, Path):
        inside, outer = os.path.abspath(path), os.path.abspath(folder)
        path = os.path.relpath(inside, outer) if inside.startswith(outer + os.sep) else path
    words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))
    return words if len(words) <= 260 else f"{words[:120]}…{words[-100:]}"


def _kind(label: Any) -> str:
    if label is None or label in ({}, [], ""):
        return "empty"
    return {list: "a list", str: "a text", bool: "true or false"}.get(type(label), "a number")
