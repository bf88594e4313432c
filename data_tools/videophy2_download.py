"""Fetch the clips of VideoPhy-2 rows, each under the name that belongs to its address.

Why: named by row number, as in the published recipe, a clip that is there already is taken for another row's as soon as
the rows have been balanced. Named by its address it can only be its own; a download that broke off goes on.

    python -m data_tools.videophy2_download train.csv CLIPS

Leaves CLIPS/NAME-HASH.mp4 and prints what could not be fetched; exit code 1 where that is anything.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from data_tools.formats.hub import file_rows
from data_tools.formats.source import Problems, shown
from data_tools.videophy2 import clip_name

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
        return [(url, why) for url, why in zip(urls, pool.map(lambda url: fetch(url, folder), urls)) if why]


def main() -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args()
    urls = addresses(args.rows, problems := [])
    problems += download(urls, args.clips, args.workers)
    print(f"{len(urls)} addresses, {len(problems)} problems", *(f"{name}: {why}" for name, why in problems), sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
