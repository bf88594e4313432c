"""The command line that all toy worlds share: a folder, how many clips each split gets, a seed.

python -m data_tools.road_world OUT --train 600 --validation 60 --test 200 --seed 0
"""

import argparse
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
