"""Examine this machine from the command line: one check a line; exit 1 where not even the tiny run is possible.

python -m cookbook.doctor
python -m cookbook.doctor --json
"""

import argparse
import json
import sys
from dataclasses import asdict

from cookbook.doctor import examine


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cookbook.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args, found = parser.parse_args(arguments), examine()
    plain = {"ok": found.ok, "checks": [*map(asdict, found.checks)], "can_run": [*map(asdict, found.abilities)]}
    print(json.dumps(plain, indent=1) if args.json else found)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
