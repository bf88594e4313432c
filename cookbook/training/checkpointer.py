"""What both loops keep: exports, the state that a stopped run goes on from, and how a run ends.

Why: a laptop that is closed, a kernel that is restarted, a machine that is taken back: none of it may cost more than
seconds. The state holds weights, optimizer, generators, and how long each file of the run was; it is written aside and
renamed, so it is whole or not there. A run that goes on from it leaves the bytes of one that was never stopped.

    keeper = Checkpointer(run, config, model, encoder, optimizer, steps)
    for step, batch in enumerate(plan[keeper.done :], start=keeper.done + 1):
        ...
        keeper.keep(step, values)
    return keeper.end()
"""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from cookbook import checkpoint
from cookbook.config import Config
from cookbook.data.encoder import Encoder
from cookbook.model.generation import is_finite
from cookbook.runs import FINISHED, STATE, Run, RunError, named, write_whole
from cookbook.training.alarms import TrainingStopped, Watcher
from cookbook.training.optimizer import Optimizer
from cookbook.training.validation import METRIC, Validation, best_step

SECONDS = 10.0  # of work that a kill may cost, about
SHARE = 20  # writing states takes one part in so many of the time, at most

_asked: list[int] = []  # signals that wait for the end of the step


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, a notebook's stop button or SIGTERM, after the step that was under way; the message says how to go on."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]  # what IPython shows in place of a traceback


@contextmanager
def stops_between_steps() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM wait for the end of the step; a second one does not. In the main thread only."""
    can = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if can}

    def ask(number: int, frame: object) -> None:
        _asked.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


class Checkpointer:
    """One training under way. Creating it brings back the state of a stopped run, where its folder holds one."""

    def __init__(
        self,
        run: Run,
        config: Config,
        model,
        encoder: Encoder,
        optimizer: Optimizer,
        steps: int,
        *,
        generator: torch.Generator | None = None,
        measured: Validation | None = None,
        stop_on_alarm: bool = True,
    ) -> None:
        """`generator` samples, `measured` knows the best step so far; both go on with the rest."""
        self.run, self.config, self.model, self.encoder, self.optimizer = run, config, model, encoder, optimizer
        self.steps, self.generator, self.measured, self.stop_on_alarm = steps, generator, measured, stop_on_alarm
        self.every = config["train.ckpt.save_freq"] if config["train.ckpt.enable_checkpoint"] else 0
        self.watcher, self.file = Watcher(run), run.path / STATE
        self.done, self.spent = 0, 0.0  # steps, and seconds of the run before this process
        self.started = self.saved = time.monotonic()
        if self.file.is_file():
            self._restore()

    def keep(self, step: int, values: Mapping[str, float], improved: bool = False) -> None:
        """Look at a finished step: export where it is time to, keep the state, and end where something asks for it.

        Raises TrainingStopped, after an export, for a severe alarm, and Interrupted for a signal.
        """
        alarm = self.watcher.see(step, values)
        stop, last = self.stop_on_alarm and alarm is not None, step == self.steps
        due = self.every and (step % self.every == 0 or last or improved or stop)
        if due and not (stop and not is_finite(self.model)):
            self._export(step, values, improved)
        if stop:
            self.file.unlink(missing_ok=True)
            self.run.write_manifest(stopped=str(alarm), outcome="stopped", steps=step)
            raise TrainingStopped(alarm)
        if not last and (_asked or time.monotonic() - self.saved > SECONDS):
            self._save(step)
        if _asked and not last:
            self.run.log(f"stopped by a signal after step {step}")
            told = f"stopped after step {step} of {self.steps} of {named(self.run.path)}"
            raise Interrupted(f"{told}; the same again goes on from there")

    def end(self) -> Path | None:
        """Close the run. Returns the last export, None where none is wanted."""
        seconds = {"train": round(self.spent + time.monotonic() - self.started, 1)}
        self.run.write_manifest(seconds=seconds, outcome=FINISHED, steps=self.steps)
        self.file.unlink(missing_ok=True)
        return checkpoint.find(self.run.path) if self.every else None

    def _export(self, step: int, values: Mapping[str, float], improved: bool) -> None:
        dtype = getattr(torch, self.config["train.param_dtype"])
        folder = checkpoint.export(self.model, self.encoder, self.run.path, step, dtype)
        self.run.let_earlier_go([folder.name])
        if improved:
            self.measured.note_best(step, values[METRIC])
        checkpoint.keep(self.run.path, self.config["train.ckpt.max_keep"], best_step(self.run.path))
        self.run.log(f"Exported safetensors to {folder.relative_to(self.run.path)}")

    def _save(self, step: int) -> None:
        began = time.monotonic()
        state = {
            "step": step,
            "model": self.model.state_dict(),
            "adam": self.optimizer.adam.state_dict(),
            "updates": self.optimizer.done,
            "random": [g.get_state() for g in self._generators()],
            "best": self.measured and self.measured.best,
            "files": self.run.sizes(),
            "seconds": self.spent + began - self.started,
        }
        write_whole(self.file, lambda file: torch.save(state, file))
        now = time.monotonic()
        self.saved = now + max(0.0, SHARE * (now - began) - SECONDS)

    def _restore(self) -> None:
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.adam.load_state_dict(state["adam"])
            self.optimizer.done, self.done, self.spent = state["updates"], state["step"], state["seconds"]
            for generator, found in zip(self._generators(), state["random"]):
                generator.set_state(found)
            if self.measured and state["best"] is not None:
                self.measured.best = state["best"]
            self.run.cut(state["files"])
        except Exception as error:  # torch and pickle raise anything for damaged bytes
            why = " ".join(str(error).split())[:120] or type(error).__name__
            helps = "start over (-p fresh True, or --fresh); exports stay until a new one stands"
            raise RunError(f"{named(self.file)}: a stopped run cannot go on from it ({why}); {helps}") from None
        self.watcher.remember(self.run.metrics())
        self.run.log(f"goes on after step {self.done} of {self.steps}")
        print(f"{named(self.run.path)}: goes on after step {self.done} of {self.steps}", flush=True)

    def _generators(self) -> list:
        """Returns what numbers are drawn from: torch's own, on each device, and the run's."""
        own = [self.generator] if self.generator else []
        return [torch.default_generator, *torch.cuda.default_generators, *own]
