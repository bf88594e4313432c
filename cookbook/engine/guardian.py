"""Start the engine so that all of it can be ended: a guardian owns its processes, and leaves nothing behind.

Why: after a run, however it ended, no process may hold a GPU and no port may be taken. But cosmos-rl's workers run in
sessions of their own, its redis turns into a daemon that wipes its own environment, and when the launcher is killed
the rest stays. Linux lets one process adopt every orphan below it (a "subreaper"): so a process stands between us and
the engine, and all that the engine starts, in whatever way, stays its descendant. Where our process is gone, even by
`kill -9`, it ends the engine and itself; where the guardian is killed, its orphans are ours, and we end them. Only
`kill -9` of both leaves the engine running.
"""

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cookbook.runs import ROOT

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
TICK = 0.1  # seconds between two looks
LINGER = 5.0  # seconds that what the launcher leaves behind has to end by itself


class Engine(contextlib.AbstractContextManager):
    """A running engine: its lines as they come, and its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, grace: float) -> None:
        """Start it. Each line goes to `log` behind the seconds since the start, and into `lines`, None behind the last.

        `grace` are the seconds between SIGTERM and SIGKILL.
        """
        self.grace, self.before = grace, {child.pid for child in psutil.Process().children()}
        adopt_orphans(True)
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cookbook.engine.guardian", str(os.getpid()), str(grace), *command],
            cwd=ROOT,  # where the paths of a configuration count from, and -m finds the guardian
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=[log, time.monotonic()], daemon=True)
        self._reader.start()

    def _read(self, log: Path, started: float) -> None:
        with log.open("a", encoding="utf-8") as file:
            for line in self.process.stdout:
                file.write(f"{time.monotonic() - started:8.2f} {line}")
                file.flush()
                self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    @property
    def code(self) -> int | None:
        """The launcher's exit code, above 128 where a signal ended it; None while the engine runs."""
        return self.process.poll()

    def __exit__(self, *_: object) -> None:
        """Let the guardian end every process of the engine: none is left after some 15 s at most."""
        if self.code is None:
            self.process.send_signal(signal.SIGTERM)  # from here on it ends all, even if we are interrupted again
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace + 5)
        if self.code == -signal.SIGKILL:  # what it left is ours by now
            for child in [child for child in psutil.Process().children() if child.pid not in self.before]:
                for process in (*child.children(recursive=True), child):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                with contextlib.suppress(psutil.TimeoutExpired):
                    child.wait(2)
        adopt_orphans(False)
        self._reader.join(2)


def adopt_orphans(on: bool) -> None:
    """Let every orphan below this process become its child, or no longer. Raises OSError where the system refuses."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap(codes: dict[int, int]) -> None:
    """Collect ended children, adopted ones too, and note their exit codes by process id."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])


def end_all(grace: float, codes: dict[int, int]) -> None:
    """Ask everything below this process to end, and kill what has not after `grace` seconds."""
    started, asked = time.monotonic(), set()
    while left := psutil.Process().children(recursive=True):
        late = time.monotonic() - started > grace
        for process in left:  # again each time: a dying process may still start one
            if late or process.pid not in asked:
                asked.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(TICK)
        reap(codes)


def main(parent: int, grace: float, command: list[str]) -> int:
    """Run the command until it ends, we are asked to end it, or the parent is gone. Returns its exit code.

    Raises OSError where the system does not let this process adopt every orphan below it.
    """
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C is for the parent, which then asks
        signal.signal(number, lambda *_: None)  # SIG_IGN would be handed on to every process of the engine
    adopt_orphans(True)
    codes: dict[int, int] = {}
    launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL).pid
    patience = LINGER  # for what the launcher leaves behind
    while not asked and os.getppid() == parent and patience > 0:
        reap(codes)
        if launcher in codes:
            patience = patience - TICK if codes[launcher] >= 0 and psutil.Process().children() else 0
        time.sleep(TICK)
    end_all(grace, codes)
    code = codes.get(launcher, -signal.SIGTERM)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
