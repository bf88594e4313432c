"""The notebooks from a shell: the main job from data to report, a job of your own, the recipes.

Why: what a person clicks through in JupyterLab must be what a machine can repeat. `make tutorial` runs the notebooks
through papermill, in order, and sums them up. Nothing is trained here; the notebooks do it, with their own defaults but
for the longer training that two more minutes buy. `make recipes` runs the four recipes, and writes one page that leads
to them, of what they found.

    python -m cookbook.tutorial                      # runs/tutorial
    python -m cookbook.tutorial --name seed1 --seed 1
    python -m cookbook.tutorial --name gpu --engine cosmos-rl      # on a machine with GPUs
    python -m cookbook.tutorial --job mine           # jobs/mine, as python -m cookbook.new has written it
    python -m cookbook.tutorial --recipes            # runs/recipes/index.html; or some of them, --recipes video_rewards
"""

import argparse
import html
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cookbook import jobs, runs
from cookbook.runs import ROOT, named

NOTEBOOKS = {name: {} for name in ("setup", "problem", "data", "configuration")} | {
    "sft": {"epochs": 4, "clips": -1},  # the defaults are shorter, to be tested in a minute
    "rl": {"steps": 30, "lesson": ""},  # the lessons have a command of their own
    "evaluation": {"questions": -1},
}
RECIPES = ("video_rewards", "warehouse_spatial", "intelligent_transportation", "av_caption_vqa")
PLACE = "tutorial.json"  # how far a tutorial has come, until it ends
QUIET = ["--IPKernelApp.log_level=ERROR"]  # each kernel would warn that it talks to this machine without encryption


def execute(source: Path, out: Path, wanted: Mapping[str, Any]) -> None:
    """Run a notebook into the folder `out`, with those of the wanted parameters that it has.

    Raises PapermillExecutionError where a cell fails; what ran before it is in `out` all the same.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    parameters = {key: wanted[key] for key in papermill.inspect_notebook(source) if key in wanted}
    papermill.execute_notebook(
        source, out / source.name, parameters, progress_bar=False, kernel_name="python3", extra_arguments=QUIET
    )


def run_notebooks(
    name: str, seed: int, engine: str, notebooks: Mapping[str, Mapping] = NOTEBOOKS, fresh: bool = False
) -> dict[str, float]:
    """Run notebooks, with these parameters, into `runs/NAME/notebooks`. Returns the seconds that each took.

    After a stop the same again goes on: notebooks that ended are not run again, and a training goes on inside its own.
    With `fresh` all starts over.
    """
    asked = {"seed": seed, "engine": engine, "notebooks": notebooks}
    place = runs.path(name) / PLACE
    found = json.loads(place.read_text(encoding="utf-8")) if place.is_file() and not fresh else {}
    seconds: dict[str, float] = found["seconds"] if found.get("asked") == asked else {}
    for notebook, longer in notebooks.items():
        if notebook in seconds:
            print(f"{notebook}.ipynb: ended before, {seconds[notebook]:.0f} s", flush=True)
            continue
        wanted = {"job": name, "seed": seed, "engine": engine, "fresh": fresh, **longer}
        started = time.monotonic()
        execute(ROOT / f"notebooks/{notebook}.ipynb", runs.path(name) / "notebooks", wanted)
        seconds[notebook] = time.monotonic() - started
        runs.write_whole(place, json.dumps({"asked": asked, "seconds": seconds}).encode())
        print(f"{notebook}.ipynb: {seconds[notebook]:.0f} s", flush=True)
    place.unlink(missing_ok=True)
    return seconds


def summarize(name: str, seed: int, seconds: dict[str, float], setup_seconds: float) -> Path:
    """Write `runs/NAME/summary.json` from the evaluation's own comparison. Returns its path."""
    comparison = runs.read_json(runs.path(name) / "evaluation" / "comparison.json")
    took = {step: round(seconds[step], 1) for step in ("data", "sft", "rl", "evaluation") if step in seconds}
    total = round(setup_seconds + sum(seconds.values()), 1)
    models, paired = comparison["models"].items(), comparison["paired"].items()
    summary = {
        "seed": seed,
        **{key: comparison[key] for key in ("chance", "majority", "n")},
        "models": {model: {k: found[k] for k in ("accuracy", "ci95", "format_rate")} for model, found in models},
        "paired": {pair: {"p": found["p"]} for pair, found in paired},
        "seconds": {"setup": setup_seconds, **took, "total": total},
    }
    path = runs.path(name) / "summary.json"
    path.write_text(json.dumps(summary, indent=1))
    return path


