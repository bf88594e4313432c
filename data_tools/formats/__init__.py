"""Every dataset format of the guide and its recipes, read into samples and written from them.

Why: each format says the same in its own way. With samples between them, any can become any other, and checking,
splitting and balancing are written once.

    source          what all readers share: safe names, files inside their folder, problems that are told
    sink            what all writers share: nothing overwritten, each clip stored once
    hub             rows and clips of the Hugging Face hub, its cache, or a folder in its layout
    av_folder       the guide's folder: videos/ and metas/
    hf_sft, hf_rl   NVIDIA's datasets: written answers; questions with the right letter (and the benchmark)
    llava           LLaVA JSON
    saved           folders of `datasets.save_to_disk`
    samples_jsonl   the project's own file

    samples = read("data/train", problems=(bad := []))     # the format is recognised; bad rows are told, not lost
    write(samples, "data/train_llava", "llava")

    python -m data_tools.convert data/train data/train_llava --to llava
"""

import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cookbook.data.samples import DataError, Sample
from data_tools.formats import av_folder, hf_rl, hf_sft, hub, llava, samples_jsonl, saved
from data_tools.formats.sink import alone
from data_tools.formats.source import LENIENT, Place, Problems, read_text, shown, skipping

FORMATS = {m.__name__.rpartition(".")[2]: m for m in (av_folder, hf_sft, hf_rl, llava, saved, samples_jsonl)}
BY_FILE = ("hf_sft", "hf_rl")  # formats that keep splits in files of one folder, and that the hub has
ONE_FILE = ("llava", "samples_jsonl")  # a split is a folder, or a file of its name
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev", "eval"), "test": ("test",)}
EXAMPLE = '{"video": "clips/a.mp4", "question": "What falls?", "answer": "Rain."}'
HEAD = 1 << 20  # characters of a JSON file that are looked at; its first item is in them


def detect(path: Place) -> str:
    """Returns the name of the format. Raises DataError that says what was looked for and what was found."""
    if hub.is_hub_name(path):
        return "hf_rl" if any(word in str(path) for word in ("RL-Dataset", "Benchmark")) else "hf_sft"
    place = Path(path)
    if not place.exists():
        raise DataError(f"{path}: no such file, folder or dataset of the hub")
    if place.is_dir():
        if (place / "videos").is_dir() and (place / "metas").is_dir():
            return "av_folder"
        if any((place / mark).is_file() for mark in saved.MARKS):
            return "saved"
        if (place / samples_jsonl.FILE).is_file():
            return "samples_jsonl"
    why = ""
    for file in _candidates(place):
        try:
            return _by_first_item(file)
        except DataError as error:
            why = why or f"; {shown(file.name)} {error}"
    below = sorted(child.name for child in place.iterdir()) if place.is_dir() else [place.name]
    if table := next((name for name in below if name.lower().endswith(".csv")), ""):
        helps = "data_tools/videophy2.py reads one, and `--check` of it looks at the data; else write JSON lines"
        why = f"; {shown(table)} is a table, and no format: {helps}"
    raise DataError(
        f"{path}: no format is recognised. Looked for videos/ with metas/; {' or '.join(saved.MARKS)}; "
        f"{samples_jsonl.FILE}; .json, .jsonl or .parquet with conversations or qa_pairs. "
        f"Found {shown(', '.join(below[:10]) or 'an empty folder')}{why}. Name one of its folders, or the format. "
        f"A file that is taken has such lines: {EXAMPLE}"
    )


def _candidates(place: Path) -> list[Path]:
    """Returns the files whose first item tells the format, those of train first.

    Of the folder, else of its folders (subsets of the hub).
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: is neither a file nor a folder; name one of the two")
    below = [child for child in sorted(place.iterdir()) if child.is_dir()]
    files = hub.data_files(place) or [file for folder in below for file in hub.data_files(folder)]
    return sorted(files, key=lambda file: not {file.stem.lower(), file.parent.name.lower()} & {*SPLITS["train"]})


def _by_first_item(file: Path) -> str:
    """Returns the format that a file's first item has. Raises DataError that says what is there instead."""
    item = _first_item(file)
    turns = item.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return "llava" if "from" in turns[0] else "hf_sft"
    if isinstance(turns, list) and file.suffix.lower() != ".parquet":
        return "llava"  # whose reader says what is wrong with this item, and takes the others
    if item.keys() >= samples_jsonl.NEEDED:
        return "samples_jsonl"
    if hf_rl.PAIRS in item:
        return "hf_rl"
    if "question" in item and item.keys() & {key for keys in llava.MEDIA_KEYS.values() for key in keys}:
        return "llava"
    raise DataError(f"begins with an item of the fields {shown(', '.join(map(str, item)))}")


