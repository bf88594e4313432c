"""Several GPUs answer one dataset: a process for each, with every so-manieth question, through `predict`'s own command.

Why: answers do not depend on each other, so eight GPUs need an eighth of the time and no library. Answers that stand in
the file already are kept, and a run that was killed goes on.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cookbook.runs import ROOT, read_jsonl, write_jsonl

SEEN = "CUDA_VISIBLE_DEVICES"  # GPUs by number or name; without it, all of the machine


def part_file(out: Path, part: int, parts: int) -> Path:
    """Returns the file of one process of several."""
    return out if parts == 1 else out.with_name(f"{out.name}.{part}-of-{parts}")


def predict_parallel(command: Sequence[str], ids: Sequence[str], out: Path, gpus: int) -> list[dict]:
    """Run `predict` with these arguments, one process a GPU. Returns and writes the rows of `ids`, in that order.

    However it ends, no process is left, and what was answered stands in `out`: the same command goes on, on any number
    of GPUs. Raises RuntimeError where a process failed.
    """
    files, running, failed = [part_file(out, part, gpus) for part in range(gpus)], [], []
    kept = {row["id"]: row for row in read_jsonl(out, True, ("id",))} if out.is_file() else {}
    for part, file in enumerate(files):
        if kept and not file.is_file():
            write_jsonl([kept[name] for name in ids[part::gpus] if name in kept], file)
    visible = [name for name in os.environ.get(SEEN, "").split(",") if name] or [str(n) for n in range(gpus)]
    try:
        for part in range(gpus):
            line = [sys.executable, "-m", "cookbook.evaluation", "predict", *command, "--part", f"{part}/{gpus}"]
            own = {SEEN: visible[part % len(visible)], "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
            # a session of its own: Ctrl-C is for this process; the pipe, which `end_with_stdin` reads, ends with it
            how = {"env": os.environ | own, "stdin": subprocess.PIPE, "start_new_session": True}
            running.append(subprocess.Popen(line, **how))
        failed = [str(part) for part, process in enumerate(running) if process.wait()]
    finally:
        for process in running:
            process.kill()
            process.wait()
        rows = {row["id"]: row for file in filter(Path.is_file, files) for row in read_jsonl(file, True)}
        write_jsonl([rows[name] for name in ids if name in rows], out)
        for file in files:
            file.unlink(missing_ok=True)
    if failed:
        raise RuntimeError(f"part {', '.join(failed)} of {gpus} failed, as said above; the same command goes on")
    return [rows[name] for name in ids]


def end_with_stdin() -> None:
    """End this process, one of several, when its standard input ends: the process that started it is gone."""
    with suppress(OSError):
        while os.read(0, 4096):  # not by sys.stdin, whose lock a thread that waits would hold when Python ends
            pass
    os._exit(1)
