"""Progress with the time that is left, right wherever the work runs.

Why: under `papermill --log-output` a notebook's bar stays at 0 %, and where outputs are kept its times are noise that
changes with every run. So one line of text is shown in one of five ways; tqdm draws the bars:

    live      JupyterLab and its like: a bar on stdout that overwrites itself; what stays is a line without times
    followed  the same, for a program that shows it and asks for it: `cookbook.tutorial` in a terminal
    terminal  the same on stderr
    lines     papermill, pipes, logs: now and then a line, with the time left
    quiet     nbconvert and nbval, whose outputs are kept or compared: the last line only, and no times in it
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path

import psutil
from IPython import get_ipython
from tqdm import tqdm

BAR, CELLS = "{bar:20} {desc}", "░█"
WIDE = 200  # columns where the reader is no terminal; tqdm would ask one, and draws nothing where it says 0 rows
REDRAW = 0.25  # seconds between two updates of a line that overwrites itself
LINE, LONG = 10.0, 60.0  # seconds between two plain lines: with a tenth of the work in between, and without
FOLLOWED = "COOKBOOK_PROGRESS"  # the variable by which a program that runs notebooks asks for "followed"
KEEPERS = {"jupyter-nbconvert", "nbconvert"}
TESTED = "PYTEST_CURRENT_TEST"  # where pytest says what it runs: a cell of a notebook, maybe in a worker


def progress(items: Collection | int, description: str, done: int = 0) -> "Progress":
    """Returns a `Progress` over `items`, or over range(items): `for batch in (bar := progress(batches, "SFT"))`.

    The first `done` items were gone over earlier: they count, and are left out. Raises TypeError for items without a
    length: without one there is no time left to tell.
    """
    return Progress(items, description, mode=choose_mode(), done=done)


class Progress:
    """Goes over the items once and shows how far it is; where nothing is iterated, call `advance()`."""

    def __init__(
        self,
        items: Collection | int,
        description: str,
        *,
        mode: str,
        clock: Callable[[], float] = time.monotonic,
        done: int = 0,
    ) -> None:
        """`mode` is "live", "followed", "terminal", "lines" or "quiet"; `clock` gives seconds."""
        self.items = range(items) if isinstance(items, int) else items
        self.total, self.description, self.mode, self.begun = len(self.items), description, mode, done
        self.done, self._told = done, False
        self.figures: dict[str, object] = {}
        self._clock, self._start, self._bar = clock, clock(), None
        self._shown_at, self._shown = self._start, 0  # when a line was last shown, and after how many steps
        self._file = sys.stderr if mode == "terminal" else sys.stdout
        if self.total == done:
            self._end()
        elif mode in ("live", "followed", "terminal"):  # position: a bar that an error left behind takes no line
            wide = shutil.get_terminal_size().columns if mode == "terminal" else WIDE
            self._bar = tqdm(total=self.total, desc=self.text(), file=self._file, bar_format=BAR, ascii=CELLS,
                             mininterval=REDRAW, miniters=1, leave=False, position=0, ncols=wide, nrows=20)  # fmt: skip

    def __iter__(self) -> Iterator:
        try:
            for item in islice(self.items, self.begun, None):
                self._told = False
                yield item
                self.advance()
        finally:
            if self.done < self.total:  # left early: say where; a step whose figures are told was made
                self.done += self._told
                self._end()

    def set(self, **figures: object) -> None:
        """Set the figures that stand beside the bar from the next step on."""
        self.figures |= figures
        self._told = True

    def advance(self, steps: int = 1) -> None:
        """Count steps as done, and show it where it is time to."""
        self.done += steps
        if self.done >= self.total:
            self._end()
        elif self._bar is not None:
            self._bar.set_description_str(self.text(), refresh=False)
            self._bar.update(steps)
        elif self.mode == "lines":
            now = self._clock()
            waited = now - self._shown_at
            if waited >= LONG or (waited >= LINE and self.done - self._shown >= self.total / 10):
                self._shown_at, self._shown = now, self.done
                print(self.text(), flush=True)

    def text(self, ended: bool = False) -> str:
        """Returns the line: "SFT: 12 of 60 · loss 0.512 · 41 s left"; a notebook keeps no times."""
        elapsed = self._clock() - self._start
        parts = [f"{self.description}: {self.done} of {self.total}"]
        parts += [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.figures.items()]
        if (done := self.done - self.begun) and not ended:
            parts.append(f"{duration(elapsed / done * (self.total - self.done))} left")
        elif ended and self.mode in ("lines", "terminal"):
            parts.append(f"took {duration(elapsed)}")
        return " · ".join(parts)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        print(self.text(ended=True), file=self._file, flush=True)


def choose_mode() -> str:
    """Returns the way to show progress in this process."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return "terminal" if sys.stderr.isatty() else "lines"
    if asked := os.environ.get(FOLLOWED):
        return asked
    # people's front ends say which cell they run; nbclient (papermill, nbconvert) and nbval do not
    if "cellId" in kernel.get_parent().get("metadata", {}):
        return "live"
    if ".ipynb::" in os.environ.get(TESTED, ""):
        return "quiet"
    try:  # the command that started this kernel: interpreter, program, its module
        launcher = {Path(word).name for word in psutil.Process(os.getppid()).cmdline()[:3]}
    except psutil.Error:
        return "lines"
    return "quiet" if launcher & KEEPERS else "lines"


def duration(seconds: float) -> str:
    """Returns a time as one says it: "41 s", "1 min 12 s", "9 h 15 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