def _first_item(file: Path) -> dict[str, Any]:
    """Returns the first item of a JSON list, JSON lines or parquet file. Raises DataError where that cannot be told."""
    if file.suffix.lower() == ".parquet":
        return next((row for _, row in hub.file_rows(file, [])), {})
    head = read_text(file, HEAD).strip()
    if not head or head.removeprefix("[").lstrip().startswith("]"):
        raise DataError("is empty")
    try:
        item, _ = LENIENT.raw_decode(head.removeprefix("[").lstrip())
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON ({shown(error)})") from None
    if not isinstance(item, dict):
        raise DataError(f"begins with {type(item).__name__}, not with an item with fields")
    return item


def home(place: Place, split: str, format: str, subset: str = "") -> tuple[Path, dict[str, str]] | None:
    """Returns where a split of a local dataset lies, by its usual names, and what `read` wants besides; None for none.

    It is a file, or a folder; a folder without rows, or beside a file of the name, holds the clips. Formats that have
    splits in files of one folder want the split's own name. Raises DataError where two could be meant.
    """
    place, names = Path(place), SPLITS.get(split, (split.lower(),))
    if not place.is_dir():
        return None
    by_file, single = format in BY_FILE, format in ONE_FILE + BY_FILE
    root = place / subset if by_file else place
    rows = [f for f in hub.data_files(root) if by_file or f.suffix.lower() != ".parquet"] if root.is_dir() else []
    parts = {f: hub.split_name(f, root.name) if by_file else f.stem for f in rows if single}
    files = {part if by_file else f.name for f, part in parts.items() if part.lower() in names}
    folders = {d.name for d in place.iterdir() if d.name.lower() in names and d.is_dir()}
    folders = {name for name in folders if not single or hub.data_files(place / name)}
    if len(found := sorted(files or folders)) > 1:
        raise DataError(f"{place}: {' and '.join(found)} could each be its split {split}; keep one of them")
    if not found:
        return None
    return (place, {"split": found[0]}) if files and by_file else (place / found[0], {})


def read(path: Place, format: str | None = None, problems: Problems | None = None, **options: Any) -> list[Sample]:
    """Returns the samples of a dataset, in its order; `options` are those of the format's own `read`.

    Bad rows and files raise DataError, or go into `problems` as (name, reason) where that list is given. Rows that
    share an id, as where it names the clip, are told apart: v0, v0-2, v0-3; the same row again is a problem.
    """
    return _told_apart(_module(format or detect(path)).read(path, problems, **options), problems)


def _told_apart(samples: list[Sample], problems: Problems | None) -> list[Sample]:
    counts = Counter(sample.id for sample in samples)
    kept, rows, numbers = [], set(), Counter()
    for sample in samples:
        if counts[sample.id] > 1:
            with skipping(problems, name := sample.id):
                if (row := (name, repr((sample.messages, sample.answer, sample.options)))) in rows:
                    raise DataError("the same row, under the same id, stands there more than once; leave it out")
                rows.add(row)
                numbers[name] += 1
                while numbers[name] > 1 and f"{name}-{numbers[name]}" in counts:  # the id of another row
                    numbers[name] += 1
                kept.append(replace(sample, id=f"{name}-{numbers[name]}") if numbers[name] > 1 else sample)
        else:
            kept.append(sample)
    return kept


def write(
    samples: Iterable[Sample], path: Place, format: str, problems: Problems | None = None, **options: Any
) -> Counter[str]:
    """Write a dataset, with its clips. Returns what had no place in the format, and for how many samples.

    A sample that the format cannot hold raises DataError, or goes into `problems`. Nothing is ever overwritten, and
    one process at a time writes into a folder. Raises RunError on a full disk.
    """
    with alone(Path(path).parent if Path(path).suffix in (".json", ".jsonl") else Path(path)):
        return _module(format).write(samples, path, problems, **options)


def _module(name: str) -> Any:
    if name not in FORMATS:
        raise DataError(f"unknown format {name!r}; the formats are {', '.join(FORMATS)}")
    return FORMATS[name]


def stated_options(name: str, media: Place | None = None, subset: str | None = None) -> dict[str, Any]:
    """Returns the options of a format's `read` that are stated. Raises DataError for one that it lacks."""
    known = inspect.signature(_module(name).read).parameters
    stated = {"clips" if "clips" in known else "media": media, "subset": subset}
    options = {option: value for option, value in stated.items() if value is not None}
    if unknown := options.keys() - known.keys():
        raise DataError(f"the format {name} takes no {' or '.join(sorted(unknown))}")
    return options
