"""The whole tutorial, killed at random moments: it ends with the same results, and little is done twice (slow)."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cookbook.runs import ROOT, read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.fault("local engine")]

KILLS = 10
PART = 30 / 525  # that may be done twice each time: 30 s of the 8 min 45 s that two quiet cores take


def start(folder: Path) -> subprocess.Popen:
    env = os.environ | {"COOKBOOK_RUNS": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cookbook.tutorial"]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    """Kill it and all below it at once, so that nothing can tidy up."""
    for one in [process, *psutil.Process(process.pid).children(recursive=True)]:
        os.kill(one.pid, signal.SIGKILL)
    process.wait()


def reached(job: Path) -> tuple[int, int, int]:
    """How far a tutorial is: notebooks that ended, cells of the one under way, lines of metrics and of answers."""
    ended = len(json.loads(file.read_text())["seconds"]) if (file := job / "tutorial.json").is_file() else 0
    books = sorted((job / "notebooks").glob("*.ipynb"), key=os.path.getmtime)
    try:
        cells = json.loads(books[-1].read_text())["cells"] if len(books) > ended else []
    except ValueError:  # being written
        cells = []
    run = sum(cell.get("execution_count") is not None for cell in cells)
    kept = [*job.glob("*/metrics.jsonl"), *job.glob("evaluation/*.jsonl")]
    return ended, run, sum(file.read_bytes().count(b"\n") for file in kept)


def results(job: Path) -> dict:
    """What must be the same: summary without its seconds, metrics, answers."""
    summary = json.loads((job / "summary.json").read_text())
    del summary["seconds"]
    answers = {f.name: [row["output"] for row in read_jsonl(f)] for f in job.glob("evaluation/predictions_*.jsonl")}
    return {"summary": summary, "answers": answers} | {
        step: (job / step / "metrics.jsonl").read_text() for step in ("sft", "rl")
    }


def follow(process: subprocess.Popen, job: Path) -> list[tuple[tuple, float]]:
    """Returns when a tutorial that nobody stops came to each point: (how far, seconds since its start)."""
    began, passed = time.monotonic(), [((0, 0, 0), 0.0)]
    while process.poll() is None:
        if (here := reached(job)) > passed[-1][0]:
            passed.append((here, time.monotonic() - began))
        time.sleep(0.1)
    return [*passed, ((math.inf,), time.monotonic() - began)]


def test_a_tutorial_that_is_killed_again_and_again_ends_as_if_it_were_not(tmp_path):
    """What is done twice after a kill: the seconds until the end of the next try, less what the whole took for it."""
    whole = start(tmp_path / "whole")
    passed = follow(whole, tmp_path / "whole/tutorial")
    assert whole.wait() == 0
    duration, begins = passed[-1][1], passed[1][1]  # the first cell that ran: what any start takes

    def when(far: tuple) -> float:
        return next(seconds for point, seconds in passed if point >= far)

    rng, job, at, twice, lived = random.Random(0), tmp_path / "killed/tutorial", (0, 0, 0), [], []
    for number in range(KILLS + 1):
        process, before = start(tmp_path / "killed"), time.monotonic()
        if number < KILLS:
            time.sleep(rng.uniform(0.02, 0.12) * duration)
            assert process.poll() is None
            far = reached(job)
            kill(process)
        else:
            assert process.wait() == 0
            far = (math.inf,)
        lived.append(time.monotonic() - before)
        if far > at:  # else this one was killed before it had made up for the last
            twice.append((sum(lived) - (when(far) - when(at)), len(lived)))
            at, lived = far, []
    told = [f"{seconds:.1f}" + f" in {tries} tries" * (tries > 1) for seconds, tries in twice[1:]]
    print(
        f"{KILLS} kills; seconds done twice: {told}, {begins:.1f} of each to start; whole {duration:.0f}, "
        f"so {PART * duration:.1f} may be"
    )
    assert results(job) == results(tmp_path / "whole/tutorial")
    assert all(seconds <= tries * (PART * duration + begins) for seconds, tries in twice[1:])
