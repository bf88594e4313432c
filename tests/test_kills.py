"""The whole tutorial, killed at random moments: it ends with the same results, and little is done twice (slow)."""

import json
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

KILLS, SECONDS = 10, 30.0  # how often, and the most that may be done twice each time


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


def test_a_tutorial_that_is_killed_again_and_again_ends_as_if_it_were_not(tmp_path):
    whole = start(tmp_path / "whole")
    began = time.monotonic()
    assert whole.wait() == 0
    duration, rng, twice = time.monotonic() - began, random.Random(0), []
    job = tmp_path / "killed/tutorial"
    for _ in range(KILLS):
        process, before = start(tmp_path / "killed"), time.monotonic()
        at = reached(job)
        if twice:  # seconds until it is where the one before was killed
            while reached(job) < goal and process.poll() is None:  # noqa: F821
                time.sleep(0.2)
            twice[-1] = time.monotonic() - before
        time.sleep(rng.uniform(0.02, 0.12) * duration)
        if process.poll() is not None:
            break
        goal = reached(job)
        kill(process)
        twice.append(0.0)
        assert goal >= at
    last, before = start(tmp_path / "killed"), time.monotonic()
    while reached(job) < goal and last.poll() is None:
        time.sleep(0.2)
    twice[-1] = time.monotonic() - before
    assert last.wait() == 0
    print(f"{len(twice)} kills; seconds until it was there again: {[round(s, 1) for s in twice]}; whole {duration:.0f}")
    assert results(job) == results(tmp_path / "whole/tutorial")
    assert len(twice) == KILLS and max(twice) <= SECONDS
