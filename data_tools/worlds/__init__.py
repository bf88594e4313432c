"""The toy worlds: seeded scripts that draw clips whose right answers are certain, in the layouts of real datasets.

Why: nobody can check labels that a person guessed. What all worlds share stands here: their command line, and the stamp
that says what a folder was made from. A split draws from its own random stream: its size leaves the others as they are.

    drawing          boxes and discs on frames, frames into mp4
    road             a junction, in the guide's layout; road_questions asks about it (the tutorial)
    falling          things that obey gravity or do not, in VideoPhy-2's layout
    junction         signals, weather and pedestrians, in WTS's layout
    drive            fifteen fields a clip, in the guide's layout
    warehouse        pallets and a shelf, in the PhysicalAI warehouse layout
    lanes            vehicles as boxes in space, seen by a camera, in the grounding recipe's layout

    python -m data_tools.worlds.road OUT --train 600 --validation 60 --test 200 --seed 0
"""

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


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


def build_world(
    out: str | Path,
    version: int,
    counts: Mapping[str, int],
    seed: int,
    write: Callable[[Path, str, int], str],
    **more: Any,
) -> Path:
    """Build a world, unless its folder holds exactly this one already. Returns the folder.

    `write(out, split, count)` makes one split and says what it holds; `more` is what else the clips depend on.
    Raises FileExistsError where the folder holds what no world has put there.
    """
    out, recipe = Path(out), {"seed": seed, "counts": dict(counts), **more, "version": version}
    stamp, begun = out / STAMP, out / BEGUN
    if stamp.exists() and json.loads(stamp.read_text()) == recipe:
        log.info("%s is up to date", out)
        return out
    if not stamp.exists() and not begun.exists() and out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty, and no world was ever built there: give another folder")
    for old in sorted(out.rglob("*"), reverse=True):
        old.rmdir() if old.is_dir() and not old.is_symlink() else old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(recipe))  # a build that is broken off must not pass for a whole one
    for split, count in counts.items():
        log.info("%s: %s", split, write(out, split, count))
    return begun.rename(stamp).parent
