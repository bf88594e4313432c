"""How a run of the engine ended: whether it did what it was asked to, and if not, why.

Why: cosmos-rl's exit code is 0 after some crashes, and its log has the same tracebacks several times, in the order in
which ranks died. A run is good only where the launcher ended with 0, no process failed, the last step was reported,
and the export of that step is whole on disk. Of one that was started without our launcher there is only the log.

    python -m cookbook.engine.diagnose engine.log                # exit 1 where the run did not end well
    print(diagnose("engine.log") or "ended well")
"""

import argparse
import math
import re
import sys
from pathlib import Path

from cookbook.checkpoint.verify import what_is_missing
from cookbook.config import Config
from cookbook.engine.failures import EngineError, Reason, failure_kind
from cookbook.engine.log_lines import CASCADE, RunLog, bare_text, root_cause, traces

ENGINE_LOG = "engine.log"
CERTAIN = {"nan", "alarm", "launcher"}  # kinds that no line of the log knows better
TROUBLE = re.compile(
    r"ERROR|Error\b|FATAL|Exception|error:|not found|in use|exitcode|return code|exited with code|No space left"
)
NOISE = re.compile(r"Failed to import|is not available|Unable to import|UserWarning")  # printed by every good run, too


def require_success(
    log: RunLog, code: int, config: Config, run: Path, reason: Reason | None, seconds: float
) -> Path | None:
    """Returns the last export, None where the configuration asks for none. Raises EngineError.

    `code` is the launcher's exit code, `reason` why the supervisor ended the run, where it did; it took `seconds`.
    """
    exports = config["train.ckpt.enable_checkpoint"] and config["train.ckpt.export_safetensors"]
    problem, export = reason or _problem(log, code, "cosmos-rl ended with exit code 0"), None
    if exports and not problem:
        export = run / "safetensors" / f"step_{log.step.total}"
        if export.name not in log.exported:
            problem = Reason("export", f"the last step was never exported to {export}")
        elif missing := what_is_missing(export):
            problem = Reason("export", f"the export {export} is not whole: {missing}")
    if problem:
        raise _explained(problem, log, run / ENGINE_LOG, f", {seconds:.0f} s after the start")
    return export


def diagnose(file: str | Path) -> EngineError | None:
    """Returns the error that our launcher would have raised; None for a run that reached and exported its last step.

    A run that was told not to export anything counts as one that did not. Raises OSError where there is no such log.
    """
    log = RunLog()
    for line in _lines(Path(file)):
        log.take(line)
    problem = _problem(log, 0, "the log ends")
    if not problem and log.exported.isdisjoint({f"step_{log.step.total}", "final"}):  # older engines say "final"
        problem = Reason("export", "the last step was never exported")
    return _explained(problem, log, Path(file)) if problem else None


def _problem(log: RunLog, code: int, ended: str) -> Reason | None:
    """Returns what is wrong by the exit code and the log; `ended` says how the log ends."""
    if log.dead:
        return log.dead
    if code in (137, -9):  # 128 + SIGKILL; the guardian's own end
        return Reason("launcher", "cosmos-rl was killed")
    if code != 0:
        return Reason("worker" if log.ready else "controller", f"cosmos-rl ended with exit code {code}")
    if log.step is None or log.step.number < log.step.total:
        return Reason("unfinished", f"{ended} before the last step")
    return None if math.isfinite(log.loss) else Reason("nan", f"the last step's loss is {log.loss}")


def _lines(log: Path) -> list[str]:
    """Returns the lines of a log, without the seconds that the guardian writes before each."""
    return [re.sub(r"^ *[\d.]+ ", "", line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]


def _explained(problem: Reason, log: RunLog, file: Path, when: str = "") -> EngineError:
    """Returns the error to raise: what happened and when, the traceback that came first, where the log is."""
    lines = _lines(file)
    found = [] if problem.kind in CERTAIN else traces(lines)
    root = root_cause(found, log.step_line)
    trouble = [bare_text(line) for line in lines[log.step_line :] if TROUBLE.search(line) and not NOISE.search(line)]
    kind = problem.kind
    if kind not in CERTAIN:
        bare = root is None or CASCADE.search(root.error)
        kind = failure_kind("\n".join(trouble[-20:]) if bare else root.text(), kind)
    reached = f"at step {log.step.number} of {log.step.total}" if log.step else "before the first step"
    parts, place = [f"{problem.text}, {reached}{when}"], f"Log: {file}"
    if root:
        same = sorted({t.rank for t in found if t.error == root.error and t.rank}, key=int)
        parts.append(root.text() + (f"\n(the same on ranks {', '.join(same)})" if len(same) > 1 else ""))
        place += f", line {root.at}"
    else:
        parts += trouble[-6:] or [bare_text(line) for line in lines if line.strip()][-3:]
    return EngineError(kind, "\n".join([*parts, place]))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a run that did not end well, 2 without a log."""
    parser = argparse.ArgumentParser(prog="python -m cookbook.engine.diagnose", description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="what cosmos-rl printed, all ranks in one file")
    try:
        found = diagnose(parser.parse_args(arguments).log)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(found or "the run reached its last step, and exported it")
    return int(found is not None)


if __name__ == "__main__":
    sys.exit(main())
