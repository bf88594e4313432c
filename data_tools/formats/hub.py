"""Rows and clips of NVIDIA's datasets, as they lie on the Hugging Face hub, in its cache, or in a folder of yours.

Why: the annotations are JSON or parquet (`robovqa/robovqa_understanding.json`), the clips are archives beside them
(`robovqa/clips.tar.gz`), and the engine unpacks those to `$COSMOS_CACHE/datasets/NAME/SUBSET/video_clips`. A row gives
only the name of its clip. `hf_sft` and `hf_rl` read through this file.
"""

import csv
import os
import re
import tarfile
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from cookbook.data.samples import DataError
from cookbook.engine.failures import FAILURES, failure_kind
from data_tools.formats.source import PASSPORT, Names, Place, Problems, inside, read_rows, shown, skipping

ROWS = (".json", ".jsonl", ".parquet")
TABLES = {".csv": "CSV", ".parquet": "parquet"}
CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".jpg", ".jpeg", ".png")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(path: Place) -> bool:
    """Whether this names a dataset of the hub (owner/name) and not a file or folder of this machine."""
    return not Path(path).exists() and HUB_NAME.fullmatch(str(path)) is not None


def cache_folder(name: Place, subset: str | None) -> Path:
    """Returns where cosmos-rl keeps the unpacked clips of a dataset: by the last two parts of its name."""
    home = os.environ.get("COSMOS_CACHE") or "~/.cache/cosmos"
    if not subset and not is_hub_name(name) and (place := rows_folder(Path(name), None)) != Path(name):
        subset = place.name  # the only one that there is
    return Path(home, "datasets", *Path(name).parts[-2:], subset or "", "video_clips").expanduser()


def rows(
    path: Place, subset: str | None, split: Names, problems: Problems | None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields (id, file and row, row) of the wanted splits, all where none is named; the id is SPLIT-NUMBER.

    Raises DataError where the path, the subset or a split is not there, naming those that are.
    """
    wanted, counts = {split} if isinstance(split, str) else set(split or ()), Counter()
    for part, named in _hub_tables(str(path), subset) if is_hub_name(path) else _tables(Path(path), subset, problems):
        counts[part] += 0  # it is there, though nobody may want its rows read
        for name, row in named if not wanted or part in wanted else ():
            with skipping(problems, name):
                if not isinstance(row, dict):
                    raise DataError(f"is not a row with columns, but {type(row).__name__}")
                yield f"{part}-{counts[part]:06d}", name, row
            counts[part] += 1
    if missing := wanted - counts.keys():
        there = ", ".join(sorted(counts)) or "no rows at all"
        raise DataError(f"{path}: has no rows of the split {', '.join(sorted(missing))}; it has {there}")


def _hub_tables(name: str, subset: str | None) -> Iterator[tuple[str, Iterable]]:
    import datasets  # takes a second, and only the hub needs it

    try:
        loaded = datasets.load_dataset(name, subset or None)
    except Exception as error:  # the library raises its own errors, the network's and the file formats'
        raise _unreachable(name, error) from None
    for split, table in loaded.items():
        yield split, ((f"{name} {split}[{number}]", without_nulls(row)) for number, row in enumerate(table))


def _tables(path: Path, subset: str | None, problems: Problems | None) -> Iterator[tuple[str, Iterable]]:
    place = rows_folder(path, subset)
    folder, files = (place.parent, [place]) if place.is_file() else (place, data_files(place))
    for file in files:
        yield split_name(file, subset or folder.name), file_rows(file, problems)


def file_rows(file: Path, problems: Problems | None, first: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields (name of the row, row) of a .csv, .parquet, .jsonl or .json file; those of tables count from `first`."""
    if (suffix := file.suffix.lower()) not in TABLES:
        yield from read_rows(file, problems)
        return
    import pyarrow

    with skipping(problems, file.name):
        try:
            yield from ((f"{file.name}, row {number}", row) for number, row in enumerate(_table_rows(file), first))
        except (OSError, UnicodeError, csv.Error, pyarrow.ArrowException) as error:
            raise DataError(f"cannot be read as {TABLES[suffix]} ({shown(error)})") from None


def _table_rows(file: Path) -> Iterator[dict]:
    if file.suffix.lower() == ".csv":
        with file.open(newline="", encoding="utf-8-sig") as lines:
            yield from csv.DictReader(lines)
        return
    from pyarrow import parquet

    for batch in parquet.ParquetFile(file).iter_batches(batch_size=1000):
        yield from map(without_nulls, batch.to_pylist())


def rows_folder(path: Path, subset: str | None) -> Path:
    """Returns the folder (or file) that holds the rows: the subset's, or the only one that there is."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_file() or (not subset and data_files(path)):
        return path
    if subset and (path / subset).is_dir():
        return path / subset
    there = sorted(child.name for child in path.iterdir() if child.is_dir() and data_files(child))
    if subset or len(there) != 1:
        raise DataError(f"{path}: name a subset; it has {', '.join(there) or 'none'}")
    return path / there[0]


def data_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that may hold rows, sorted."""
    found = (f for f in folder.iterdir() if f.suffix.lower() in ROWS and f.is_file())
    return sorted(f for f in found if not f.name.startswith(".") and f.name != PASSPORT)


def split_name(file: Path, subset: str) -> str:
    """Returns the split that a file belongs to: robovqa_rl_qa_pairs.json is rl, robovqa_reasoning_3.json reasoning."""
    name = file.stem.removeprefix(f"{subset}_").removesuffix("_qa_pairs")
    return re.sub(r"[-_]\d+(-of-\d+)?$", "", name) or "train"


def without_nulls(value: Any) -> Any:
    """Returns a row without the empty fields: a table gives every row the columns, and every choice, of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(v) for key, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


class Clips:
    """Finds the clips of a dataset by the name that a row gives, below any of its folders."""

    def __init__(self, path: Place, subset: str | None, clips: Place | None = None) -> None:
        """`clips` is the folder of the clips, where it is not the cache's or the dataset's own."""
        own = [] if is_hub_name(path) else [rows_folder(Path(path), subset)]
        own = [folder.parent if folder.is_file() else folder for folder in own]
        self.folders = [Path(clips)] if clips else [cache_folder(path, subset), *own]

    def __call__(self, name: str) -> Path:
        """Returns the clip's file. Raises DataError where it is missing, ambiguous, or outside by a link."""
        base = Path(name).name
        for folder, index in zip(self.folders, self._indexes):
            found = index.get(name) or index.get(base) or index.get(_bare(base)) or []
            if len(found) == 1:
                return inside(folder, found[0])
            if found:
                raise DataError(f"{len(found)} clips are named {shown(base)} below {folder}; rename them")
        raise DataError(f"no clip named {shown(base)} below {' or '.join(map(str, self.folders))}")

    @cached_property
    def _indexes(self) -> list[dict[str, list[str]]]:
        """{name: paths} of each folder: by path, by file name, and by that up to its first dot (clips of `av`)."""
        return [_index(folder) for folder in self.folders]


def _index(folder: Path) -> dict[str, list[str]]:
    index: dict[str, list[str]] = defaultdict(list)
    for root, _, files in os.walk(folder):
        for file in files:
            if file.lower().endswith(CLIPS):
                path = Path(root, file).relative_to(folder).as_posix()
                for name in {path, file, _bare(file)}:
                    index[name].append(path)
    return index


def _bare(name: str) -> str:
    return name.split(".")[0] + Path(name).suffix


def unpack_clips(name: Place, subset: str | None) -> Path:
    """Unpack the clips of a dataset into the engine's cache, once, whichever of its processes comes first.

    Returns the folder. Archives lie beside the rows of a local folder; the hub's are downloaded. A local folder without
    archives has its clips unpacked already: nothing is done.
    """
    folder = cache_folder(name, subset)
    done = folder / ".prepared"  # the engine's own mark, so neither unpacks what the other has
    local = None if is_hub_name(name) else rows_folder(Path(name), subset)
    if done.exists() or (local and not _archives(local)):
        return folder
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "prepare.lock"):
        if not done.exists():
            for archive in _archives(local or _archives_of(str(name), subset)):
                extract(archive, folder)  # goes over what a broken-off run has left
            done.touch()
    return folder