# ---- the recipes ------------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The recipes</title><meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark } .failed { color: light-dark(#a4161a, #ff8f8f) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em }
h2 { font-size: 1.1em } p { overflow-wrap: anywhere }
</style>
<main>
<h1>The recipes</h1>
<p>Four published recipes in miniature. Each line is what the notebook found; the name leads to the whole of it.</p>
"""


Ran = tuple[str, str, str, float]  # a recipe, what it found, "ok" or the first line of its error, and the seconds


def run_recipe(source: Path, out: Path, wanted: Mapping[str, Any]) -> Ran:
    """Run one notebook into `out`, also as HTML. Returns what came of it.

    An outcome is also a cell that fails, and the first of its verdicts that does not hold.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from papermill import PapermillExecutionError

    started, outcome = time.monotonic(), "ok"
    try:
        execute(source, out, wanted)
    except PapermillExecutionError as error:
        outcome = (f"{error.ename}: {error.evalue}".splitlines() or ["failed"])[0]
    book = nbformat.read(out / source.name, 4)
    lost = [line for line in printed(book.cells).splitlines() if line.startswith("NOT held")]
    outcome = lost[0] if lost and outcome == "ok" else outcome
    (out / f"{source.stem}.html").write_text(HTMLExporter().from_notebook_node(book)[0], encoding="utf-8")
    return source.stem, finding(book), outcome, time.monotonic() - started


def finding(book) -> str:
    """Returns what the cells tagged `finding` printed; "" where none ran."""
    return printed(cell for cell in book.cells if "finding" in cell.metadata.get("tags", [])).strip()


def printed(cells: Iterable) -> str:
    """Returns all that cells of a notebook printed."""
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def page(found: Sequence[Ran]) -> str:
    """Returns the page of the recipes, which needs nothing from the network."""
    text = PAGE
    for name, words, outcome, seconds in found:
        text += f'<h2><a href="{name}.html">{name}</a></h2>\n'
        text += f"<p>{html.escape(words or 'No finding: it ended before.')}</p>\n"
        text += f'<p class="{"ok" if outcome == "ok" else "failed"}">{html.escape(outcome)} · {seconds:.0f} s</p>\n'
    return text + "</main>\n"


def run_recipes(names: Sequence[str], seed: int, engine: str) -> bool:
    """Run recipes into `runs/recipes`, and write `index.html` there. Returns whether all of their checks hold."""
    out, found = runs.path("recipes"), []
    for name in names:
        found.append(run_recipe(ROOT / f"notebooks/recipes/{name}.ipynb", out, {"seed": seed, "engine": engine}))
        _, words, outcome, seconds = found[-1]
        print(f"{name}: {outcome}, {seconds:.0f} s\n  {words}", flush=True)
    (out / "index.html").write_text(page(found), encoding="utf-8")
    print(f"index: {named(out / 'index.html')}")
    return all(outcome == "ok" for _, _, outcome, _ in found)


def main() -> int:
    """Command line. Returns the exit code: 1 where a recipe's own check does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=jobs.NAME, help="the job's folder below runs/")
    parser.add_argument("--seed", type=int, default=0, help="decides the clips, the order and the sampling")
    parser.add_argument("--engine", default="auto", help="local, cosmos-rl, or auto: cosmos-rl where there are GPUs")
    parser.add_argument("--fresh", action="store_true", help="start over where an earlier one was stopped")
    parser.add_argument("--setup-seconds", type=float, default=0.0, help="what the installation took (make says it)")
    parser.add_argument("--job", metavar="NAME", help="instead: the job in jobs/NAME, from its data to its report")
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, help="instead: the recipes, all or those named")
    args = parser.parse_args()
    if args.recipes is not None:
        warnings.filterwarnings("ignore")  # of nbconvert, about pictures without a text
        return int(not run_recipes(args.recipes or RECIPES, args.seed, args.engine))
    name, notebooks = args.name, NOTEBOOKS
    if args.job:
        name = Path(args.job).name
        there = [step for step in jobs.CONFIGS if (jobs.FOLDER / name / f"{step}.toml").is_file()]
        if not there:
            parser.exit(1, f"jobs/{name} holds no job; make one first: python -m cookbook.new {name} --data FOLDER\n")
        notebooks = {name: {} for name in ("data", *there)} | {"evaluation": {"questions": -1, "control_questions": -1}}
    from papermill import PapermillExecutionError

    try:
        seconds = run_notebooks(name, args.seed, args.engine, notebooks, args.fresh)
    except PapermillExecutionError as error:
        told = (f"{error.ename}: {error.evalue}".splitlines() or ["failed"])[0]
        parser.exit(1, f"{told}\nThe notebook up to there: {named(runs.path(name) / 'notebooks')}\n")
    except (KeyboardInterrupt, RuntimeError) as error:  # papermill's own, where its kernel has gone
        parser.exit(130, f"stopped ({type(error).__name__}); the same command goes on from there\n")
    summary = summarize(name, args.seed, seconds, args.setup_seconds)
    print(summary.read_text())
    print(f"summary: {named(summary)}\nreport:  {named(runs.path(name) / 'report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
