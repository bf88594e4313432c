"""The terminal of a command that runs notebooks: one line that overwrites itself, and one line when it is stopped.

Why: who sees nothing for minutes thinks that it hangs, and who stops it wants to read how to go on, not a traceback.
What is shown is the notebooks' own progress (`display/progress.py`): papermill hands on what a kernel prints, and its
bar of cells. Where nobody watches, a plain line now and then, rarer the longer the work.

    stop_in_one_line("the same command goes on from there")                          # used by cookbook.tutorial
    line = Line(sys.stdout)
    line.begin("[5/7] sft")
    papermill.execute_notebook(..., stdout_file=line, progress_bar=line.cells())
    line.end("[5/7] sft  1 min 58 s")
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

import psutil

EVERY, PART = 60.0, 5  # seconds between two plain lines: at least so many, and one part in so many of all until then
GRACE = 20  # seconds for a training to end its step and keep its state, and for an engine to end its processes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ERASE = "\r\x1b[K"
CELL = "cell"
# a bar, then "SFT: 12 of 60 · loss 0.512 · 41 s left", or the count of cells
TOLD = re.compile(r"(?:[░█]+ (?!cell)|(?=cell: ))([^:░█]+)(?::.*)?: (\d+) of (\d+)((?: · .*)?)\s*")


class Line:
    """A file that shows the last progress written to it, under a title, and nothing else of what is written."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.out, self.watched, self.title = out, out.isatty(), ""
        self._clock, self._start = clock, clock()
        self._shown_at = self._start

    def begin(self, title: str) -> None:
        """Show from now on where the work of this title is."""
        self.title = title
        self._rewrite(title)

    def write(self, text: str) -> None:
        """Take in what a notebook prints; show where it is, if it says so."""
        places = [found for part in re.split(r"[\r\n]", text) if (found := TOLD.fullmatch(part))]
        if not places:
            return
        what, done, total, figures = places[-1].groups()
        names = [] if self.title.endswith(what.lower()) else [what]
        said = "  ".join([self.title, *names, f"{done}/{total}", *figures.split(" · ")[1:]])
        now = self._clock()
        if self.watched:
            self._rewrite(said)
        elif what != CELL and now - self._shown_at >= max(EVERY, (now - self._start) / PART):
            self.end(said)

    def flush(self) -> None:
        """Do nothing: what is written is shown at once. A file is asked for this."""

    def cells(self) -> dict[str, Any]:
        """Returns how papermill's bar of cells is to be drawn: into this line."""
        return {"file": self, "bar_format": CELL + ": {n} of {total}", "leave": False}

    def end(self, *lines: str) -> None:
        """Leave these lines in the place of the one that overwrites itself."""
        self._rewrite("")
        for text in lines:
            print(text, file=self.out, flush=True)
        self._shown_at = self._clock()

    def _rewrite(self, text: str) -> None:
        if self.watched:
            width = shutil.get_terminal_size().columns
            self.out.write(ERASE + (text if len(text) < width else f"{text[: width - 2]}…"))
            self.out.flush()


def command_parser(module: str, told: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m MODULE`, whose help is what the module's docstring has `told`, line by line.

    From then on Ctrl-C ends the process with one line, and so does a reader that goes away (`| head`), without one.
    """
    sys.excepthook = _without_traceback
    plain = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m {module}", description=told, formatter_class=plain)


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
    elif issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def ways_to_open(what: str, file: Path) -> list[str]:
    """Returns lines that say where a page is and how it is opened: on a desktop, and in JupyterLab."""
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    here = str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
    shown = [f"  open it:        {opener} {shlex.quote(here)}"] if shutil.which(opener) else []
    return [f"{what}: {here}", *shown, "  in JupyterLab:  `make lab`, then the same path in the list of files"]


# ---- a stop ---------------------------------------------------------------------------------------------------------

AGAIN = 1.0  # seconds after which a second signal is meant: a terminal that closes sends two, and so does make
_asked: list[tuple[int, float]] = []  # the signal that waits for the kernels to end, and when it came


def stop_in_one_line(told: str, grace: int = GRACE) -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end this process with one line on stderr, and all that it started.

    Kernels are interrupted first, so that a training keeps its state after the step under way, and `leave_if_asked`
    ends the rest; what is left after `grace` seconds, or at a later signal, is killed. `told` is how to go on.
    """
    terminal = os.dup(sys.stderr.fileno())  # `stderr_to` may have put another file in its place

    def say(text: str) -> None:
        with suppress(OSError):  # the terminal may be gone; not by print, which may be in the middle of a line
            os.write(terminal, text.encode())

    def ask(number: int, frame: FrameType | None) -> None:
        if _asked and time.monotonic() - _asked[0][1] < AGAIN:
            return
        kernels = psutil.Process().children()
        if _asked or not kernels:
            end(number, frame)
        _asked.append((number, time.monotonic()))
        if os.isatty(terminal):
            say(f"{ERASE}stopping: the step under way ends first; Ctrl-C again ends it at once")
        for kernel in kernels:
            with suppress(psutil.NoSuchProcess):
                kernel.send_signal(signal.SIGINT)
        signal.alarm(grace)

    def end(number: int, frame: FrameType | None) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        say(f"{ERASE * os.isatty(terminal)}stopped; {told}\n")
        # not by an exception, which libraries catch, hold up and print
        os._exit(128 + (_asked[0][0] if _asked else number))

    signal.signal(signal.SIGALRM, end)
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, ask)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end this process like an error, so that what must be cleaned up is; in the main thread only."""
    can = threading.current_thread() is threading.main_thread()
    before = can and signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        if can:
            signal.signal(signal.SIGTERM, before)


def leave_if_asked() -> None:
    """End the process if a signal has asked for it: the kernel that it waited for has ended."""
    if _asked:
        signal.raise_signal(signal.SIGALRM)


@contextmanager
def stderr_to(file: Path) -> Iterator[None]:
    """Let what this process and those that it starts say on stderr go to a file, made anew; none where they are silent.

    Kernels and libraries warn there about themselves; a notebook's own stderr is among its outputs.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    with file.open("wb") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        if not file.stat().st_size:
            file.unlink()


def number_from(low: float) -> Callable[[str], float]:
    """Returns what reads a finite number of the type of `low`, which is the least."""

    def number(text: str) -> float:
        value = type(low)(text)
        if not low <= value < inf:
            raise argparse.ArgumentTypeError(f"{text}: takes a finite number from {low} on")
        return value

    return number
