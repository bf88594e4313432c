"""The notebooks from a shell: the main job from data to report, a job of your own, the recipes.

Why: what a person clicks through in JupyterLab must be what a machine can repeat. `make tutorial` runs the notebooks
through papermill, in order, says how long that takes, where it is and what came out. Nothing is trained here; the
notebooks do it, with their own defaults but for the longer training that two more minutes buy. `make recipes` runs the
five recipes, and writes one page that leads to them, of what they found.

    python -m cookbook.tutorial                      # runs/tutorial
    python -m cookbook.tutorial --name seed1 --seed 1
    python -m cookbook.tutorial --name gpu --engine cosmos-rl      # on a machine with GPUs
    python -m cookbook.tutorial --name qwen3 --base models/tiny-qwen3   # make tutorial BASE=models/tiny-qwen3
    python -m cookbook.tutorial --job mine           # jobs/mine, as python -m cookbook.new has written it
    python -m cookbook.tutorial --recipes            # runs/recipes/index.html; or some of them, --recipes video_rewards
"""
# ruff: noqa: E402

import os
import signal

GO_ON = "the same command goes on from there"
STOP = f"Ctrl-C stops it; {GO_ON}."
if __name__ == "__main__":  # before the other imports, which take a moment in which a stop would show a traceback
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda number, _: (os.write(2, f"stopped; {GO_ON}\n".encode()), os._exit(128 + number)))

import argparse
import json
import logging
import re
import sys
import textwrap
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cookbook import runs
from cookbook.config import Config, ConfigError
from cookbook.display.progress import FOLLOWED, duration
from cookbook.display.terminal import Line, leave_if_asked, stderr_to, stop_in_one_line, ways_to_open
from cookbook.runs import JOBS, ROOT, named

NAME = "tutorial"  # as in jobs.py, which takes seconds to import
NOTEBOOKS = {name: {} for name in ("setup", "problem", "data", "configuration")} | {
    "sft": {"epochs": 4, "clips": -1},  # the defaults are shorter, to be tested in a minute
    "rl": {"steps": 30, "lesson": ""},  # the lessons have a command of their own
    "evaluation": {"questions": -1},
}
RECIPES = ("video_rewards", "warehouse_spatial", "intelligent_transportation", "av_caption_vqa", "av_3d_grounding")
SUMMARY = "summary.json"
PLACE = "tutorial.json"  # how far a tutorial has come, until it ends
RELATIVE = re.compile(r"(?<=\]\()(?!\w+:|#)")  # where the address of a link or a picture beside the notebook begins
QUIET = ["--IPKernelApp.log_level=ERROR"]  # each kernel would warn that it talks to this machine without encryption
# seconds on two quiet cores (LOG.md, "The tutorial in a terminal"), and of those whose training and answers stand
SECONDS = {"setup": 30, "problem": 52, "data": 39, "configuration": 3, "sft": 201, "rl": 115, "evaluation": 80}
SECONDS |= {"video_rewards": 93, "warehouse_spatial": 90, "intelligent_transportation": 69, "av_caption_vqa": 81,
            "av_3d_grounding": 118}  # fmt: skip
AGAIN = {"sft": 35, "rl": 36, "evaluation": 43}
PACE = 0.018  # what `probe` measured there


# ---- how long ---------------------------------------------------------------------------------------------------


def probe(seconds: float = 0.5) -> float:
    """Returns the seconds that two cores of this machine take now for a small piece of work, a mean of `seconds`."""
    block = b"".join(b"%d" % n**2 for n in range(20_000))
    started, rounds = time.monotonic(), 0
    with ThreadPoolExecutor(2) as pool:
        while (spent := time.monotonic() - started) < seconds:
            rounds += len(list(pool.map(zlib.compress, (block, block)))) // 2
    return spent / rounds


def last_summary(name: str) -> dict[str, Any]:
    """Returns what the last run of this name left when it came to its end; {} where none did."""
    with suppress(OSError, ValueError):
        return runs.read_json(runs.path(name) / SUMMARY)
    return {}


