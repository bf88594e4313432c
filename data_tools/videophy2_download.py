"""Fetch VideoPhy-2: the rows of both splits from the hub, and their clips, each under the name of its address.

Why: named by row number, as in the published recipe, a clip that is there already is taken for another row's as soon as
the rows have been balanced. Named by its address it can only be its own; a download that broke off goes on.

    python -m data_tools.videophy2_download FOLDER              # train.jsonl, test.jsonl, videos/
    python -m data_tools.videophy2_download train.csv CLIPS     # the clips of rows that you have

Leaves NAME-HASH.mp4 in FOLDER/videos or CLIPS and prints what could not be fetched; exit code 1 where that is anything.
Where the hub asks for a login, that of `hf auth login` or HF_TOKEN is used.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from cookbook.data.samples import DataError
from cookbook.display.progress import progress
from data_tools.formats.hub import file_rows, rows
from data_tools.formats.source import Problems, shown
from data_tools.videophy2 import clip_name, split_file

HUB = {"train": "videophysics/videophy2_train", "test": "videophysics/videophy2_test"}
AGENT = {"User-Agent": "Mozilla/5.0"}  # some hosts refuse Python's own name
SECONDS = 60


def fetch(url: str, folder: Path) -> str | None:
    """Fetch one clip, unless it is there. Returns why it could not be, None where it is there now."""
    place = folder / clip_name(url)
    if place.is_file():
        return None
    part = place.with_suffix(".part")
    try:
        with requests.get(url, headers=AGENT, timeout=SECONDS, stream=True) as answer, part.open("wb") as file:
            answer.raise_for_status()
            file.writelines(answer.iter_content(1 << 20))
    except (OSError, ValueError) as error:  # no such host, no such page, no address at all, less than was announced
        part.unlink(missing_ok=True)
        return shown(error)
    part.replace(place)
    return None


def addresses(path: Path, problems: Problems) -> list[str]:
    """Returns each address of the rows once, in their order; rows without one go into `problems`."""
    found = {}
    for name, row in file_rows(path, problems, 1):
        url = row.get("video_url") if isinstance(row, dict) else None
        if isinstance(url, str) and url.strip().startswith(("https://", "http://")):
            found[url.strip()] = None
        else:
            problems.append((name, "has no video_url that begins with https://"))
    return list(found)


def download(urls: Sequence[str], folder: Path, workers: int = 8) -> Problems:
    """Fetch all clips, several at a time. Returns (address, reason) of those that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda url: fetch(url, folder), urls)
        return [(url, why) for url, why in zip(progress(urls, "clips"), done) if why]


def fetch_rows(folder: Path) -> list[Path]:
    """Returns the file of each split in a folder; one that is not there comes from the hub. Raises DataError."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in HUB.items():
        if not split_file(folder, split):
            part = folder / f"{split}.part"
            with part.open("w", encoding="utf-8") as file:
                for _, _, row in rows(name, None, None, None):
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            part.replace(part.with_suffix(".jsonl"))
    return [split_file(folder, split) for split in HUB]


def fetch_missing(folder: Path, workers: int = 8) -> tuple[int, Problems]:
    """Fetch what a folder lacks of VideoPhy-2. Returns (addresses of its rows, what could not be fetched)."""
    files, problems = fetch_rows(folder), []
    urls = list(dict.fromkeys(url for file in files for url in addresses(file, problems)))
    return len(urls), problems + download(urls, folder / "videos", workers)


def main() -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, metavar="FOLDER|ROWS", help="of all; or a file of rows, with CLIPS")
    parser.add_argument("clips", type=Path, nargs="?", metavar="CLIPS", help="the folder for the clips of those rows")
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args()
    if not args.clips and args.place.is_file():
        parser.error(f"{args.place} is a file of rows; name the folder for its clips as well")
    try:
        if args.clips:
            urls = addresses(args.place, problems := [])
            count, problems = len(urls), problems + download(urls, args.clips, args.workers)
        else:
            count, problems = fetch_missing(args.place, args.workers)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count} addresses, {len(problems)} problems", *(f"{name}: {why}" for name, why in problems), sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
