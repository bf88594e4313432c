"""Start files for a training on several machines: by hand, or as a SLURM job.

Why: the engine's launcher has the flags (--num-workers, --worker-idx, --url), but the first machine's port must be
known to all, its redis must not hide on loopback, and when one machine fails the others would wait for ever.
The first machine runs `python -m cookbook.engine`, which watches and judges; the others run plain cosmos-rl.
All of them need the project at the same path, on a disk that they share.

    python -m cookbook.engine --config configs/sft_8gpu.toml --run mine/sft --nodes 2 --write-nodes start LOADER.py
    sbatch start/job.slurm           # or: bash start/head.sh on one, bash start/worker.sh 1 FIRST_IP on the other
"""

import shlex
from pathlib import Path

from cookbook.runs import ROOT

HEAD = """#!/usr/bin/env bash
# The first of {nodes} machines: controller, redis, its share of the workers, and the verdict on the run.
# usage: bash head.sh [IP;IP;…]   the addresses of all machines, only where one replica spans several
set -euo pipefail
cd {root}
exec {python} -m cookbook.engine --config {config} --run {run} --nodes {nodes} --port {port} \\
    ${{1:+--node-ips "$1"}} {loader}
"""

WORKER = """#!/usr/bin/env bash
# Another of {nodes} machines: it waits for the first one's controller, and ends with it.
# usage: bash worker.sh INDEX FIRST_IP [IP;IP;…]   INDEX counts from 1
set -euo pipefail
cd {root}
export PATH={bin}:"$PATH" PYTHONUNBUFFERED=1 COSMOS_REDIS_NO_TLS=1
exec cosmos-rl --config {config} --num-workers {nodes} --worker-idx "$1" --url "$2:{port}" \\
    ${{3:+--node-ip-list "$3"}} {loader}
"""

SLURM = """#!/usr/bin/env bash
# sbatch job.slurm     Give it your partition, account and time; a container is one more option of srun.
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail
export IPS="$(srun --ntasks-per-node=1 bash -c 'echo "$SLURM_PROCID $(hostname -I | cut -d" " -f1)"' \\
    | sort -n | cut -d" " -f2 | paste -sd ";")"
export HERE={here}
# a machine that fails takes the job with it, or the others would wait for ever; one that has no work left does not
srun --kill-on-bad-exit=1 --wait=0 bash -c '
if [ "$SLURM_PROCID" = 0 ]; then exec bash "$HERE/head.sh" "$IPS"; fi
exec bash "$HERE/worker.sh" "$SLURM_PROCID" "${{IPS%%;*}}" "$IPS"'
"""


def write_start_files(
    folder: Path, config: Path, loader: Path, run: str, nodes: int, port: int, python: str = ".venv/bin/python"
) -> list[Path]:
    """Write head.sh, worker.sh and job.slurm. Returns their paths.

    Config and loader count from the project's root, as `python` does. Raises ValueError for a single machine.
    """
    if nodes < 2:
        raise ValueError(f"{nodes} machine needs no start files: python -m cookbook.engine starts it")
    words = {"root": ROOT, "python": python, "config": config, "run": run, "loader": loader}
    words |= {"bin": (ROOT / python).parent, "name": run.replace("/", "-"), "here": folder.resolve()}
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = {"head.sh": HEAD, "worker.sh": WORKER, "job.slurm": SLURM}
    for name, text in files.items():
        (folder / name).write_text(text.format(**quoted, nodes=nodes, port=port), encoding="utf-8")
    return [folder / name for name in files]
