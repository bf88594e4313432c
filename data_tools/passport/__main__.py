"""Write the passport of a dataset from the command line: one finding a line, exit 1 where there is an error.

python -m data_tools.passport FOLDER --out FOLDER/passport.json      # where the loaders look for it
python -m data_tools.passport FOLDER --max-length 4096 --model models/tiny-base
python -m data_tools.passport nvidia/Cosmos-Reason1-RL-Dataset --subset robovqa
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from cookbook.config.models import family_of
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.display.terminal import number_from
from cookbook.runs import ROOT, path
from data_tools import formats
from data_tools.formats import hub
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.passport.clips import CACHE
from data_tools.passport.dataset import format_of, passport, read_layout
from data_tools.passport.result import Passport

CONTRACT = "configs/prompts/[reason2_]captions.yaml"


def _parser() -> argparse.ArgumentParser:
    how = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m data_tools.passport", **how)
    parser.add_argument("folder", help="a folder or file of any format, with or without splits, or a name of the hub")
    parser.add_argument("--from", dest="format", choices=formats.FORMATS, metavar="FORMAT", help="default: recognised")
    parser.add_argument("--media", help="the folder of the clips, where it is not the dataset's own")
    parser.add_argument("--subset", help="of a dataset that has several: robovqa")
    parser.add_argument("--json", action="store_true", help="print the passport as JSON instead of the findings")
    parser.add_argument("--out", type=Path, help="write passport.json here too")
    parser.add_argument("--label", help="the field of the labels or rows whose balance is counted")
    parser.add_argument("--max-length", type=int, help="tokens; name every sample that would be cut (needs --model)")
    parser.add_argument("--model", help="the folder or name of the model whose tokenizer counts")
    parser.add_argument("--contract", type=Path, help=f"what the model sees (default {CONTRACT}, by --model)")
    parser.add_argument("--video-suffix", help=f"of the guide's layout (default {VIDEO_SUFFIX})")
    parser.add_argument("--label-suffix", help=f"of the guide's layout (default {LABEL_SUFFIX})")
    parser.add_argument(
        "--cache", type=Path, default=path(CACHE), help="where facts of clips are kept (default %(default)s)"
    )
    parser.add_argument("--workers", type=number_from(0), default=2)
    return parser


def _check(args: argparse.Namespace) -> Passport:
    count = None
    if args.out and args.out.is_dir():
        raise DataError(f"--out {args.out}: is a folder; name a file, such as {args.out / 'passport.json'}")
    if args.max_length is not None:
        if not args.model:
            raise DataError("--max-length needs --model, whose tokenizer counts; for example --model models/tiny-base")
        if not ((ROOT / args.model).exists() or Path(args.model).exists() or hub.HUB_NAME.fullmatch(args.model)):
            raise DataError(f"--model {args.model}: no such folder; name one, or a model of the hub (OWNER/NAME)")
        from data_tools.passport.tokens import token_counter  # needs transformers, which takes seconds to load

        stated = args.contract or ROOT / CONTRACT.replace(
            "[reason2_]", "reason2_" if family_of(args.model).stamped else ""
        )
        count = token_counter(args.model, Contract.load(stated))
    name, how = args.format or format_of(args.folder), {"cache": args.cache, "workers": args.workers}
    suffixes = {"video_suffix": args.video_suffix, "label_suffix": args.label_suffix}
    options = {key: said for key, said in suffixes.items() if said}
    if name != "av_folder":
        options = formats.stated_options(name, args.media, args.subset)
    layout = read_layout(args.folder, format=name, label=args.label, **options)
    return passport(layout, max_length=args.max_length, count_tokens=count, **how)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 without errors, 1 with, 2 where there is nothing to check."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        found = _check(args)
        if args.out:
            found.write(args.out)
    except (ValueError, OSError, RuntimeError) as error:  # a contract, a model, a place that cannot be read or written
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    usable, total = (sum(counts[key] for counts in found.counts.values()) for key in ("usable", "samples"))
    told = f"{len(found.errors)} errors, {len(found.findings) - len(found.errors)} warnings; {usable} of {total}"
    if args.json:
        print(json.dumps({"hash": found.hash} | found.as_dict(), indent=1))
    else:
        print(*found.findings, f"{told} samples usable; passport {found.hash}", sep="\n")
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
