"""Read a log of cosmos-rl and say how the run ended, whoever started it.

Why: a run that was started on a cluster without our launcher leaves a log, and an exit code that says nothing. The log
has the same tracebacks several times, in the order in which ranks died; here is the first one, with what helps.

    python -m cookbook.engine.diagnose engine.log     # exit 1 where the run did not end well
    print(diagnose("engine.log") or "ended well")
"""

import argparse
import sys
from pathlib import Path

from cookbook.engine.failures import EngineError
from cookbook.engine.log_lines import RunLog
from cookbook.engine.verdict import Reason, death, explain, read_log, shortfall


def diagnose(file: str | Path) -> EngineError | None:
    """Returns the error that our launcher would have raised; None for a run that reached and exported its last step.

    A run that was told not to export anything counts as one that did not. Raises OSError where there is no such log.
    """
    log = RunLog()
    for line in read_log(Path(file)):
        log.take(line)
    problem = death(log) or shortfall(log, "the log ends")
    if not problem and log.exported.isdisjoint({f"step_{log.step.total}", "final"}):  # older engines say "final"
        problem = Reason("export", "the last step was never exported")
    return explain(problem, Path(file), log) if problem else None


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a run that did not end well, 2 without a log."""
    parser = argparse.ArgumentParser(prog="python -m cookbook.engine.diagnose", description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="what cosmos-rl printed, all ranks in one file")
    try:
        found = diagnose(parser.parse_args(arguments).log)
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    print(found or "the run reached its last step, and exported it")
    return int(found is not None)


if __name__ == "__main__":
    sys.exit(main())
