"""Command line: `python -m cookbook.evaluation score FILE`."""

import sys

from cookbook.evaluation.predict import main

if __name__ == "__main__":
    sys.exit(main())
