"""Alarms of a training run: what goes wrong, seen in metrics.jsonl while it happens, with its cause and the knob.

Why: the reward is flat, the KL runs off, answers are cut at the limit, and the run goes on to its end. The rules stand
in cookbook/alarms.py; here they are asked, after each step of GRPO and of any run that has left its metrics.

    watch(read_metrics("tutorial/rl"))      # every alarm, at the step where it first went off
    python -m cookbook.watch tutorial/rl    # exit 1 where one is severe
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from cookbook.alarms import RL, RULES, Rows
from cookbook.engine.metrics import read_engine_metrics
from cookbook.runs import Run


@dataclass(frozen=True)
class Alarm:
    """One thing that goes wrong: since when, by what numbers, why it may be, what to turn, where to read."""

    name: str
    severe: bool  # whether the run can only get worse from here
    step: int
    message: str
    cause: str
    knob: str  # the key of the TOML
    read: str  # notebook#heading

    def __str__(self) -> str:
        level = "severe" if self.severe else "warning"
        return (
            f"{self.name} ({level}, step {self.step}): {self.message}. {self.cause}. Try {self.knob}; see {self.read}"
        )


class TrainingStopped(RuntimeError):
    """A run that was ended by a severe alarm; `alarm` says which."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(str(alarm))
        self.alarm = alarm


def standing(rows: Rows) -> list[Alarm]:
    """Returns the alarms that stand at the last row."""
    found = ((rule, rule.check(rows)) for rule in RULES) if rows else ()
    return [Alarm(r.name, r.severe, rows[-1]["step"], said, r.cause, r.knob, r.read) for r, said in found if said]


def watch(rows: Rows) -> list[Alarm]:
    """Returns every alarm of a run, once, at the step where it first went off."""
    first: dict[str, Alarm] = {}
    for end in range(1, len(rows) + 1):
        for alarm in standing(rows[:end]):
            first.setdefault(alarm.name, alarm)
    return list(first.values())


def stalled(times: Sequence[float], now: float, least: float = 300.0) -> Alarm | None:
    """Returns an alarm where the last row is older than ten usual steps, and than `least` seconds. times: one a row."""
    if len(times) < 2:
        return None
    usual, waited = median(b - a for a, b in pairwise(times)), now - times[-1]
    if waited <= max(10 * usual, least):
        return None
    said = f"nothing for {waited:.0f} s, and a step took {usual:.1f} s"
    return Alarm("stall", True, len(times), said, "A process has died, or waits for another", "rollout.batch_size", RL)


class Watcher:
    """Looks at a run while it is written, and logs each alarm once."""

    def __init__(self, run: Run) -> None:
        self.run, self.rows, self.seen = run, [], set()

    def see(self, step: int, values: dict[str, float]) -> Alarm | None:
        """Log what goes off at this step. Returns the severe alarm, None where there is none."""
        self.rows.append({"step": step, **values})
        new = [alarm for alarm in standing(self.rows) if alarm.name not in self.seen]
        for alarm in new:
            self.seen.add(alarm.name)
            self.run.log(f"ALARM {alarm}")
        return next((alarm for alarm in new if alarm.severe), None)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where an alarm is severe."""
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run's folder; a relative one counts from runs/")
    found = watch(read_engine_metrics(parser.parse_args(arguments).run))
    print(*(found or ["no alarm"]), sep="\n")
    return int(any(alarm.severe for alarm in found))


if __name__ == "__main__":
    sys.exit(main())