def how_long(
    name: str, seed: int, engine: str, notebooks: Collection[str], fresh: bool = False, own: bool = False
) -> tuple[float, str]:
    """Returns the seconds that notebooks will take here, 0 where nobody knows, and a sentence; `own`: on own data."""
    from cookbook.doctor.checks import query_gpus

    last = {} if fresh else last_summary(name)
    if own and last:
        found = last["seconds"]["total"] - last["seconds"]["setup"]
        return found, f"Its last run took {duration(found)}."
    if own or (engine != "local" and query_gpus()):
        return 0.0, f"How long it takes {'on these data' if own else 'on GPUs'} was not measured."
    stands = (last.get("seed"), last.get("code")) == (seed, runs.code_hash())  # then so do its trainings and answers
    factor, known = probe() / PACE, SECONDS | (AGAIN if stands else {})
    found = factor * sum(known[notebook] for notebook in notebooks)
    why = "what was trained stands" if stands else f"{factor:.1f} times as long as on two quiet cores"
    return found, f"About {duration(round(found, -1))} here and now: {why}."


# ---- the notebooks ----------------------------------------------------------------------------------------------


def execute(source: Path, out: Path, wanted: Mapping[str, Any], line: Line | None = None) -> None:
    """Run a notebook into the folder `out`, with those of the wanted parameters that it has; `line` shows how far.

    Raises PapermillExecutionError where a cell fails; what ran before it is in `out` all the same.
    """
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    parameters = {key: wanted[key] for key in papermill.inspect_notebook(source) if key in wanted}
    shown = {"stdout_file": line, "progress_bar": line.cells()} if line else {"progress_bar": False}
    book, copy, home = nbformat.read(source, 4), out / source.name, quote(os.path.relpath(source.parent, out))
    for cell in (cell for cell in book.cells if cell.cell_type == "markdown"):
        cell.source = RELATIVE.sub(f"{home}/", cell.source)  # figures and links are found from the copy too
    nbformat.write(book, copy)
    try:
        papermill.execute_notebook(copy, copy, parameters, kernel_name="python3", extra_arguments=QUIET,
                                   coalesce_streams=True, **shown)  # fmt: skip
    finally:
        leave_if_asked()


def ended(name: str, **asked: Any) -> dict[str, float]:
    """Returns the seconds of the notebooks that ended before the same job was stopped; {} of another, or of none."""
    with suppress(OSError, ValueError):  # none, or one that is damaged: what was trained stands all the same
        found = runs.read_json(runs.path(name) / PLACE, ("asked", "seconds"))
        return found["seconds"] if found["asked"] == asked else {}
    return {}


def run_notebooks(
    name: str,
    seed: int,
    engine: str,
    notebooks: Mapping[str, Mapping] = NOTEBOOKS,
    fresh: bool = False,
    line: Line | None = None,
) -> dict[str, float]:
    """Run notebooks, with these parameters, into `runs/NAME/notebooks`. Returns the seconds that each took.

    After a stop the same again goes on: notebooks that ended are not run again, and a training goes on inside its own.
    With `fresh` all starts over.
    """
    asked, place = {"seed": seed, "engine": engine, "notebooks": notebooks}, runs.path(name) / PLACE
    seconds, line = {} if fresh else ended(name, **asked), line or Line(sys.stdout)
    for number, (notebook, longer) in enumerate(notebooks.items(), start=1):
        title = f"[{number}/{len(notebooks)}] {notebook}"
        if notebook in seconds:
            line.end(f"{title:24}  ended before")
            continue
        line.begin(title)
        wanted = {"job": name, "seed": seed, "engine": engine, "fresh": fresh, **longer}
        started = time.monotonic()
        execute(ROOT / f"notebooks/{notebook}.ipynb", runs.path(name) / "notebooks", wanted, line)
        seconds[notebook] = time.monotonic() - started
        runs.write_whole(place, json.dumps({"asked": asked, "seconds": seconds}).encode())
        line.end(f"{title:24}  {duration(seconds[notebook])}")
    place.unlink(missing_ok=True)
    return seconds


