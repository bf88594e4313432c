"""The guide's own layout: `videos/ID.camera_front_wide_120fov.mp4` beside `metas/ID.label.json`, one label a clip.

Why: this is the folder that the guide tells people to make. The answer to learn is the label as JSON; the guide's
`str(label)` would teach the model Python's spelling of a dictionary, which no JSON reader takes.

    read("data/train", drop_fields=("critical_object",))
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cookbook.samples import DataError, Sample, message, text
from data_tools.formats.sink import fresh, limits_of, merged, rows_of, store
from data_tools.formats.source import Problems, inside, parse_json, read_text, safe_id, shown, skipping

VIDEO_SUFFIX, LABEL_SUFFIX = ".camera_front_wide_120fov.mp4", ".label.json"
QUESTION = "Describe what you see in this video."


def entries(
    path: str | Path,
    problems: Problems | None = None,
    *,
    video_suffix: str = VIDEO_SUFFIX,
    label_suffix: str = LABEL_SUFFIX,
    drop_fields: Iterable[str] = (),
) -> list[dict[str, str]]:
    """Returns the guide's entries, by id: {"video_id", "video_path", "caption_data"}; the caption is JSON text.

    A clip without a label, a label without a clip and a file with another ending are problems, each with its name.
    """
    root, found = Path(path), []
    videos = _by_id(root / "videos", video_suffix, problems)
    labels = _by_id(root / "metas", label_suffix, problems)
    for name in sorted(videos | labels):
        with skipping(problems, f"metas/{labels[name]}" if name in labels else f"videos/{videos[name]}"):
            safe_id(name)
            if name not in labels:
                raise DataError(f"the clip has no label metas/{name}{label_suffix}")
            if name not in videos:
                raise DataError(f"the label has no clip videos/{name}{video_suffix}")
            video = inside(root, f"videos/{videos[name]}")
            label = parse_json(read_text(inside(root, f"metas/{labels[name]}")))
            found.append({"video_id": name, "video_path": str(video), "caption_data": _caption(label, drop_fields)})
    return found


def _by_id(folder: Path, suffix: str, problems: Problems | None) -> dict[str, str]:
    """Returns {id: file name} of a folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; this format needs videos/ and metas/ side by side")
    names = {}
    for file in sorted(f.name for f in folder.iterdir() if not f.name.startswith(".")):
        with skipping(problems, f"{folder.name}/{file}"):
            if not file.endswith(suffix):
                raise DataError(f"the name does not end in {suffix}")
            names[file.removesuffix(suffix)] = file
    return names


def _caption(label: Any, drop_fields: Iterable[str]) -> str:
    if not isinstance(label, dict):
        raise DataError(f"the label is not an object with fields, but {type(label).__name__}")
    kept = {key: value for key, value in label.items() if key not in set(drop_fields)}
    if not kept:
        raise DataError("the label is empty")
    return json.dumps(kept, indent=2, ensure_ascii=False)


def read(path: str | Path, problems: Problems | None = None, *, question: str = QUESTION, **layout) -> list[Sample]:
    """Returns one sample a clip: the question, and the label as the answer to learn. `layout` goes to `entries`."""
    return [
        Sample(
            e["video_id"],
            e["video_id"],
            (
                message("user", {"type": "video", "video": e["video_path"]}, text(question)),
                message("assistant", text(e["caption_data"])),
            ),
        )
        for e in entries(path, problems, **layout)
    ]


def write(
    samples: Iterable[Sample],
    path: str | Path,
    problems: Problems | None = None,
    *,
    question: str = QUESTION,
    video_suffix: str = VIDEO_SUFFIX,
    label_suffix: str = LABEL_SUFFIX,
) -> Counter[str]:
    """Write captions of single clips. Returns what had no place in the format, and for how many samples."""
    samples, root, left = list(samples), Path(path), Counter()
    for folder in ("videos", "metas"):
        fresh(root / folder)
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
        if not isinstance(parse_json(label), dict):
            raise DataError("the answer is not a JSON object, so it is no label")
        store(Path(video), root / "videos" / f"{sample.id}{video_suffix}")
        place = root / "metas" / f"{sample.id}{label_suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(label + "\n", encoding="utf-8")
        lost = {"answer": sample.answer, "options": sample.options, "label": sample.label, "extra": sample.extra}
        lost |= {"system": sample.messages[0]["role"] == "system", "group": sample.group != sample.id}
        left.update([name for name, value in lost.items() if value] + sorted(limits_of(sample)))
        return {}

    rows_of(samples, one, problems)
    return left
