"""Watch a running engine: show how far it is, and notice when it will not go on.

Why: the launcher of cosmos-rl waits for ever for a replica that died, and so would we. Signs of life are lines of the
log, rows of metrics and files that are written; where none comes, where a process has failed, or where the loss is
no number, the run is ended. For another severe alarm the controller is asked first to finish its step, to save, and to
end by itself: its own `request_stop`, which saves and then ends with exit code 0.

    watch = Watch(run, "SFT", Patience())
    reason = follow(engine, watch)          # None: it ended by itself; else why it has to be ended
"""

import contextlib
import http.client
import json
import math
import queue
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cookbook.display.progress import Progress, choose_mode
from cookbook.engine import log_lines
from cookbook.engine.environment import ENGINE_METRICS
from cookbook.engine.failures import kind_of
from cookbook.engine.log_lines import Step
from cookbook.engine.metrics import read_engine_metrics
from cookbook.engine.processes import Engine
from cookbook.runs import METRICS, Run, read_metrics
from cookbook.training.alarms import Watcher, allowed_silence, usual_step

FATAL = {"memory", "disk", "nccl"}  # what no process of the engine survives, though it may hang
LOSSES = ("Loss", "Average loss")  # SFT's name, GRPO's name
FIGURES = {"Loss": "loss", "Reward Mean": "reward", "KL Loss Avg": "KL", "Completion Length Mean": "tokens"}
STOP, ANSWER = "/api/request_stop", 10.0  # where the controller is asked to end, and seconds that it has to answer
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