def summarize(name: str, seed: int, seconds: dict[str, float], setup_seconds: float) -> Path:
    """Write `runs/NAME/summary.json` from the evaluation's own comparison. Returns its path."""
    from cookbook.evaluation.findings import judged_steps

    comparison = runs.read_json(runs.path(name) / "evaluation" / "comparison.json")
    took = {step: round(seconds[step], 1) for step in ("data", "sft", "rl", "evaluation") if step in seconds}
    total = round(setup_seconds + sum(seconds.values()), 1)
    summary = {
        "seed": seed,
        "code": runs.code_hash(),
        **{key: comparison[key] for key in ("chance", "majority", "n", "texts") if key in comparison},
        "models": {m: {k: s[k] for k in ("accuracy", "ci95", "format_rate")} for m, s in comparison["models"].items()},
        "paired": {pair: {"p": step["p"]} for pair, step in judged_steps(comparison).items()},
        "seconds": {"setup": setup_seconds, **took, "total": total},
    }
    path = runs.path(name) / SUMMARY
    path.write_text(json.dumps(summary, indent=1))
    return path


def results(comparison: dict) -> list[str]:
    """Returns a line for each model, right answers with their 95 % interval, and its step; then the report's answer."""
    from cookbook.display.tables import label
    from cookbook.evaluation.findings import from_to, guessing, hundred, in_sentences, judged_steps, p_value, points

    texts, lines = in_sentences(comparison), []
    shown = texts or comparison
    of = "words shared; one answer for all" if texts else f"of {shown['n']} questions on unseen clips; guessing"
    said = [f"{of}: {hundred(guessing(shown))} %"]
    said += [f"{points(step['difference'])} points, {p_value(step['p'])}" for step in judged_steps(shown).values()]
    for (model, found), words in zip(shown["models"].items(), said):
        share = found["rougeL" if texts else "accuracy"]
        lines.append(f"{label(model):5} {hundred(share):>5} %  [{from_to(found['ci95'])}]  {words}")
    answer = [f"Did it get better? {comparison['answer']}.", *comparison["doubts"]]
    return lines + [part for sentence in answer for part in textwrap.wrap(sentence, 78, subsequent_indent="  ")]


def first_line(error: Exception) -> str:
    """Returns what a notebook's error says first."""
    said = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else f"{type(error).__name__}: {error}"
    return (said.splitlines() or ["failed"])[0]


# ---- the recipes ------------------------------------------------------------------------------------------------


Ran = tuple[str, str, str, float]  # a recipe, what it found, "ok" or the first line of its error, and the seconds


def run_recipe(source: Path, out: Path, wanted: Mapping[str, Any], line: Line | None = None) -> Ran:
    """Run one notebook into `out`, also as HTML. Returns what came of it.

    An outcome is also a cell that fails, and the first of its verdicts that does not hold.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from papermill import PapermillExecutionError

    started, outcome = time.monotonic(), "ok"
    try:
        execute(source, out, wanted, line)
    except PapermillExecutionError as error:
        outcome = first_line(error)
    book = nbformat.read(out / source.name, 4)
    lost = [told for told in printed(book.cells).splitlines() if told.startswith("NOT held")]
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
    from jinja2 import Environment, FileSystemLoader

    pages = Environment(loader=FileSystemLoader(ROOT / "cookbook"), autoescape=True, trim_blocks=True)
    return pages.get_template("tutorial.html.j2").render(found=found) + "\n"


def run_recipes(names: Sequence[str], seed: int, engine: str, line: Line, base: str = "") -> bool:
    """Run recipes into `runs/recipes`, and write `index.html` there. Returns whether all of their checks hold."""
    out, found = runs.path("recipes"), []
    for number, name in enumerate(names, start=1):
        line.begin(title := f"[{number}/{len(names)}] {name}")
        own = {"base": base, "job": f"{name}_{Path(base).name}"} if base else {}
        wanted = {"seed": seed, "engine": engine} | own
        found.append(run_recipe(ROOT / f"notebooks/recipes/{name}.ipynb", out, wanted, line))
        _, words, outcome, seconds = found[-1]
        told = textwrap.wrap(words, 78, initial_indent="  ", subsequent_indent="  ")
        line.end(f"{title:32}  {duration(seconds)}, {outcome}", *told)
    (out / "index.html").write_text(page(found), encoding="utf-8")
    line.end(*ways_to_open("page", out / "index.html"))
    return all(outcome == "ok" for _, _, outcome, _ in found)


def own_notebooks(name: str) -> dict[str, dict]:
    """Returns the notebooks of the job in `jobs/NAME`, with their parameters; {} where there is none."""
    there = [step for step in ("sft", "rl") if (JOBS / name / f"{step}.toml").is_file()]
    ends = {"evaluation": {"questions": -1, "control_questions": -1}}
    return {step: {} for step in ("data", *there)} | ends if there else {}


def begins_with(job: str) -> str:
    """Returns what the job in `jobs/NAME` starts from; "" where that cannot be read: what comes after says why."""
    with suppress(ConfigError, StopIteration):
        file = next(file for step in ("sft", "rl") if (file := JOBS / job / f"{step}.toml").is_file())
        return str(Config.read(file)["policy.model_name_or_path"])
    return ""


def downloaded(name: str) -> bool:
    """Whether the hub's cache has a model of this name."""
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    return False


