"""Command line: `python -m cookbook.checkpoint verify|lineage|merge`."""

import sys

from cookbook.checkpoint.verify import main

if __name__ == "__main__":
    sys.exit(main())
