"""NVIDIA's SFT dataset: rows with `video` and `conversations`, whose turns are plain text.

Why: `nvidia/Cosmos-Reason1-SFT-Dataset` is what the guide trains on by default, and a good layout for data of your own:
SUBSET/SUBSET_SPLIT.json with the clips in SUBSET/clips. The clip belongs to the first question.

    read("nvidia/Cosmos-Reason1-SFT-Dataset", subset="robovqa", split="understanding")
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from cookbook.data.samples import MEDIA, DataError, Sample
from data_tools.formats import hub
from data_tools.formats.sink import Shelf, fresh, limits_of, make_rows, merged, tagged, write_json, write_text
from data_tools.formats.source import Find, Names, Place, Problems, conversation, make_sample, safe_id, shown, skipping

TURNS = "conversations"


def read(
    path: Place, problems: Problems | None = None, *, subset: str = "", split: Names = None, clips: Place | None = None
) -> list[Sample]:
    """Returns one sample a row, of a folder, a file or a dataset of the hub.

    `clips` is the folder of the clips, where it is neither the dataset's own nor the engine's cache (COSMOS_CACHE).
    """
    find, samples = hub.Clips(path, subset, clips), []
    for name, place, row in hub.rows(path, subset, split, problems):
        with skipping(problems, place):
            samples.append(_sample(row, name, find))
    return samples


def _sample(row: dict[str, Any], name: str, find: Find) -> Sample:
    turns = row.get(TURNS)
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns):
        raise DataError(f"{TURNS} is not a list of turns with text")
    part, group = media_part(row, find)
    messages = conversation(turns, find)
    asks = next(i for i, m in enumerate(messages) if m["role"] == "user")
    messages[asks]["content"].insert(0, part)
    return make_sample(row, messages, name, group, {TURNS, part["type"]})


def media_part(row: dict[str, Any], find: Find) -> tuple[dict[str, str], str]:
    """Returns the part of a message that shows the row's clip or image, and its name without the suffix."""
    kinds = [kind for kind in MEDIA if row.get(kind)]
    if len(kinds) != 1 or not isinstance(row[kinds[0]], str):
        raise DataError("names no video and no image" if not kinds else f"{kinds[0]} is not the name of one file")
    (kind,) = kinds
    return {"type": kind, kind: str(find(row[kind]))}, PurePosixPath(row[kind]).with_suffix("").as_posix()


def write(
    samples: Iterable[Sample],
    path: Place,
    problems: Problems | None = None,
    *,
    subset: str = "data",
    split: str = "train",
) -> Counter[str]:
    """Write conversations about one clip each. Returns what had no place in the format, and for how many samples."""

    def one(sample: Sample, kind: str, turns: list[dict]) -> dict:
        return tagged(sample, {kind: "", TURNS: turns})

    return write_rows(samples, Path(path), problems, f"{subset}/{subset}_{split}.json", split, one)


def write_rows(
    samples: Iterable[Sample], home: Path, problems: Problems | None, file: str, split: str, one: Callable
) -> Counter[str]:
    """Write a subset of one split: its rows, its clips, and the card from which `datasets` knows it.

    `one(sample, kind of media, turns as text)` makes a row; the clip's name is filled in here.
    """
    place, left = home / file, Counter()
    safe_id(place.parent.name), safe_id(place.name)
    shelf = Shelf(fresh(place.parent), {"video": "clips", "image": "clips"})

    def row(sample: Sample) -> dict:
        clip, turns = only_clip(sample)
        kind = clip["type"]
        made = one(sample, kind, turns)
        left.update(sorted(limits_of(sample)))
        return made | {kind: shelf.put(Path(clip[kind]), kind)}

    write_json(place, make_rows(samples, row, problems))
    card = {"config_name": place.parent.name, "data_files": [{"split": split, "path": file}]}
    if not (home / "README.md").exists():
        words = yaml.safe_dump({"configs": [card]}, sort_keys=False, allow_unicode=True)
        write_text(home / "README.md", f"---\n{words}---\n")
    return left


def only_clip(sample: Sample) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Returns (clip, turns as text). Raises DataError where it is not one clip that opens the first question."""
    turns, clips = [], []
    for turn in sample.messages:
        parts = merged(turn["content"])
        if turn["role"] == "user" and not any(t["role"] == "user" for t in turns) and parts[0]["type"] in MEDIA:
            clips.append(parts.pop(0))
        if [part["type"] for part in parts] != ["text"]:
            raise DataError(f"the {turn['role']} turn is not one text; here one clip opens the first question")
        turns.append({"role": turn["role"], "content": parts[0]["text"]})
    if not clips:
        raise DataError(f"shows no clip before its first question ({shown(turns[0]['content'])!r})")
    return clips[0], turns
