"""The doctor: what this machine has, what it lacks, the line that mends it, and what it can run.

Why: a missing redis-server, a driver that is too old or three visible GPUs show up minutes into a run, deep in a stack
trace. Here all of it is one table, in seconds, without importing PyTorch or the engine, and it never raises.

    doctor.examine()                    # notebooks/setup.ipynb
    python -m cookbook.doctor --json    # exit 1 where not even the tiny local run is possible
"""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cookbook import runs
from cookbook.display.tables import MISSING, WARNING, Check, as_html, as_text
from cookbook.doctor import abilities, gpus, machine, packages
from cookbook.doctor.abilities import Ability
from cookbook.engine.environment import is_free
from cookbook.runs import ROOT

__all__ = ["Ability", "Report", "examine"]

HEAD = ("", "checked", "found", "mend it with")
HEAD_ABILITIES = ("", "run", "why", "command")
WEIGHTS = "hub/models--nvidia--Cosmos-Reason1-7B/snapshots"


@dataclass(frozen=True)
class Report:
    """What was found: one check a line, and what this machine can run."""

    checks: tuple[Check, ...]
    abilities: tuple[Ability, ...]

    @property
    def ok(self) -> bool:
        """Whether the tiny local run is possible, and so every notebook."""
        return self.abilities[0].possible

    def __getitem__(self, name: str) -> Check | Ability:
        """Returns a check or an ability by its name. Raises KeyError."""
        return {row.name: row for row in (*self.checks, *self.abilities)}[name]

    def as_dict(self) -> dict:
        """Returns the report as plain values."""
        rows = {"checks": self.checks, "can_run": self.abilities}
        return {"ok": self.ok} | {key: [asdict(row) for row in found] for key, found in rows.items()}

    def _summary(self) -> str:
        count = {s: sum(check.status == s for check in self.checks) for s in (MISSING, WARNING)}
        return f"{len(self.checks)} checks: {count[MISSING]} missing, {count[WARNING]} warnings"

    def __repr__(self) -> str:
        checks, able = (as_text(row.cells for row in rows) for rows in (self.checks, self.abilities))
        return f"{checks}\n\nWhat this machine can run:\n{able}\n\n{self._summary()}"

    def _repr_html_(self) -> str:
        checks = as_html(HEAD, (row.cells for row in self.checks))
        able = as_html(HEAD_ABILITIES, (row.cells for row in self.abilities))
        return f"<p>{self._summary()}</p>{checks}<p><b>What this machine can run</b></p>{able}"


def examine() -> Report:
    """Returns the report on this machine, within seconds. Raises nothing: what cannot be examined is a warning."""
    everyone = _safe(lambda: gpus.parse(gpus.ask()), [])
    seen = _safe(lambda: gpus.visible(everyone, os.environ), [])
    probes = (*packages.examine(_lock()), *_gpus(seen, len(everyone)), *_engine(), *_room(os.environ, Path.home()))
    checks = tuple(_safe(probe, Check(name, WARNING, "could not be examined")) for name, probe in probes)
    free = _safe(lambda: machine.free_gb(runs.path()) * 1e9 / 2**30, 0.0)
    return Report(checks, tuple(abilities.examine(checks, seen, free)))


def _safe(probe, otherwise):
    """Returns what a probe returns, or `otherwise` where it fails: the doctor must outlive the illness."""
    try:
        return probe()
    except Exception:
        return otherwise


def _lock() -> str:
    return _safe(lambda: (ROOT / "requirements.lock").read_text(encoding="utf-8"), "")


def _gpus(seen: list[gpus.GPU], everyone: int) -> Iterator[tuple]:
    cuda = _safe(lambda: packages.torch_cuda(packages.torch_version_file()), None)
    wheels = {name: found for name in packages.NCCL if (found := packages.version(name))}
    owner, library = _safe(packages.nccl_owner, None), os.environ.get("COSMOS_NCCL_SO_PATH", "")
    yield "GPUs", partial(gpus.count, seen, everyone)
    if seen:
        yield "GPU memory", partial(gpus.memory, seen)
        yield "bfloat16", partial(gpus.bf16, seen)
    yield "CUDA", partial(gpus.driver, seen, cuda)
    yield "NCCL", partial(gpus.nccl, cuda, wheels, owner, library)


def _engine() -> Iterator[tuple]:
    yield "redis-server", lambda: machine.redis(machine.has_redis())
    yield "/opt", lambda: machine.opt(Path("/opt").is_dir())
    yield "host name", lambda: machine.host(lambda: socket.gethostbyname(socket.gethostname()))
    for name, number in machine.PORTS.items():
        yield f"port {number}", partial(_port, name, number)
    install = "curl -LsSf https://astral.sh/uv/install.sh | sh"
    yield "uv", lambda: machine.tool("uv", machine.program("uv"), WARNING, install)
    yield "git", lambda: machine.tool("git", machine.program("git"), WARNING, "conda install -c conda-forge git")


def _port(name: str, number: int) -> Check:
    return machine.port(name, number, is_free(number))


def _room(environment: Mapping[str, str], home: Path) -> Iterator[tuple]:
    yield "Hugging Face login", partial(machine.hugging_face, environment, home)
    yield "Weights & Biases", lambda: machine.wandb(environment, home, packages.version("wandb") is not None)
    for name, folder in machine.CACHES.items():
        path = Path(environment.get(name) or home / ".cache" / folder)
        yield name, partial(_cache, name, path, bool(environment.get(name)))
    yield "disk for runs", lambda: machine.disk(machine.free_gb(runs.path()), machine.writable(runs.path()))
    yield "tiny base", lambda: machine.tiny_base(ROOT / "models" / "tiny-base" / "model.safetensors")
    yield "shared memory", lambda: machine.shared_memory(_size_gb(Path("/dev/shm")))
    yield "CPU cores", lambda: machine.cores(machine.usable_cores())
    yield "memory", lambda: machine.ram(machine.memory_gb())


def _cache(name: str, path: Path, stated: bool) -> Check:
    least = 0 if name != "HF_HOME" or (path / WEIGHTS).is_dir() else machine.EXPORT_GB
    return machine.cache(name, stated, machine.free_gb(path), machine.writable(path), least)


def _size_gb(path: Path) -> float | None:
    return shutil.disk_usage(path).total / 1e9 if path.is_dir() else None
