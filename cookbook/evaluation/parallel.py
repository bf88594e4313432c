"""Several GPUs answer one dataset: a process for each, with every so-manieth question, through `predict`'s own command.

Why: answers do not depend on each other, so eight GPUs need an eighth of the time and no library. Answers that stand in
the file already are kept, and a run that was killed goes on.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cookbook.evaluation.predictions import save
from cookbook.runs import ROOT, read_jsonl


def part_file(out: Path, part: int, parts: int) -> Path:
    """Returns the file of one process of several."""
    return out if parts == 1 else out.with_name(f"{out.name}.{part}-of-{parts}")


def predict_parallel(command: Sequence[str], ids: Sequence[str], out: Path, gpus: int) -> list[dict]:
    """Run `predict` with these arguments, one process a GPU. Returns and writes the rows of `ids`, in that order.

    Raises RuntimeError where a process failed; the same command goes on from what the others wrote.
    """
    files, running = [part_file(out, part, gpus) for part in range(gpus)], []
    kept = {row["id"]: row for row in read_jsonl(out, True, ("id",))} if out.is_file() else {}
    for part, file in enumerate(files):
        if kept and not file.is_file():
            save([kept[name] for name in ids[part::gpus] if name in kept], file)
        line = [sys.executable, "-m", "cookbook.evaluation", "predict", *command, "--part", f"{part}/{gpus}"]
        own = {"CUDA_VISIBLE_DEVICES": str(part), "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        running.append(subprocess.Popen(line, env=os.environ | own))
    if failed := [str(part) for part, process in enumerate(running) if process.wait()]:
        raise RuntimeError(f"part {', '.join(failed)} of {gpus} failed, as said above; the same command goes on")
    rows = {row["id"]: row for file in files for row in read_jsonl(file)}
    save([rows[name] for name in ids], out)
    for file in files:
        file.unlink()
    return [rows[name] for name in ids]
