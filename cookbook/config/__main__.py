"""Check, compare and plan configurations from the command line.

python -m cookbook.config lint configs/*.toml
python -m cookbook.config diff configs/sft.toml configs/avha_sft.toml
python -m cookbook.config plan configs/sft.toml --gpus 4 --gpu-gib 80 --samples 10000 --tokens 2000 --json
"""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from cookbook.config import Config, ConfigError, difference, lint, plan
from cookbook.config.patterns import hits
from cookbook.config.speed import PEAK_TFLOPS
from cookbook.display.terminal import command_parser
from cookbook.training.rewards import check_parts

TOKENS = "of the longest sample: prompt with clip and, but in RL, answer; `longest` in the data notebook's passport"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("cookbook.config", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("lint", help="one finding a line, and exit 1 where there is any; a note is none")
    check.add_argument("files", nargs="+", type=Path)
    check.add_argument("--gpus", type=int, help="visible GPUs of one node")
    check.add_argument("--samples", type=int, help="items in the training set")
    check.add_argument("--tokens", type=int, help=TOKENS)
    compare = commands.add_parser("diff", help="default | custom | why, as Markdown")
    compare.add_argument("default", type=Path)
    compare.add_argument("custom", type=Path)
    book = commands.add_parser("plan", help="memory, steps, hours, disk; exit 1 where it does not fit")
    book.add_argument("file", type=Path)
    for name, kind in {"--gpus": int, "--gpu-gib": float, "--samples": int, "--tokens": int}.items():
        book.add_argument(name, type=kind, required=True, help=TOKENS if name == "--tokens" else None)
    book.add_argument("--gpu", choices=PEAK_TFLOPS, default="H200", help="whose speed to take (default H200)")
    book.add_argument("--steps", type=int, help="stop after so many: train.max_num_steps")
    book.add_argument("--json", action="store_true")
    return parser


def _lint(path: Path, **known: int | None) -> list[str]:
    """Returns what is wrong with a file, a line each; prints as notes what its patterns hit."""
    try:
        found = lint(config := Config.read(path), **known)
    except (ConfigError, OSError) as error:
        return [str(error)]
    if config.kind == "grpo" and not any(f.key.startswith(("train.train_policy", "rollout")) for f in found):
        found += check_parts(config, engine=True)
    with suppress(ValueError, OSError):  # stands among the findings
        for key, pattern, names in hits(config):
            if names:
                print(f"note: {path}:{config.line(key)}: {key}: {pattern!r} hits {len(names)}, the first {names[0]}")
    return [f"{path}:{finding}" + ("" if finding.level == "error" else f" ({finding.level})") for finding in found]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = vars(_parser().parse_args(arguments))
    command, as_json = args.pop("command"), args.pop("json", False)
    if command == "lint":
        found = {path: _lint(path, **args) for path in args.pop("files")}
        print(*(line for path, lines in found.items() for line in lines or [f"{path}: nothing to mend"]), sep="\n")
        if args["tokens"] is None and not all(found.values()):
            print("note: lengths are not checked: --tokens, of the longest sample, is not given")
        return int(any(found.values()))
    try:
        if command == "diff":
            print(difference(Config.read(args["default"]), Config.read(args["custom"])).markdown())
            return 0
        config, steps = Config.read(args.pop("file")), args.pop("steps")
        found = plan(config if steps is None else config.edit({"train.max_num_steps": steps}), **args)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    plain = {name: round(value, 2) if isinstance(value, float) else value for name, value in vars(found).items()}
    print(json.dumps(plain, indent=2) if as_json else found)
    return 0 if found.fits else 1


if __name__ == "__main__":
    sys.exit(main())
