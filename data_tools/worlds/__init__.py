"""What all toy worlds share: their command line, and the stamp that says what a folder was made from.

python -m data_tools.worlds.road OUT --train 600 --validation 60 --test 200 --seed 0
"""

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command_line(about: str, counts: Mapping[str, int], **more: Mapping[str, Any]) -> argparse.Namespace:
    """Returns `out`, `counts` (clips by split, without splits of 0) and `seed`, as the shell states them.

    `about` is the help text, `counts` the splits with their defaults; `more` are other options, as `add_argument`
    takes them.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for split, count in counts.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="how many; 0 leaves the split out")
    parser.add_argument("--seed", type=int, default=0)
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.counts = {split: count for split in counts if (count := getattr(args, split))}
    return args


STAMP = "world.json"  # what the folder was made from; a folder without it is not whole
BEGUN = "world.json.part"


def begin(out: Path, recipe: Mapping[str, Any]) -> bool:
    """Returns whether the world of this recipe is to be built: False where the folder holds it, else it is empty now.

    Raises FileExistsError where it holds what no world has put there.
    """
    stamp = out / STAMP
    if stamp.exists() and json.loads(stamp.read_text()) == recipe:
        return False
    if not stamp.exists() and not (out / BEGUN).exists() and out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and no world was ever built there: give another folder")
    for old in sorted(out.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() and not old.is_symlink() else old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / BEGUN).write_text(json.dumps(recipe))  # a build that is broken off must not pass for a whole one
    return True


def finish(out: Path) -> Path:
    """Declare the world that was begun whole. Returns its folder."""
    return (out / BEGUN).rename(out / STAMP).parent
