"""Progress with the time that is left, right wherever the work runs.

Why: a tqdm bar is right in a terminal only. Under `papermill --log-output` a notebook's bar stays at 0 %, and
where outputs are kept, its times are noise that changes with every run. So one line of text is
shown in one of four ways:

    live      JupyterLab and its like: one output that updates itself
    lines     papermill, pipes, logs: now and then a line, with the time left
    quiet     nbconvert and nbval, whose outputs are kept or compared: the last line only, and no times in it
    terminal  a line on stderr that overwrites itself

The training loops, the data scripts and the evaluation use it:

    bar = progress(batches, "SFT")
    for batch in bar:
        bar.set(loss=train(batch))
"""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import psutil
from IPython import get_ipython
from IPython.display import display

BAR_WIDTH = 20
REDRAW = 0.25  # seconds between two updates of a line that overwrites itself
LINE, LONG = 10.0, 60.0  # seconds between two plain lines: with a tenth of the work in between, and without
KEEPERS = {"jupyter-nbconvert", "nbconvert", "pytest", "py.test"}


def progress(items: Collection | int, description: str) -> "Progress":
    """Returns a `Progress` over `items`, or over range(items), that shows itself as this place needs.

    Raises TypeError for items without a length: without one there is no time left to tell.
    """
    return Progress(items, description, mode=choose_mode())


class Progress:
    """Goes over the items once and shows how far it is; where nothing is iterated, call `advance()`."""

    def __init__(
        self,
        items: Collection | int,
        description: str,
        *,
        mode: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`mode` is "live", "lines", "quiet" or "terminal"; `clock` gives seconds."""
        self.items = range(items) if isinstance(items, int) else items
        self.total, self.description, self.mode, self.done = len(self.items), description, mode, 0
        self.figures: dict[str, object] = {}
        self._clock, self._handle = clock, None
        self._start = self._shown_at = clock()
        self._shown = 0  # how many steps were done when it was last shown
        if self.total == 0 or mode in ("live", "terminal"):
            self._show(ended=self.total == 0)

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator:
        try:
            for item in self.items:
                yield item
                self.advance()
        finally:
            if self.done < self.total:  # left early: say where
                self._show(ended=True)

    def set(self, **figures: object) -> None:
        """Set the figures that stand beside the bar from the next step on."""
        self.figures |= figures

    def advance(self, steps: int = 1) -> None:
        """Count steps as done, and show it where it is time to."""
        self.done += steps
        ended = self.done >= self.total
        if ended or self._is_due():
            self._show(ended)

    def text(self, ended: bool = False) -> str:
        """Returns the line: "SFT: 12 of 60 · loss 0.512 · 41 s left"; a notebook keeps no times."""
        elapsed = self._clock() - self._start
        parts = [f"{self.description}: {self.done} of {self.total}"]
        parts += [f"{name} {_short(value)}" for name, value in self.figures.items()]
        if self.done and not ended:
            parts.append(f"{_duration(elapsed / self.done * (self.total - self.done))} left")
        elif ended and self.mode in ("lines", "terminal"):
            parts.append(f"took {_duration(elapsed)}")
        return " · ".join(parts)

    def _is_due(self) -> bool:
        waited = self._clock() - self._shown_at
        if self.mode == "lines":
            return waited >= LONG or (waited >= LINE and self.done - self._shown >= self.total / 10)
        return self.mode != "quiet" and waited >= REDRAW

    def _show(self, ended: bool) -> None:
        self._shown_at, self._shown = self._clock(), self.done
        text = self.text(ended)
        if self.mode in ("live", "terminal") and not ended:
            filled = BAR_WIDTH * self.done // self.total
            text = "█" * filled + "░" * (BAR_WIDTH - filled) + " " + text
        if self.mode == "live":
            self._display(text)
        elif self.mode == "terminal":
            clear = "\033[K"  # takes away what a longer line before this one left
            print(f"\r{text}{clear}", end="\n" if ended else "", file=sys.stderr, flush=True)
        else:
            print(text, flush=True)

    def _display(self, text: str) -> None:
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def choose_mode() -> str:
    """Returns the way to show progress in this process."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return "terminal" if sys.stderr.isatty() else "lines"
    # people's front ends say which cell they run; nbclient (papermill, nbconvert) and nbval do not
    if "cellId" in kernel.get_parent().get("metadata", {}):
        return "live"
    return "quiet" if _launcher() & KEEPERS else "lines"


def _launcher() -> set[str]:
    """Returns the first names of the command that started this kernel: interpreter, program, its module."""
    try:
        return {Path(word).name for word in psutil.Process(os.getppid()).cmdline()[:3]}
    except psutil.Error:
        return set()


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
