"""Supervise a running engine: show how far it is, and notice when it will not go on.

Why: the launcher of cosmos-rl waits for ever for a replica that died, and so would we. Signs of life are lines of the
log, rows of metrics and files that are written; where none comes, where a process has failed, or where the loss is
no number, the run is ended. For another severe alarm the controller is asked first to save and to end by itself.
"""

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests

from cookbook.display.progress import Progress, choose_mode
from cookbook.engine.failures import Reason
from cookbook.engine.guardian import Engine
from cookbook.engine.log_lines import MILESTONE, RunLog, Step, bare_text
from cookbook.engine.records import ENGINE_METRICS, read_engine_metrics
from cookbook.runs import METRICS, Run, write_jsonl
from cookbook.training.alarms import Alarm, Watcher, allowed_silence, usual_step

FIGURES = {"Loss": "loss", "Reward Mean": "reward", "KL Loss Avg": "KL", "Completion Length Mean": "tokens"}
STOP = "/api/request_stop"  # where the controller is asked to end
REPLY_WITHIN = 10.0  # seconds that it has to answer
SIGNS = ("checkpoints/**/*", "safetensors/**/*", ENGINE_METRICS)  # files that an engine writes while it is silent
METRICS_EVERY = 10.0  # seconds between two rewritings of metrics.jsonl while the engine runs


@dataclass(frozen=True)
class Patience:
    """How many seconds to wait for what."""

    start: float = 600.0  # for a sign of life before the first step: a 7B model on a slow disk takes minutes to load
    stall: float | None = None  # for one after it; None is the rule of cookbook/training/alarms.py
    dead: float = 15.0  # after a process has failed, for its traceback and for the others to end
    fatal: float = 45.0  # after an error that nothing survives, for a step or the end
    leave: float = 600.0  # after the controller agreed to end: a step, a checkpoint of a 7B model, and the end
    stop: float = 10.0  # between SIGTERM and SIGKILL
    tick: float = 0.5  # between two looks


@dataclass
class State:
    """All that decides whether a run may go on."""

    log: RunLog
    patience: Patience
    alarm: Alarm | None = None  # a severe one
    leave_by: float | None = None  # until when the controller, which agreed to save and end, may take

    def allowed(self) -> float:
        """Returns how many seconds of silence are allowed now."""
        if self.log.step is None:
            return self.patience.start
        return allowed_silence(self.log.step_times) if self.patience.stall is None else self.patience.stall


def reason_to_end(state: State, now: float) -> Reason | None:
    """Returns why a run has to be ended at `now`, None where it may go on."""
    log, wait, alarm = state.log, state.patience, state.alarm
    if log.dead and now - log.dead.at > wait.dead:
        return log.dead
    if alarm and (state.leave_by is None or now > state.leave_by):
        return Reason("nan" if alarm.name == "nan" else "alarm", str(alarm))
    if log.bad_losses >= 2:  # one may be a batch without a token to learn from
        return Reason("nan", f"the loss is {log.loss}")
    if log.fatal and now - log.fatal.at > max(wait.fatal, 3 * usual_step(log.step_times)):
        return Reason(log.fatal.kind, f"no step for {now - log.fatal.at:.0f} s after an error")
    if now - log.moved > state.allowed():
        kind = "stall" if log.ready else "controller"
        return Reason(kind, f"no line, no metric and no file for {now - log.moved:.0f} s")
    return None


