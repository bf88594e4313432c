"""Packages: what is installed beside what requirements.lock pins, without importing any of it.

Why: importing PyTorch and cosmos_rl takes 20 seconds, and fails on the machine that needs the doctor most.
"""

import importlib.util
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from cookbook.display.tables import MISSING, OK, WARNING, Check

PINNED = ("torch", "transformers", "cosmos-rl", "qwen-vl-utils", "av")
# absent is fine: what stands in for them in a run of cosmos-rl
OPTIONAL = {
    "flash-attn": "not installed; the bridge computes attention with PyTorch's own kernels",
    "vllm": "not installed; the bridge lets transformers write the rollouts",
}
PYTHONS = ((3, 10), (3, 11), (3, 12))
NCCL = ("nvidia-nccl-cu12", "nvidia-nccl-cu13")  # both install nvidia/nccl/lib/libnccl.so.2
LIBRARY = "libnccl.so.2"


def version(name: str) -> str | None:
    """Returns the installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_cuda(file: Path | None) -> str | None:
    """Returns the CUDA that PyTorch was built for, from its version.py: "13.0"; "" without, None without PyTorch."""
    if file is None or not file.is_file():
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def torch_version_file() -> Path | None:
    """Returns where PyTorch keeps its version, None where it is not installed."""
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent / "version.py" if spec and spec.origin else None


def nccl_owner() -> str | None:
    """Returns the package whose libnccl.so.2 is on disk, None where that cannot be told.

    Both write the same path; the size in each package's record tells whose file it is.
    """
    for name in NCCL:
        if version(name) is None:
            continue
        for file in metadata.files(name) or ():
            place = Path(file.locate())
            if file.name == LIBRARY and place.is_file() and place.stat().st_size == file.size:
                return name
    return None


def locked(text: str) -> dict[str, set[str]]:
    """Returns the versions that a lock pins, by package; more than one where they differ between Pythons."""
    found: dict[str, set[str]] = {}
    for name, pinned in re.findall(r"^([\w.-]+)==([\w.!+]+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(pinned)
    return found


def python(running: tuple[int, int]) -> Check:
    """Whether this Python is one that the lock was resolved for."""
    words = ".".join(map(str, running))
    if running in PYTHONS:
        return Check("Python", OK, words)
    return Check("Python", MISSING, f"{words}; needed is 3.10, 3.11 or 3.12", "make tutorial PYTHON=python3.12")


def pinned(name: str, found: str | None, lock: Mapping[str, Collection[str]]) -> Check:
    """Whether a package has the version of the lock; without one of them nothing is promised."""
    wanted = " or ".join(sorted(lock.get(name, ())))
    if found is None:
        return Check(name, MISSING, "not installed", f"python -m pip install -c requirements.lock {name}")
    if not wanted or found.split("+")[0] in lock[name]:
        return Check(name, OK, found)
    fix = f"python -m pip install -c requirements.lock {name}"
    return Check(name, WARNING, f"{found}; the lock has {wanted}, and only that was tested", fix)


def optional(name: str, found: str | None) -> Check:
    """An engine part that may be absent; present, it is outside of the lock and so untested."""
    if found is None:
        return Check(name, OK, OPTIONAL[name])
    return Check(name, WARNING, f"{found}; not in the lock, so this pairing was not tested")


def examine(lock: str) -> Iterator[tuple[str, object]]:
    """Yields (name, probe) of every check of this file on this machine."""
    pins = locked(lock)
    yield "Python", lambda: python(sys.version_info[:2])
    for name in PINNED:
        yield name, lambda name=name: pinned(name, version(name), pins)
    for name in OPTIONAL:
        yield name, lambda name=name: optional(name, version(name))
