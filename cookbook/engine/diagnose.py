"""Read a log of cosmos-rl and say how the run ended, whoever started it.

Why: a run that was started on a cluster without our launcher leaves a log, and an exit code that says nothing. The log
has the same tracebacks several times, in the order in which ranks died; here is the first one, with what helps.

    python -m cookbook.engine.diagnose engine.log     # exit 1 where the run did not end well
    print(diagnose("engine.log") or "ended well")
"""

import argparse
import math
import sys
from pathlib import Path

from cookbook.engine.failures import EngineError
from cookbook.engine.log_lines import DEAD, EXPORT, Step, parse_step
from cookbook.engine.verdict import explain, read_log
from cookbook.engine.watch import LOSSES, Reason


def diagnose(log: str | Path) -> EngineError | None:
    """Returns the error that our launcher would have raised; None for a run that reached and exported its last step.

    A run that was told not to export anything counts as one that did not. Raises OSError where there is no such log.
    """
    step, after, codes, exported = None, 0, [], set()
    for number, line in enumerate(read_log(Path(log)), start=1):
        if found := parse_step(line):
            step, after = found, number
        elif found := EXPORT.search(line):
            exported.add(Path(found[1]).name)
        elif found := DEAD.search(line):
            codes.append(found[1])
    problem = _problem(step, codes, exported)
    when = f"at step {step.number} of {step.total}" if step else "before the first step"
    return explain(problem, Path(log), after, when) if problem else None


def _problem(step: Step | None, codes: list[str], exported: set[str]) -> Reason | None:
    if codes:
        return Reason("worker", f"a process of the engine failed with return code {codes[0]}")
    if step is None or step.number < step.total:
        return Reason("unfinished", "the log ends before the last step")
    loss = next((step.values[name] for name in LOSSES if name in step.values), 0.0)
    if not math.isfinite(loss):
        return Reason("nan", f"the last step's loss is {loss}")
    if not exported & {f"step_{step.total}", "final"}:  # older engines call the last one "final"
        return Reason("export", "the last step was never exported")
    return None


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
