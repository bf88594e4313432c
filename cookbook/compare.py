"""Two jobs or more on one page: the settings that differ, their curves over one another, the same questions in pairs.

Why: whether a change helped is seen on the same questions only, answer by answer; two reports beside each other do not
tell. Of each job the last trained model is taken, as its evaluation asked it; each is paired with the one before it, in
the words and by the tests of the report. Jobs without an evaluation, or of other questions, are refused.

    python -m cookbook.compare tutorial longer        # runs/compare.html, and the answer in the terminal
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cookbook import runs
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.display import plots
from cookbook.display.tables import Table, label
from cookbook.display.terminal import command_parser
from cookbook.engine.launch import AS_LAUNCHED
from cookbook.engine.records import read_engine_metrics
from cookbook.evaluation.predictions import read
from cookbook.evaluation.report import Report
from cookbook.evaluation.scores import compare_pairs, score
from cookbook.runs import MANIFEST, RunError, named

FACTS = ("engine", "data", "passport", "contract", "seed", "code")  # of a manifest, beside the configuration
TOLD = ("outcome", "steps", "seconds", "commit")  # of it, at the end of the page
LEVELS = ("n", "chance", "majority")
READ = "Each job in its colour. A lower loss or a higher reward is no better model yet: the questions above decide."


@dataclass(frozen=True)
class Side:
    """One job of a comparison: what it was set to, what its runs left, and what its last model answered."""

    name: str
    comparison: dict
    rows: list[dict]
    settings: dict[str, str]
    manifests: dict[str, dict]
    metrics: dict[str, list[dict]]
    fps: float


@dataclass(frozen=True)
class Page(Report):
    """The report of several jobs."""

    sides: Sequence[Side] = ()

    def trainings(self) -> dict[str, list[dict]]:
        """Returns the metrics of each job's runs, as "SFT of JOB"."""
        return {f"{label(run)} of {s.name}": rows for s in self.sides for run, rows in s.metrics.items() if rows}

    def figures(self) -> list:
        draw = partial(plots.compared_curves, {side.name: side.metrics for side in self.sides})
        return [(draw, "Curves of the jobs over one another", READ)] if draw() else []


def read_side(job: str) -> Side:
    """Returns what a job has left. Raises RunError where it has no whole evaluation, ValueError for damaged files."""
    folder = runs.path(job)
    again = f"run first: papermill notebooks/evaluation.ipynb notebooks/out.ipynb -p job {shlex.quote(job)}"
    if not (file := folder / "evaluation" / "comparison.json").is_file():
        raise RunError(f"{named(folder)}: has no evaluation; {again}")
    found = runs.read_json(file, ("models", "tasks", *LEVELS))
    model = list(found["models"])[-1]
    rows = read(folder / "evaluation" / f"predictions_{model}.jsonl")
    if len(rows) != found["n"]:
        raise RunError(f"{named(folder)}: {model} has {len(rows)} answers, its evaluation {found['n']}; {again}")
    done = {step: folder / step for step in ("sft", "rl") if (folder / step / MANIFEST).is_file()}
    settings, told, fps = {"model": model}, {}, Report.fps
    for step, run in done.items():
        facts, config = runs.read_manifest(run), Config.read(run / "config.toml")
        told[step] = {key: facts[key] for key in TOLD if key in facts}
        stated = {key: facts.get(key) for key in FACTS} | config.stated
        settings |= {step: "trained"} | {f"{step}: {key}": stated[key] for key in stated if key not in AS_LAUNCHED}
        contract = runs.ROOT / config.table("custom").get("contract", "")
        fps = Contract.load(contract).vision.fps if contract.is_file() else fps
    settings = {key: str(value).replace(named(folder), "JOB") for key, value in settings.items()}
    metrics = {step: read_engine_metrics(run, torn=True) for step, run in done.items()}
    # a model's name is taken apart at "_vs_"
    return Side(job.replace("_vs_", " vs "), found, rows, settings, told, metrics, fps)


def differing(sides: Sequence[Side]) -> Table:
    """Returns the settings in which jobs differ, a column a job; of a step that not all have trained, only that."""
    keys = dict.fromkeys(key for side in sides for key in side.settings)
    shared = [key for key in keys if ": " not in key or all(key.split(": ")[0] in side.settings for side in sides)]
    rows = [(key, *(side.settings.get(key, "–") for side in sides)) for key in shared]
    return Table(("setting", *(side.name for side in sides)), [row for row in rows if len(set(row[1:])) > 1])


def compare_jobs(sides: Sequence[Side], again: Mapping[str, str]) -> Page:
    """Returns the page of these jobs, oldest first, with its lines to copy; of majority levels the highest counts.

    Raises ValueError where their items or contracts differ, or two are one model.
    """
    rows, found = {side.name: side.rows for side in sides}, [side.comparison for side in sides]
    pairs = compare_pairs(rows)
    if texts := pairs.get("texts"):
        texts["majority"] = max(each.get("texts", {}).get("majority", 0) for each in found)
    if any(each["tasks"].keys() != found[0]["tasks"].keys() for each in found):
        raise ValueError("the jobs give their questions to other tasks; evaluate them again, with the same data")

    def levels(parts: Sequence[Mapping]) -> dict:
        return {key: max(part[key] for part in parts) for key in LEVELS}

    tasks = {task: levels([each["tasks"][task] for each in found]) for task in found[0]["tasks"]}
    comparison = levels(found) | {"tasks": tasks, "models": {name: score(part) for name, part in rows.items()}} | pairs
    names = list(rows)
    return Page(
        comparison,
        rows,
        manifest={f"{label(step)} of {s.name}": told for s in sides for step, told in s.manifests.items()},
        fps=sides[-1].fps,
        again=again,
        settings=differing(sides),
        question="Is each better than the one before?" if names[2:] else f"Is {names[1]} better than {names[0]}?",
        sides=sides,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 with one line on stderr for jobs that do not compare."""
    parser = command_parser("cookbook.compare", __doc__)
    parser.add_argument("jobs", nargs="+", help="names of jobs, their folders below runs/; the oldest first")
    parser.add_argument("--out", type=Path, default=runs.path("compare.html"), help="the page")
    given = parser.parse_args(arguments)
    try:
        if len(set(given.jobs)) < max(2, len(given.jobs)):
            raise RunError("a comparison takes two jobs or more, each once")
        again = {"Compare again:": shlex.join(["python", "-m", "cookbook.compare", *given.jobs])}
        page = compare_jobs([read_side(job) for job in given.jobs], again)
        place = page.write(given.out)
    except (ValueError, OSError, RunError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    answer, doubts, evidence = page.answer()
    print(f"{page.question} {answer}", *doubts, evidence, page.settings, f"page: {named(place.resolve())}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
