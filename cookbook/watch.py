"""Alarms of a training run: what goes wrong, seen in metrics.jsonl while it happens, with its cause and the knob.

Why: the reward is flat, the KL runs off, answers are cut at the limit, and the run goes on to its end. The rules stand
in cookbook/training/alarms.py; here any run is asked, of either engine, while it runs or afterwards. No alarm is no
success yet, so the last line says whether it did what it is for.

    watch("tutorial/rl")                    # every alarm, at the step where it first went off
    python -m cookbook.watch tutorial/rl    # exit 1 where one is severe
"""

import sys
from pathlib import Path

from cookbook.display.terminal import command_parser
from cookbook.engine.records import read_engine_metrics
from cookbook.evaluation.outcome import outcome
from cookbook.runs import path, unfinished
from cookbook.training.alarms import Alarm, replay


def watch(run: str | Path) -> list[Alarm]:
    """Returns every alarm of a run, once; `run` is its folder or its metrics file, a relative one counts from runs/."""
    return replay(read_engine_metrics(run, torn=True))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where an alarm is severe, 2 with one line for what is no run."""
    parser = command_parser("cookbook.watch", __doc__)
    parser.add_argument("run", help="a run's folder; a relative one counts from runs/")
    run = parser.parse_args(arguments).run
    try:
        rows = read_engine_metrics(run, torn=True)
        stands = unfinished(path(run)) if path(run).is_dir() else ""
        found, ended = replay(rows), str(outcome(rows)) if rows else ""
    except (OSError, ValueError, ArithmeticError) as error:
        odd = f"{path(run)}: holds a number that cannot be computed with ({error}); cut its row out"
        print(odd if isinstance(error, ArithmeticError) else " ".join(str(error).split()), file=sys.stderr)
        return 2
    so_far = f" so far, at step {rows[-1]['step']}; the run is not at its end ({stands})" if stands and rows else ""
    print(*(found or [f"no alarm{so_far}" if rows else "no step has been logged"]), sep="\n")
    if found and stands:
        print(f"the run is not at its end ({stands}), at step {rows[-1]['step']}")
    if rows:
        print(ended)
    return int(any(alarm.severe for alarm in found))


if __name__ == "__main__":
    sys.exit(main())
