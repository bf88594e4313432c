"""Command line: `python -m cookbook.checkpoint verify|lineage|merge`."""

import argparse
import json
import sys
from dataclasses import asdict

from cookbook.checkpoint.lineage import lineage, tree
from cookbook.checkpoint.merge import merge
from cookbook.checkpoint.verify import verify
from cookbook.runs import named


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 for a checkpoint with an error, 2 with one line for what cannot be read or merged."""
    parser = argparse.ArgumentParser(prog="python -m cookbook.checkpoint", description="Verify, trace, merge.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="one check a line; exit 1 where one is an error")
    check.add_argument("path")
    check.add_argument("--base", help="what training started from (default: what the run's manifest says)")
    check.add_argument("--json", action="store_true")
    trace = commands.add_parser("lineage", help="base, SFT, RL: what each step was made of")
    trace.add_argument("path")
    add = commands.add_parser("merge", help="write a LoRA adapter and its base as whole weights")
    add.add_argument("adapter")
    add.add_argument("out")
    add.add_argument("--base", help="folder or name of the base (default: the one that the adapter names)")
    args = parser.parse_args(arguments)
    try:
        if args.command != "verify":
            print(tree(lineage(args.path)) if "path" in args else named(merge(args.adapter, args.out, args.base)))
            return 0
        found = verify(args.path, args.base)
    except (OSError, ValueError, RuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    if found.checks[0].name == "folder" and not args.json:  # nothing there that could be verified
        print(found.checks[0].found, file=sys.stderr)
        return 2
    print(json.dumps({"ok": found.ok, **asdict(found)}, indent=1) if args.json else found)
    return int(not found.ok)


if __name__ == "__main__":
    sys.exit(main())
