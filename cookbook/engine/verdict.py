"""Whether a run of the engine did what it was asked to, and if not, why.

Why: cosmos-rl's exit code is 0 after some crashes. A run is good only where the launcher ended with 0, no process
failed, the last step was reported, and the export of that step is whole on disk.

    require_success(watch, code, config, run.path, reason)     # the last export, or EngineError with the root cause
"""

import math
import re
from pathlib import Path

from cookbook.checkpoint.verify import what_is_missing
from cookbook.config import Config
from cookbook.engine.failures import EngineError, kind_of
from cookbook.engine.log_lines import CASCADE, message, ranks, root_cause, traces
from cookbook.engine.watch import Reason, Watch

LOG = "engine.log"
CERTAIN = {"nan", "alarm", "launcher"}  # kinds that no line of the log knows better
TROUBLE = re.compile(
    r"ERROR|Error\b|FATAL|Exception|error:|not found|in use|exitcode|return code|exited with code|No space left"
)
NOISE = re.compile(r"Failed to import|is not available|Unable to import|UserWarning")  # printed by every good run, too


def require_success(watch: Watch, code: int, config: Config, run: Path, reason: Reason | None) -> Path | None:
    """Returns the last export, None where the configuration asks for none. Raises EngineError.

    `code` is the launcher's exit code, `reason` why the watcher ended the run, where it did.
    """
    export = _export(config, watch, run)
    if problem := reason or _problem(watch, code) or _bad_export(watch, export):
        raise explain(problem, run / LOG, watch.step_line, watch.when())
    return export


def _problem(watch: Watch, code: int) -> Reason | None:
    if watch.dead:
        return watch.death()
    if code in (137, -9):  # 128 + SIGKILL; the guardian's own end
        return Reason("launcher", "cosmos-rl was killed")
    if code != 0:
        return Reason("worker" if watch.ready else "controller", f"cosmos-rl ended with exit code {code}")
    if watch.step is None or watch.step.number < watch.step.total:
        return Reason("unfinished", "cosmos-rl ended with exit code 0 before the last step")
    if not math.isfinite(watch.loss):
        return Reason("nan", f"the last step's loss is {watch.loss}")
    return None


def _export(config: Config, watch: Watch, run: Path) -> Path | None:
    if not (config["train.ckpt.enable_checkpoint"] and config["train.ckpt.export_safetensors"]):
        return None
    return run / "safetensors" / f"step_{watch.step.total if watch.step else 0}"


def _bad_export(watch: Watch, export: Path | None) -> Reason | None:
    if export is None:
        return None
    if export.name not in watch.exported:
        return Reason("export", f"the last step was never exported to {export}")
    missing = what_is_missing(export)
    return Reason("export", f"the export {export} is not whole: {missing}") if missing else None


def read_log(log: Path) -> list[str]:
    """Returns the lines of a log, without the seconds that the guardian writes before each."""
    return [re.sub(r"^ *[\d.]+ ", "", line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]


def explain(problem: Reason, log: Path, after: int, when: str) -> EngineError:
    """Returns the error to raise: what happened and when, the traceback that came first, where the log is.

    `after` is the line of the last step, `when` says how far it was.
    """
    lines = read_log(log)
    found = [] if problem.kind in CERTAIN else traces(lines)
    root = root_cause(found, after)
    trouble = [message(line) for line in lines[after:] if TROUBLE.search(line) and not NOISE.search(line)]
    kind = problem.kind
    if kind not in CERTAIN:
        bare = root is None or CASCADE.search(root.error)
        kind = kind_of("\n".join(trouble[-20:]) if bare else root.text(), kind)
    parts = [f"{problem.text}, {when}"]
    if root:
        same = ranks(found, root)
        parts.append(root.text() + (f"\n(the same on ranks {', '.join(same)})" if len(same) > 1 else ""))
    else:
        parts += trouble[-6:] or [message(line) for line in lines if line.strip()][-3:]
    return EngineError(kind, "\n".join([*parts, f"Log: {log}" + (f", line {root.at}" if root else "")]))
