"""Convert a dataset from any format to any other; on the way take a part of it, balance it, and split it by clip.

Why: data comes in one format and the next tool wants another. Clips are linked or copied into the new folder, so it can
be moved as it is; the source is never changed, and nothing that exists is overwritten.

    python -m data_tools.convert data/train data/train_llava --to llava
    python -m data_tools.convert annotations.json out --to samples_jsonl --media train2017 \\
        --subset "[:1000]" --balance category --split train=0.8,validation=0.1,test=0.1 --seed 0

With --split the parts are datasets of their own: OUT/train, OUT/validation, OUT/test.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cookbook.data.samples import DataError
from data_tools import formats
from data_tools.formats.source import Problems
from data_tools.loading.splits import Balanced, balance, clusters, label_by, split_by_clip, subset

MOST_PROBLEMS = 20  # problems that are printed; the rest is counted


@dataclass
class Conversion:
    """What was read and written, what was wrong, and what had no place in the new format."""

    source: str
    read: int = 0
    balanced: Balanced | None = None
    written: dict[str, tuple[int, int]] = field(default_factory=dict)  # folder -> (samples, clips)
    left: Counter[str] = field(default_factory=Counter)
    problems: Problems = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"read {self.read} samples as {self.source}"]
        lines += [f"balanced: {line}" for line in str(self.balanced).splitlines()] if self.balanced else []
        lines += [f"wrote {n} samples of {clips} clips to {out}" for out, (n, clips) in self.written.items()]
        lines += [f"left out: {name} of {n} samples (no place in this format)" for name, n in sorted(self.left.items())]
        lines += [f"problems: {len(self.problems)}"] if self.problems else []
        lines += [f"  {name}: {reason}" for name, reason in self.problems[:MOST_PROBLEMS]]
        return "\n".join(lines + (["  …"] if len(self.problems) > MOST_PROBLEMS else []))


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    format: str | None = None,
    part: str | None = None,
    balance_by: str | None = None,
    shares: dict[str, float] | None = None,
    seed: int = 0,
    **options,
) -> Conversion:
    """Convert a dataset. Returns the report; `options` are those of the source's `read`.

    `balance_by` names a field, or is "" for the samples' own labels. Raises DataError where nothing can be read or
    written, and where `out` is there already; OSError or RunError on a full disk.
    """
    name = format or formats.detect(source)
    report = Conversion(name)
    samples = formats.read(source, name, report.problems, **options)
    report.read = len(samples)
    if not samples:
        reasons = "; ".join(f"{place}: {reason}" for place, reason in report.problems[:3])
        raise DataError(f"{source}: no sample can be read as {name}. {reasons}".rstrip())
    if part:
        samples = subset(samples, part)
    if balance_by is not None:
        report.balanced = balance(label_by(samples, balance_by) if balance_by else samples, seed)
        kept = {r.id for r in report.balanced.samples}
        samples = [r for r in samples if r.id in kept]  # as they were: a label that only counted here is not kept
    parts = split_by_clip(samples, shares, seed) if shares else {"": samples}
    for place, chosen in ((Path(out, name), part) for name, part in parts.items()):
        report.left += formats.write(chosen, place, to, lost := [])
        report.problems += lost
        skipped = {name for name, _ in lost}
        kept = [r for r in chosen if r.id not in skipped]
        report.written[str(place)] = len(kept), len(clusters(kept))
    return report


def read_shares(words: str) -> dict[str, float]:
    """Returns {"train": 0.8, "validation": 0.2} of the text "train=0.8,validation=0.2"."""
    try:
        return {name.strip(): float(share) for name, share in (part.split("=") for part in words.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{words!r} is not of the form train=0.8,validation=0.1,test=0.1") from None


def main(arguments: list[str] | None = None) -> int:
    """Command line. Returns 0, or 1 after one line on stderr where nothing could be written."""
    names = ", ".join(formats.FORMATS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder, a file, or a dataset of the Hugging Face hub")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--to", required=True, choices=formats.FORMATS, metavar="FORMAT", help=names)
    parser.add_argument("--from", dest="format", choices=formats.FORMATS, metavar="FORMAT", help="default: recognised")
    parser.add_argument("--media", help="the folder of the clips, where it is not the source's own")
    parser.add_argument("--hub-subset", metavar="NAME", help="the subset of a dataset with several: robovqa")
    parser.add_argument("--subset", dest="part", metavar="SLICE", help='a part only: "[:100]", "[10:20]", "[:10%%]"')
    parser.add_argument("--balance", nargs="?", const="", metavar="FIELD", help="as many of each label, or FIELD")
    parser.add_argument("--split", type=read_shares, metavar="NAME=SHARE,…", help="train=0.8,validation=0.1,test=0.1")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        name = args.format or formats.detect(args.source)
        how = {"part": args.part, "balance_by": args.balance, "shares": args.split, "seed": args.seed}
        options = formats.stated_options(name, args.media, args.hub_subset)
        report = convert(args.source, args.out, args.to, format=name, **how, **options)
    except (DataError, OSError, RuntimeError) as error:  # a place that cannot be read or written, a full disk
        print(f"convert: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
