"""Start the engine so that all of it can be ended, and end it.

Why: after a run, however it ended, no process may hold a GPU and no port may be taken. The guardian
(cookbook/engine/guardian.py) owns every process of the engine; here is our end of it, and the log that comes back.
Only `kill -9` of the guardian itself leaves the engine running.

    with Engine(command, environment, log, grace=10.0) as engine:
        line = engine.lines.get()      # None when all of it has ended
    engine.code                        # the launcher's exit code
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cookbook.runs import ROOT


class Engine(contextlib.AbstractContextManager):
    """A running engine: its lines as they come, and its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, grace: float) -> None:
        """Start it. Each line goes to `log` behind the seconds since the start, and into `lines`.

        `grace` are the seconds between SIGTERM and SIGKILL.
        """
        self.grace = grace
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.started = time.monotonic()
        guardian = [sys.executable, "-m", "cookbook.engine.guardian", str(os.getpid()), str(grace), *command]
        self.process = subprocess.Popen(
            guardian,
            cwd=ROOT,  # where the paths of a configuration count from, and -m finds the guardian
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=[log], daemon=True)
        self._reader.start()

    def _read(self, log: Path) -> None:
        with log.open("a", encoding="utf-8") as file:
            for line in self.process.stdout:
                file.write(f"{time.monotonic() - self.started:8.2f} {line}")
                file.flush()
                self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    @property
    def code(self) -> int | None:
        """The launcher's exit code, above 128 where a signal ended it; None while the engine runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Let the guardian end every process of the engine. Returns when none is left, after some 15 s at most."""
        if self.code is None:
            self.process.send_signal(signal.SIGTERM)  # from here on it ends all, even if we are interrupted again
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace + 5)
        self._reader.join(2)

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end this process like an error, so that what must be cleaned up is; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