def extract(archive: Path, out: Path) -> None:
    """Unpack a .tar.gz into a folder, over files of the same name; all of it, or nothing.

    Why so careful: an archive is a list of file names that a stranger wrote. Raises DataError that names the archive
    where it is damaged, or holds anything but plain files and folders below its root.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError(f"{archive}: this Python unpacks without a check; take 3.10.12, 3.11.4, 3.12 or newer")

    def plain(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo:
        if not (member.isfile() or member.isdir()) or member.name.startswith("/"):  # even a link inside may trick
            raise DataError(f"{archive}: {member.name!r} is a link, a device or an absolute path; pack plain files")
        return tarfile.data_filter(member, place)

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unpacking-") as spare:  # an error on the way leaves nothing
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(spare, filter=plain)
                while tar.fileobj.read(1 << 20):  # the checksum stands behind the last file
                    pass
            files = {f: out / f.relative_to(spare) for f in Path(spare).rglob("*") if f.is_file()}
            if led_out := [p for p in files.values() if not p.parent.resolve().is_relative_to(out.resolve())]:
                raise DataError(f"{archive}: {led_out[0]} leaves the folder by a link")
            for file, place in files.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error})") from None


def _archives(folder: Path) -> list[Path]:
    return sorted([*folder.glob("clips*.tar.gz"), *folder.glob("clips/*.tar.gz")]) if folder.is_dir() else []


def _archives_of(name: str, subset: str | None) -> Path:
    where = f"{subset}/" if subset else ""
    return snapshot(name, [f"{where}clips*.tar.gz", f"{where}clips/*.tar.gz"]) / (subset or "")


def snapshot(name: str, patterns: list[str], folder: Path | None = None) -> Path:
    """Returns where those files of a dataset of the hub lie: downloaded into the folder, or else into the hub's cache.

    What is there is not fetched again. The token is that of the environment, HF_TOKEN, or of `hf auth login`.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns, local_dir=folder))
    except OSError as error:  # no network, no login, no such dataset: the hub's own errors are all of this type
        raise _unreachable(name, error) from None


def _unreachable(name: str, error: Exception) -> DataError:
    """Returns what to raise where a dataset of the hub cannot be had, with what helps where the kind is known."""
    told = f"{name}: cannot be loaded from the hub ({type(error).__name__}: {shown(error)})"
    kind = failure_kind(f"{type(error).__name__}: {error}", "")  # one table of what to do, the engine's
    return DataError(f"{told}\nWhat helps ({kind}): {FAILURES[kind][1]}" if kind else told)
