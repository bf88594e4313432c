"""The parent of all the engine's processes: starts the engine, and leaves nothing behind when it or we are gone.

Why: cosmos-rl's workers run in sessions of their own, its redis turns into a daemon that wipes its own environment,
and when the launcher is killed the rest stays: eight GPUs full of orphans. Linux lets one process adopt every orphan
below it (a "subreaper"). This is that process: whatever the engine starts, in whatever way, stays its descendant.
It outlives us by seconds: where our process is gone, even by `kill -9`, it ends the engine and itself.

    python -m cookbook.engine.guardian PARENT_PID GRACE COMMAND...     # started by cookbook.engine.processes
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
TICK = 0.1  # seconds between two looks
LINGER = 5.0  # seconds that what the launcher leaves behind has to end by itself


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it. Raises OSError where the system cannot."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
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
    """Run the command until it ends, we are asked to end it, or the parent is gone. Returns its exit code."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C is for the parent, which then asks
        signal.signal(number, lambda *_: None)  # SIG_IGN would be handed on to every process of the engine
    adopt_orphans()
    codes: dict[int, int] = {}
    launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL).pid
    ended = None
    while not asked and os.getppid() == parent:
        reap(codes)
        if launcher in codes:
            ended = ended or time.monotonic()
            late = time.monotonic() - ended > LINGER
            if codes[launcher] < 0 or late or not psutil.Process().children():
                break
        time.sleep(TICK)
    end_all(grace, codes)
    code = codes.get(launcher, -signal.SIGTERM)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
