"""Whether a run of the engine did what it was asked to, and if not, why.

Why: cosmos-rl's exit code is 0 after some crashes. A run is good only where the launcher ended with 0, no process
failed, the last step was reported, and the export of that step is whole on disk.

    require_success(log, code, config, run.path, None, 81.0)     # the last export, or EngineError with the root cause
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from cookbook.checkpoint.verify import what_is_missing
from cookbook.config import Config
from cookbook.engine.failures import EngineError, failure_kind
from cookbook.engine.log_lines import CASCADE, RunLog, bare_text, root_cause, traces

ENGINE_LOG = "engine.log"
CERTAIN = {"nan", "alarm", "launcher"}  # kinds that no line of the log knows better
TROUBLE = re.compile(
    r"ERROR|Error\b|FATAL|Exception|error:|not found|in use|exitcode|return code|exited with code|No space left"
)
NOISE = re.compile(r"Failed to import|is not available|Unable to import|UserWarning")  # printed by every good run, too


@dataclass(frozen=True)
class Reason:
    """Why a run was ended, or is no success: one of `failures.FAILURES`, and a sentence."""

    kind: str
    text: str


def require_success(
    log: RunLog, code: int, config: Config, run: Path, reason: Reason | None, seconds: float
) -> Path | None:
    """Returns the last export, None where the configuration asks for none. Raises EngineError.

    `code` is the launcher's exit code, `reason` why the supervisor ended the run, where it did; it took `seconds`.
    """
    exports = config["train.ckpt.enable_checkpoint"] and config["train.ckpt.export_safetensors"]
    problem = reason or death(log) or _bad_exit(log, code) or shortfall(log, "cosmos-rl ended with exit code 0")
    export = run / "safetensors" / f"step_{log.step.total}" if exports and not problem else None
    if problem := problem or (export and _bad_export(log, export)):
        raise explain(problem, run / ENGINE_LOG, log, f", {seconds:.0f} s after the start")
    return export


def death(log: RunLog) -> Reason | None:
    """Returns that a process of the engine has failed, None where none has."""
    return Reason("worker", f"a process of the engine failed with return code {log.dead.code}") if log.dead else None


def shortfall(log: RunLog, ended: str) -> Reason | None:
    """Returns what the last step lacks: it was not reached, or its loss is no number. `ended` says how the log ends."""
    if log.step is None or log.step.number < log.step.total:
        return Reason("unfinished", f"{ended} before the last step")
    return None if math.isfinite(log.loss) else Reason("nan", f"the last step's loss is {log.loss}")


def _bad_exit(log: RunLog, code: int) -> Reason | None:
    if code in (137, -9):  # 128 + SIGKILL; the guardian's own end
        return Reason("launcher", "cosmos-rl was killed")
    kind = "worker" if log.ready else "controller"
    return Reason(kind, f"cosmos-rl ended with exit code {code}") if code != 0 else None


def _bad_export(log: RunLog, export: Path) -> Reason | None:
    if export.name not in log.exported:
        return Reason("export", f"the last step was never exported to {export}")
    missing = what_is_missing(export)
    return Reason("export", f"the export {export} is not whole: {missing}") if missing else None


def read_log(log: Path) -> list[str]:
    """Returns the lines of a log, without the seconds that the guardian writes before each."""
    return [re.sub(r"^ *[\d.]+ ", "", line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]


def explain(problem: Reason, file: Path, log: RunLog, when: str = "") -> EngineError:
    """Returns the error to raise: what happened and when, the traceback that came first, where the log is.

    `file` holds the lines that `log` has taken in.
    """
    lines = read_log(file)
    found = [] if problem.kind in CERTAIN else traces(lines)
    root = root_cause(found, log.step_line)
    trouble = [bare_text(line) for line in lines[log.step_line :] if TROUBLE.search(line) and not NOISE.search(line)]
    kind = problem.kind
    if kind not in CERTAIN:
        bare = root is None or CASCADE.search(root.error)
        kind = failure_kind("\n".join(trouble[-20:]) if bare else root.text(), kind)
    parts = [f"{problem.text}, {log.place}{when}"]
    if root:
        same = sorted({t.rank for t in found if t.error == root.error and t.rank}, key=int)
        parts.append(root.text() + (f"\n(the same on ranks {', '.join(same)})" if len(same) > 1 else ""))
    else:
        parts += trouble[-6:] or [bare_text(line) for line in lines if line.strip()][-3:]
    return EngineError(kind, "\n".join([*parts, f"Log: {file}" + (f", line {root.at}" if root else "")]))
