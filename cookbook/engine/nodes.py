"""Start files for a training on several machines: by hand, or as a SLURM job.

Why: the engine's launcher has the flags (--num-workers, --worker-idx, --url), but the first machine's port must be
known to all, its redis must not hide on loopback, and when one machine fails the others would wait for ever.
The first machine runs `python -m cookbook.engine`, which watches and judges; the others run plain cosmos-rl.
All of them need the project at the same path, on a disk that they share. The files stand in configs/nodes/, with
@names@ for what a job fills in.

    python -m cookbook.engine --config configs/sft_8gpu.toml --run mine/sft --nodes 2 --write-nodes start LOADER.py
    sbatch start/job.slurm           # or: bash start/head.sh on one, bash start/worker.sh 1 FIRST_IP on the other
"""

import re
import shlex
from pathlib import Path

from cookbook.runs import ROOT

START_FILES, PYTHON = ("head.sh", "worker.sh", "job.slurm"), ".venv/bin/python"


def write_start_files(folder: Path, config: Path, loader: Path, run: str, nodes: int, port: int) -> list[Path]:
    """Write head.sh, worker.sh and job.slurm. Returns their paths.

    Config and loader count from the project's root, as `python` does; `nodes` machines are two or more.
    """
    words = {"root": ROOT, "python": PYTHON, "config": config, "run": run, "loader": loader, "nodes": nodes}
    words |= {"bin": (ROOT / PYTHON).parent, "name": run.replace("/", "-"), "here": folder.resolve(), "port": port}
    folder.mkdir(parents=True, exist_ok=True)
    for name in START_FILES:
        text = (ROOT / "configs/nodes" / name).read_text(encoding="utf-8")
        filled = re.sub(r"@(\w+)@", lambda match: shlex.quote(str(words[match[1]])), text)
        (folder / name).write_text(filled, encoding="utf-8")
    return [folder / name for name in START_FILES]
