"""The doctor: what this machine has, what it lacks, the line that mends it, and what it can run.

Why: a missing redis-server, a driver that is too old or three visible GPUs show up minutes into a run, deep in a stack
trace. Here all of it is one table, in seconds, without importing PyTorch or the engine, and it never raises.

    doctor.examine()                    # notebooks/setup.ipynb
    python -m cookbook.doctor --json    # exit 1 where not even the tiny local run is possible

    checks       what is looked at: a row a check, of a name, a probe and a judge
    abilities    what this machine can run, from the checks and the planner
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cookbook import runs
from cookbook.display.tables import MISSING, WARNING, Check, as_html, as_text
from cookbook.doctor import checks
from cookbook.doctor.abilities import Ability, can_run

__all__ = ["Ability", "Report", "examine"]

UNKNOWN = (WARNING, "could not be examined")
ABLE = "What this machine can run"


@dataclass(frozen=True)
class Report:
    """What was found: one check a line, and what this machine can run."""

    checks: tuple[Check, ...]
    abilities: tuple[Ability, ...]

    @property
    def ok(self) -> bool:
        """Whether the tiny local run is possible, and so every notebook."""
        return self.abilities[0].possible

    def _summary(self) -> str:
        missing, warnings = (sum(check.status == status for check in self.checks) for status in (MISSING, WARNING))
        return f"{len(self.checks)} checks: {missing} missing, {warnings} warnings"

    def __repr__(self) -> str:
        found, able = (as_text(row.cells for row in rows) for rows in (self.checks, self.abilities))
        return f"{found}\n\n{ABLE}:\n{able}\n\n{self._summary()}"

    def _repr_html_(self) -> str:
        found = as_html(("", "checked", "found", "mend it with"), (row.cells for row in self.checks))
        able = as_html(("", "run", "why", "command"), (row.cells for row in self.abilities))
        return f"<p>{self._summary()}</p>{found}<p><b>{ABLE}</b></p>{able}"


def examine() -> Report:
    """Returns the report on this machine, within seconds. Raises nothing: what cannot be examined is a warning."""
    everyone = _safe(checks.ask, checks.parse, [])
    gpus = checks.visible(everyone, os.environ)
    rows = checks.rows(gpus, len(everyone) - len(gpus), os.environ, Path.home())
    found = tuple(Check(name, *_safe(probe, judge, UNKNOWN)) for name, probe, judge in rows)
    free = _safe(runs.path, checks.room, None) or 0.0
    return Report(found, tuple(can_run(found, gpus, free * 1e9 / 2**30)))


def _safe(probe: Callable[[], Any], judge: Callable[[Any], Any], otherwise: Any) -> Any:
    """Returns the judgement, or `otherwise` where either fails: the doctor must outlive the illness."""
    try:
        return judge(probe())
    except Exception:
        return otherwise