@dataclass
class Supervisor:
    """Keeps the state of a running engine, shows it, and acts on it."""

    run: Run
    title: str  # stands before the progress
    patience: Patience
    port: int  # where the controller is asked to end
    stop_on_alarm: bool = True
    clock: Callable[[], float] = time.monotonic  # in seconds

    def __post_init__(self) -> None:
        self.state, self.alarms = State(RunLog(moved=self.clock()), self.patience), Watcher(self.run)
        self._rewritten, self._read = self.clock(), 0  # our metrics: when, with how many bytes of the engine's
        self._bar: Progress | None = None

    def follow(self, engine: Engine) -> Reason | None:
        """Watch until the engine has ended. Returns None, or the reason to end it, or why it was asked to end."""
        ended = False
        while not ended:
            try:
                line = engine.lines.get(timeout=self.patience.tick)
            except queue.Empty:
                ended = engine.code is not None  # its guardian was killed; what is left of it holds the pipe
            else:
                ended = line is None
                if not ended:
                    self.take(line)
            self.take_metrics()
            if not ended and (reason := self.check()):
                return reason
        engine.process.wait()  # it has closed the log, and is about to give the exit code
        if self.state.leave_by is None:
            return None
        last = max(self.state.log.exported, key=lambda name: int(name.partition("_")[2]), default="nothing")
        return Reason("alarm", f"{self.state.alarm}. cosmos-rl ended by itself; last export: {last}")

    def take(self, line: str) -> None:
        before = self.state.log.step
        if step := self.state.log.take(line, self.clock()):
            self._show(step, step.number - before.number if before else 1)
        if MILESTONE.search(line):
            self.run.log(bare_text(line))

    def _show(self, step: Step, new: int) -> None:
        if self._bar is None:
            begun = [self.clock() - step.values.get("Iteration time", 0.0)]  # the step's start: the bar's first look
            clock, left = (lambda: begun.pop() if begun else self.clock()), step.total - step.number + 1
            title = self.title if step.number == 1 else f"{self.title} from step {step.number}"
            self._bar = Progress(left, title, mode=choose_mode(), clock=clock)
        self._bar.set(**{short: step.values[name] for name, short in FIGURES.items() if name in step.values})
        self._bar.advance(new)

    def check(self) -> Reason | None:
        """Returns why the run has to be ended now, None where it may go on. Asks the controller first, where it can."""
        now, state = self.clock(), self.state
        may_save = state.alarm and state.alarm.name != "nan" and state.leave_by is None
        if may_save and request_stop(self.port, state.alarm.name):
            state.leave_by = now + self.patience.leave
            self.run.log("the controller was asked to save and end, and agreed")
        if now - state.log.moved > state.allowed():  # files are looked at only where all else is silent
            files = (file for name in SIGNS for file in self.run.path.glob(name))
            written = max((file.stat().st_mtime for file in files), default=0.0)
            state.log.moved = max(state.log.moved, now - max(0.0, time.time() - written))
        return reason_to_end(state, now)

    def take_metrics(self, at_end: bool = False) -> None:
        """Bring the run's metrics.jsonl up to date with what the engine has reported; log the alarms of new steps."""
        source = self.run.path / ENGINE_METRICS
        size = source.stat().st_size if source.is_file() else 0
        if size != self._read and (at_end or self.clock() - self._rewritten > METRICS_EVERY):
            self._read, self._rewritten = size, self.clock()
            with contextlib.suppress(ValueError):  # its last line may be half written
                rows = read_engine_metrics(source)
                write_jsonl(rows, self.run.path / METRICS)
                self.run.on_metrics()
                seen = self.alarms.last
                for row in rows:
                    if row["step"] > seen and (alarm := self.alarms.see(row["step"], row)) and self.stop_on_alarm:
                        self.state.alarm = alarm


def request_stop(port: int, reason: str) -> bool:
    """Ask the controller to finish the step, save and end. Returns whether it agreed.

    dispatcher/run_web_panel.py:496 of 0.4.7; a controller that does not answer, or refuses with 409, did not agree.
    """
    with requests.Session() as direct, contextlib.suppress(OSError, ValueError, KeyError):
        direct.trust_env = False  # no proxy knows this machine's loopback
        reply = direct.post(f"http://127.0.0.1:{port}{STOP}", json={"reason": reason}, timeout=REPLY_WITHIN)
        return reply.ok and bool(reply.json()["accepted"])
    return False
