"""GPUs: which ones a run would see, and whether driver, PyTorch, NCCL and engine go together with them.

Why: the engine's launcher asks nvidia-smi, not PyTorch, so the same is asked here; PyTorch is not even imported. Each
function takes what was found out as its arguments, so that a test can play any machine.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cookbook.config.rules import VISIBLE
from cookbook.display.tables import MISSING, OK, WARNING, Check

FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version")
FIRST_DRIVER = {12: 525, 13: 580}  # the oldest driver branch for a CUDA major version, from NVIDIA's release notes
FIRST_BF16 = 8.0  # Ampere


@dataclass(frozen=True)
class GPU:
    """One GPU as nvidia-smi tells of it."""

    index: str
    uuid: str
    name: str
    total_gib: float
    free_gib: float
    capability: float
    driver: str


def ask() -> str:
    """Returns what nvidia-smi says of FIELDS, one GPU a line; "" where there is no nvidia-smi or it fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse(answer: str) -> list[GPU]:
    """Returns the GPUs of an answer of nvidia-smi; a number that it does not know ("[N/A]") is 0."""
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return [
        GPU(index, uuid, name, _number(total) / 1024, _number(free) / 1024, _number(capability), driver)
        for index, uuid, name, total, free, capability, driver in (row for row in rows if len(row) == len(FIELDS))
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def visible(gpus: Sequence[GPU], environment: Mapping[str, str]) -> list[GPU]:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; as in CUDA, the first unknown entry ends it."""
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return list(gpus)
    found = []
    for entry in environment["CUDA_VISIBLE_DEVICES"].split(","):
        entry = entry.strip()
        named = [g for g in gpus if entry and (g.index == entry or g.uuid.startswith(entry))]
        if not named:
            break
        found.append(named[0])
    return found


def count(gpus: Sequence[GPU], all_gpus: int) -> Check:
    """Whether the engine's launcher takes this number of visible GPUs."""
    hidden = f", {all_gpus - len(gpus)} more hidden by CUDA_VISIBLE_DEVICES" if all_gpus > len(gpus) else ""
    if not gpus:
        fix = "" if all_gpus else "the tiny local run needs none; for cosmos-rl take a machine with 1, 2, 4 or 8 GPUs"
        return Check("GPUs", MISSING, "none" + hidden, fix or "unset CUDA_VISIBLE_DEVICES")
    kinds = ", ".join(sorted({gpu.name for gpu in gpus}))
    if len(gpus) not in VISIBLE:
        fewer = ",".join(gpu.index for gpu in gpus[: max(n for n in VISIBLE if n < len(gpus))])
        return Check(
            "GPUs", MISSING, f"{len(gpus)} x {kinds}{hidden}; the engine's launcher takes 1, 2, 4 or 8",
            f"export CUDA_VISIBLE_DEVICES={fewer}",
        )  # fmt: skip
    return Check("GPUs", OK, f"{len(gpus)} x {kinds}{hidden}")


def memory(gpus: Sequence[GPU]) -> Check:
    """Whether the GPUs are free: a run's peak is planned for an empty card."""
    total, busy = min(g.total_gib for g in gpus), [g for g in gpus if g.free_gib < 0.95 * g.total_gib]
    if not busy:
        return Check("GPU memory", OK, f"{total:.0f} GiB each, free")
    words = ", ".join(f"GPU {g.index}: {g.free_gib:.0f} of {g.total_gib:.0f} GiB free" for g in busy)
    return Check("GPU memory", WARNING, words, "nvidia-smi   # shows who holds the memory; wait, or choose other GPUs")


def bf16(gpus: Sequence[GPU]) -> Check:
    """Whether the GPUs compute in bfloat16, which the shipped configurations train in."""
    least = min(gpus, key=lambda g: g.capability)
    if least.capability >= FIRST_BF16:
        return Check("bfloat16", OK, f"compute capability {least.capability}")
    found = f"{least.name} has compute capability {least.capability}, bfloat16 needs {FIRST_BF16}"
    return Check("bfloat16", MISSING, found, "take GPUs from Ampere (A100) on")


def driver(gpus: Sequence[GPU], torch_cuda: str | None) -> Check:
    """Whether the driver is new enough for the CUDA that PyTorch was built with."""
    if not torch_cuda:
        build = "PyTorch is not installed" if torch_cuda is None else "PyTorch was built without CUDA"
        return Check("CUDA", MISSING if gpus else WARNING, build, "make tutorial   # installs requirements.lock")
    if not gpus:
        return Check("CUDA", OK, f"PyTorch was built for CUDA {torch_cuda}; no driver to compare with")
    version, major = gpus[0].driver, int(torch_cuda.split(".")[0])
    needed = FIRST_DRIVER.get(major, 0)
    found = f"PyTorch was built for CUDA {torch_cuda}, the driver is {version}"
    if _number(version.split(".")[0]) >= needed:
        return Check("CUDA", OK, found)
    older = "; or a PyTorch for CUDA 12" if major > 12 else ""
    return Check("CUDA", MISSING, found, f"install an NVIDIA driver {needed} or newer{older}")


def nccl(torch_cuda: str | None, installed: Mapping[str, str], owner: str | None, library: str = "") -> Check:
    """Whether the NCCL that gets loaded is the one PyTorch was built with.

    `installed`: version by package name. `owner`: the package whose file is on disk, where that can be told.
    `library`: COSMOS_NCCL_SO_PATH, which the engine (not PyTorch) would load instead.
    """
    wanted = f"nvidia-nccl-cu{(torch_cuda or '0').split('.')[0]}"
    if not installed:
        return Check("NCCL", WARNING if torch_cuda else OK, "no wheel of it; PyTorch brings its own, or has none")
    if wanted in installed and len(installed) == 1:
        return Check("NCCL", OK, f"{wanted} {installed[wanted]}, as PyTorch was built")
    if wanted in installed and owner == wanted:
        both = " and ".join(sorted(installed))
        return Check("NCCL", OK, f"{both} share one file; the one on disk is {wanted}'s, as PyTorch was built")
    loaded = owner or "one of " + ", ".join(sorted(installed))
    found = f"PyTorch was built for CUDA {torch_cuda}, but libnccl.so.2 on disk is that of {loaded}"
    if library:
        found += "; COSMOS_NCCL_SO_PATH names another for the engine"
    version = f"=={installed[wanted]}" if wanted in installed else ""
    return Check("NCCL", WARNING, found, f"python -m pip install --force-reinstall --no-deps {wanted}{version}")
