"""The main job: on the toy road world, with the tiny base, by the two shipped configurations; and from a shell.

Why: what a person clicks through in JupyterLab must be what a machine can repeat. `make tutorial` runs the notebooks
through papermill, in order, and sums them up. Nothing is trained here; the notebooks do it, with their own defaults but
for the longer training that two more minutes buy. The notebooks ask here for the job that they explain.

    python -m cookbook.tutorial                      # runs/tutorial
    python -m cookbook.tutorial --name seed1 --seed 1
    python -m cookbook.tutorial --name gpu --engine cosmos-rl      # on a machine with GPUs

    job = tutorial.job("tutorial", "sft", seed=0)    # in a notebook
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cookbook import pipeline, runs
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.pipeline import Job
from cookbook.runs import ROOT, named

log = logging.getLogger(__name__)

LOADER = "data_tools/road_vqa.py"
CONFIGS = {"sft": "configs/tiny_sft.toml", "rl": "configs/tiny_rl.toml"}
CONTRACT = "configs/prompts/road.yaml"
BASE = "models/tiny-base"
NOTEBOOKS = ("setup", "problem", "data", "configuration", "sft", "rl", "evaluation")
LONGER = {
    "sft": {"epochs": 4, "clips": -1},
    "rl": {"steps": 30, "lesson": ""},  # the lessons have a command of their own
    "evaluation": {"questions": -1},
}  # the defaults are shorter, to be tested in a minute
QUIET = ["--IPKernelApp.log_level=ERROR"]  # each kernel would warn that it talks to this machine without encryption


# ---- the job that the notebooks explain -------------------------------------------------------------------------


def job(name: str, step: str = "sft", seed: int = 0, changes: Mapping[str, Any] | None = None) -> Job:
    """Returns the job of one step, "sft" or "rl", with changes of its configuration; clips are made where missing."""
    config = Config.load(CONFIGS[step])
    if step == "rl":
        config = config.edit({pipeline.START: named(runs.path(name) / "sft")})
    return pipeline.prepare(config.edit(changes or {}), name, LOADER, seed)


def contract() -> Contract:
    """Returns the contract of the main job."""
    return Contract.load(ROOT / CONTRACT)


def trained(name: str, step: str = "sft", seed: int = 0, engine: str = "local", gpus: int = 0) -> str:
    """Returns the job's SFT or RL run, as a start for others; trains it first, with the defaults, where it is missing.

    So each notebook also runs alone.
    """
    if not (runs.path(name) / step / "safetensors").exists():
        if step == "rl":
            trained(name, "sft", seed, engine, gpus)
        log.info("runs/%s/%s holds no export; training it first", name, step)
        pipeline.train(job(name, step, seed), engine, gpus)
    return named(runs.path(name) / step)


# ---- from a shell -----------------------------------------------------------------------------------------------


def run_notebooks(name: str, seed: int, engine: str) -> dict[str, float]:
    """Run every notebook into `runs/NAME/notebooks`. Returns the seconds that each took."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.WARNING)
    out = runs.path(name) / "notebooks"
    out.mkdir(parents=True, exist_ok=True)
    seconds = {}
    for notebook in NOTEBOOKS:
        source = ROOT / "notebooks" / f"{notebook}.ipynb"
        declared = next(c.source for c in nbformat.read(source, 4).cells if "parameters" in c.metadata.get("tags", []))
        wanted = {"run_name": name, "seed": seed, "engine": engine, **LONGER.get(notebook, {})}
        parameters = {k: v for k, v in wanted.items() if f"{k}:" in declared}
        started = time.monotonic()
        papermill.execute_notebook(
            source, out / source.name, parameters, progress_bar=False, kernel_name="python3", extra_arguments=QUIET
        )
        seconds[notebook] = time.monotonic() - started
        print(f"{notebook}.ipynb: {seconds[notebook]:.0f} s", flush=True)
    return seconds


def summarize(name: str, seed: int, seconds: dict[str, float], setup_seconds: float) -> Path:
    """Write `runs/NAME/summary.json` from the evaluation's own comparison. Returns its path."""
    comparison = json.loads((runs.path(name) / "evaluation" / "comparison.json").read_text())
    summary = {
        "seed": seed,
        "chance": comparison["chance"],
        "majority": comparison["majority"],
        "n": comparison["n"],
        "models": {
            model: {key: found[key] for key in ("accuracy", "ci95", "format_rate")}
            for model, found in comparison["models"].items()
        },
        "paired": {pair: {"p": found["p"]} for pair, found in comparison["paired"].items()},
        "seconds": {"setup": setup_seconds}
        | {step: round(seconds[step], 1) for step in ("data", "sft", "rl", "evaluation")}
        | {"total": round(setup_seconds + sum(seconds.values()), 1)},
    }
    path = runs.path(name) / "summary.json"
    path.write_text(json.dumps(summary, indent=1))
    return path


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="tutorial", help="the job's folder below runs/")
    parser.add_argument("--seed", type=int, default=0, help="decides the clips, the order and the sampling")
    parser.add_argument("--engine", default="auto", help="local, cosmos-rl, or auto: cosmos-rl where there are GPUs")
    parser.add_argument("--setup-seconds", type=float, default=0.0, help="what the installation took (make says it)")
    args = parser.parse_args()
    seconds = run_notebooks(args.name, args.seed, args.engine)
    summary = summarize(args.name, args.seed, seconds, args.setup_seconds)
    print(summary.read_text())
    print(f"summary: {named(summary)}\nreport:  {named(runs.path(args.name) / 'report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