@dataclass(frozen=True)
class Reason:
    """Why a run was ended, or is no success: one of `failures.KINDS`, and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True)
class Sign:
    """Something bad that was seen at a time: a return code, or the kind of an error."""

    at: float
    code: str


class Watch:
    """What the engine has said so far."""

    def __init__(
        self,
        run: Run,
        title: str,
        patience: Patience,
        stop_on_alarm: bool = True,
        clock: Callable[[], float] = time.monotonic,
        port: int | None = None,
    ) -> None:
        """`title` stands before the progress; `clock` gives seconds; the controller is asked to end at `port`."""
        self.port, self.asked = port, None  # and when it agreed
        self.alarms, self.stop_on_alarm, self.alarm, self._judged = Watcher(run), stop_on_alarm, None, 0
        self.run, self.title, self.patience, self.clock = run, title, patience, clock
        self.started = self.moved = self._rewritten = clock()
        self.lines = self.step_line = 0  # lines seen, and the line of the last step
        self.step: Step | None = None
        self.loss, self.bad_losses = 0.0, 0
        self.exported: set[str] = set()
        self.ready = False
        self.dead: Sign | None = None
        self.fatal: Sign | None = None
        self._bar: Progress | None = None
        self._times: deque[float] = deque(maxlen=20)  # of the last steps
        self._reported, self._behind = 0, False  # bytes of the engine's metrics, and whether ours are older

    def take(self, line: str) -> None:
        """Take in one line of the log."""
        self.lines += 1
        if not log_lines.CHATTER.search(line):
            self.moved = self.clock()
        if step := log_lines.parse_step(line):
            self._take_step(step)
        elif match := log_lines.EXPORT.search(line):
            self.exported.add(Path(match[1]).name)
        elif (match := log_lines.DEAD.search(line)) and not self.dead:
            self.dead = Sign(self.clock(), match[1])
        self.ready = self.ready or bool(log_lines.READY.search(line))
        text = log_lines.split(line)[1]
        if log_lines.ERROR.match(text) and (kind := kind_of(text)) in FATAL and not self.fatal:
            self.fatal = Sign(self.clock(), kind)
        if log_lines.KEY.search(line):
            self.run.log(log_lines.message(line))

    def _take_step(self, step: Step) -> None:
        now = self.clock()
        if self._bar is None:
            begun = [
                now - step.values.get("Iteration time", 0.0)
            ]  # the bar's first look at the clock: the step's start
            self._bar = Progress(
                step.total - step.number + 1,
                self.title if step.number == 1 else f"{self.title} from step {step.number}",
                mode=choose_mode(),
                clock=lambda: begun.pop() if begun else self.clock(),
            )
        self._bar.set(**{short: step.values[name] for name, short in FIGURES.items() if name in step.values})
        self._bar.advance(step.number - self.step.number if self.step else 1)
        self.step, self.step_line, self.fatal = step, self.lines, None
        self._times.append(now)
        self.loss = next((step.values[name] for name in LOSSES if name in step.values), self.loss)
        self.bad_losses = 0 if math.isfinite(self.loss) else self.bad_losses + 1

    def check(self) -> Reason | None:
        """Returns why the run has to be ended now, None where it may go on."""
        now, wait = self.clock(), self.patience
        if self.dead and now - self.dead.at > wait.dead:
            return self.death()
        if self.alarm and self.stop_on_alarm and not self._may_leave(now):
            return Reason("nan" if self.alarm.name == "nan" else "alarm", str(self.alarm))
        if self.bad_losses >= 2:  # one may be a batch without a token to learn from
            return Reason("nan", f"the loss is {self.loss}")
        if self.fatal and now - self.fatal.at > max(wait.fatal, 3 * usual_step(self._times)):
            return Reason(self.fatal.code, f"no step for {now - self.fatal.at:.0f} s after an error")
        if self._silence(now) > self.limit():
            kind = "stall" if self.ready else "controller"
            return Reason(kind, f"no line, no metric and no file for {self._silence(now):.0f} s")
        return None

    def _may_leave(self, now: float) -> bool:
        """Ask the controller, once, to save and end. Returns whether it does so; with NaN there is nothing to save."""
        if self.alarm.name == "nan" or self.port is None:
            return False
        if self.asked is None:
            if not request_stop(self.port, self.alarm.name):
                return False
            self.asked = now
            self.run.log("the controller was asked to save and end, and agreed")
        return now - self.asked <= self.patience.leave

    def left(self) -> Reason | None:
        """Returns the alarm for which the engine has ended by itself, None where it was not asked to."""
        if self.asked is None:
            return None
        last = max(self.exported, key=lambda name: int(name.partition("_")[2]), default="nothing")
        return Reason("alarm", f"{self.alarm}. cosmos-rl ended by itself; last export: {last}")

    def death(self) -> Reason | None:
        """Returns that a process of the engine has failed, None where none has."""
        return (
            Reason("worker", f"a process of the engine failed with return code {self.dead.code}") if self.dead else None
        )

    def limit(self) -> float:
        """Returns how many seconds of silence are allowed now."""
        if self.step is None:
            return self.patience.start
        return allowed_silence(self._times) if self.patience.stall is None else self.patience.stall

    def _silence(self, now: float) -> float:
        """Returns the seconds since the last sign of life; files are looked at only where all else is silent."""
        silent = now - self.moved
        if silent <= self.limit():
            return silent
        written = [
            p.stat().st_mtime for name in ("checkpoints", "safetensors") for p in (self.run.path / name).rglob("*")
        ]
        return min(silent, max(0.0, time.time() - max(written, default=0.0)))

    def when(self) -> str:
        """Returns how far it was: "after 81 s, at step 3 of 12"."""
        place = f"at step {self.step.number} of {self.step.total}" if self.step else "before the first step"
        return f"{place}, {self.clock() - self.started:.0f} s after the start"

    def take_metrics(self, at_end: bool = False) -> None:
        """Bring the run's metrics.jsonl up to date with what the engine has reported so far."""
        source = self.run.path / ENGINE_METRICS
        size = source.stat().st_size if source.is_file() else 0
        if size != self._reported:
            self._reported, self._behind, self.moved = size, True, self.clock()
        if self._behind and (at_end or self.clock() - self._rewritten > METRICS_EVERY):
            self._behind, self._rewritten = False, self.clock()
            with contextlib.suppress(ValueError):  # its last line may be half written
                rows = read_engine_metrics(source)
                _rewrite(rows, self.run.path / METRICS)
                self._judge(rows)

    def _judge(self, rows: list[dict]) -> None:
        """Log the alarms of the steps that are new, and remember a severe one."""
        for row in rows:
            if row["step"] > self._judged:
                self._judged = row["step"]
                self.alarm = self.alarms.see(row["step"], row) or self.alarm

    def add(self, figures: Mapping[int, Mapping[str, float]]) -> None:
        """Add figures of some steps to the run's metrics.jsonl."""
        rows = read_metrics(self.run.path)
        _rewrite([row | figures.get(row["step"], {}) for row in rows], self.run.path / METRICS)


def _rewrite(rows: list[dict], file: Path) -> None:
    """Write the rows to a file in one move: who reads it meanwhile reads the old one or the new one."""
    copy = file.with_name(f".{file.name}")
    copy.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    copy.replace(file)


def request_stop(port: int, reason: str) -> bool:
    """Ask the controller to finish the step, save and end. Returns whether it agreed.

    dispatcher/run_web_panel.py:496 of 0.4.7; a controller that does not answer, or refuses with 409, did not agree.
    """
    body, kind = json.dumps({"reason": reason}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{STOP}", body, kind)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's loopback
    try:
        with direct.open(request, timeout=ANSWER) as reply:
            return bool(json.load(reply)["accepted"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False


def follow(engine: Engine, watch: Watch) -> Reason | None:
    """Watch until the engine has ended. Returns None, or the reason to end it, or why it was asked to end."""
    while True:
        try:
            line = engine.lines.get(timeout=watch.patience.tick)
        except queue.Empty:
            line = ""
            if engine.code is not None:  # its guardian was killed; what is left of it holds the pipe
                return watch.left()
        else:
            if line is None:
                engine.process.wait()  # it has closed the log, and is about to give the exit code
                return watch.left()
            watch.take(line)
        watch.take_metrics()
        if reason := watch.check():
            return reason