def main() -> int:
    """Command line. Returns the exit code: 1 where a recipe's own check does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=NAME, help="the job's folder below runs/")
    parser.add_argument("--seed", type=int, default=0, help="decides the clips, the order and the sampling")
    parser.add_argument("--engine", default="auto", help="local, cosmos-rl, or auto: cosmos-rl where there are GPUs")
    parser.add_argument("--base", default="", help="the checkpoint that training starts from, instead of the usual one")
    parser.add_argument("--fresh", action="store_true", help="start over where an earlier one was stopped")
    parser.add_argument("--setup-seconds", type=float, default=0.0, help="what the installation took (make says it)")
    parser.add_argument("--job", metavar="NAME", help="instead: the job in jobs/NAME, from its data to its report")
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, help="instead: the recipes, all or those named")
    args = parser.parse_args()
    start = args.base or (begins_with(Path(args.job).name) if args.job else "")
    if start and not next((ROOT / start).glob("**/*.safetensors"), None) and not downloaded(start):
        helps = "fetch it with `hf download NAME`, or with --local-dir FOLDER and name that folder in its place"
        parser.exit(1, f"{start}: no such folder with *.safetensors, and all begins with it; {helps}\n")
    line, began = Line(sys.stdout), time.monotonic()
    if args.recipes is not None:
        names = args.recipes or RECIPES
        told = how_long("recipes", args.seed, args.engine, names)[1]
        if (runs.path("recipes") / "index.html").is_file():  # some of their trainings stand
            told = told.replace("About", "At most")
        line.end(f"{len(names)} recipes, a notebook each, and a page of what they found.", told, STOP)
        with stderr_to(runs.path("recipes") / "stderr.log"):
            return int(not run_recipes(names, args.seed, args.engine, line, args.base))
    name, notebooks = Path(args.job).name if args.job else args.name, NOTEBOOKS
    try:
        runs.require_name(name)
    except runs.RunError as error:
        parser.exit(2, f"{error}\n")
    if args.job and not (notebooks := own_notebooks(name)):
        parser.exit(1, f"jobs/{name} holds no job; make one first: python -m cookbook.new {name} --data FOLDER\n")
    if args.base:
        notebooks = {step: asked | {"base": args.base} for step, asked in notebooks.items()}
    done = {} if args.fresh else ended(name, seed=args.seed, engine=args.engine, notebooks=notebooks)
    said, told = how_long(name, args.seed, args.engine, notebooks.keys() - done, args.fresh, bool(args.job))
    line.end(f"Job {name}: {len(notebooks)} notebooks, from the data to a report on what was trained.", told, STOP)
    from papermill import PapermillExecutionError

    try:
        with stderr_to(runs.path(name) / "stderr.log"):
            seconds = run_notebooks(name, args.seed, args.engine, notebooks, args.fresh, line)
    except (PapermillExecutionError, RuntimeError) as error:  # a cell has failed, or papermill's kernel has gone
        line.end()
        place = named(runs.path(name) / "notebooks")
        parser.exit(1, f"{first_line(error)}\nThe notebook up to there: {place}. With that mended, {GO_ON}.\n")
    summarize(name, args.seed, seconds, args.setup_seconds)
    took = f"Took {duration(time.monotonic() - began)}" + f"; about {duration(round(said, -1))} were said." * bool(said)
    line.end(took, *results(runs.read_json(runs.path(name) / "evaluation" / "comparison.json")))
    line.end(*ways_to_open("report", runs.path(name) / "report.html"))
    return 0


if __name__ == "__main__":
    stop_in_one_line(GO_ON)
    os.environ[FOLLOWED] = "followed"  # for the notebooks' kernels
    sys.exit(main())
