"""The steps of a job, from data to report, and the one noun that they are handed: `Job`.

Why: a notebook explains a step and then runs it; the step itself stands here, so that papermill, `make tutorial` and
the tests run the same lines, on any data. What a step must know (configuration, contract, samples, start) is found out
once, by `prepare`, and handed down. All of a job lies under `runs/NAME/`: data, sft, rl, evaluation, report.html.

    job = prepare(Config.load("jobs/mine/sft.toml"), "mine")
    export = train(job)
    comparison, rows = evaluate(job)
    report(job, comparison, rows, control_rows=controls(job, "sft"))
"""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from cookbook import checkpoint, runs
from cookbook.checkpoint.lineage import fingerprint, lineage, tree
from cookbook.checkpoint.merge import merge
from cookbook.checkpoint.store import ADAPTER
from cookbook.config import Config, require
from cookbook.data.answers import choices_of
from cookbook.data.contract import Contract, ContractError
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample, require_plain, require_targets
from cookbook.data.vision import narrower_limits
from cookbook.display.live import live_curves
from cookbook.display.tables import label
from cookbook.engine.launch import AS_LAUNCHED, PROGRAM, choose_engine, launch, on_gpus
from cookbook.engine.records import read_engine_metrics
from cookbook.evaluation import presets
from cookbook.evaluation.controls import blind, circular, other_clips, shuffled, single_frame, with_frames
from cookbook.evaluation.parallel import predict_parallel
from cookbook.evaluation.predict import predict
from cookbook.evaluation.predictions import judge
from cookbook.evaluation.report import Report
from cookbook.evaluation.scores import compare
from cookbook.runs import MANIFEST, ROOT, Run, RunError, locked, named, read_manifest, require_name, unfinished
from cookbook.training.checkpointer import stops_between_steps
from cookbook.training.grpo import grpo
from cookbook.training.optimizer import LORA, set_learning
from cookbook.training.rewards import are_ours, require_gold, reward_weights
from cookbook.training.sft import sft
from cookbook.training.validation import best_step
from data_tools import loading
from data_tools.loading import Splits
from data_tools.passport import Passport, passport, read_passport
from data_tools.passport.checks import NEAR
from data_tools.passport.tokens import token_counter

log = logging.getLogger(__name__)

DATASET, START, LOADER = f"{loading.TRAIN}.name", "policy.model_name_or_path", "custom.loader"
STEPS = {"sft": "sft", "grpo": "rl"}  # the folder of a run, by the kind of its configuration


@dataclass(frozen=True)
class Job:
    """What every step of one job is handed. `prepare` makes it."""

    name: str  # the folder below runs/
    seed: int
    loader: str  # the file that the samples come from
    config: Config  # bound to the job's folder, data and passport
    contract: Contract
    splits: Splits  # without what the passport has in quarantine
    passport: str  # the hash of the data's passport
    start: str  # the checkpoint that training begins from
    base: str  # the checkpoint that all others are compared with

    @property
    def step(self) -> str:
        """Returns "sft" or "rl": the folder of the run."""
        return STEPS[self.config.kind]

    @property
    def path(self) -> Path:
        return runs.path(self.name)

    def open(self, path: str | Path):
        """Returns (model, encoder) of a checkpoint under the job's contract, in the numbers that it trains in."""
        return open_model(path, self.contract, self.config["train.param_dtype"])

    def unseen(self, count: int | None = None) -> list[Sample]:
        """Returns the first `count` samples that no training has seen: the test split, or else validation."""
        return (self.splits.get("test") or self.splits["validation"])[:count]


# ---- prepare ----------------------------------------------------------------------------------------------------


def prepare(config: Config, name: str, loader: str = "", seed: int = 0, base: str = "") -> Job:
    """Returns the job of a configuration: its data found or made and checked, everything that a step asks for.

    `loader` is a file with `load(config)`, as cosmos-rl takes it, by default that of `custom.loader`, else the one of
    the data's format; one that also has `make(config, folder, seed)` makes its own data where they are missing. Data
    without a passport get one, in `runs/NAME/data`. RL without a start goes on from the job's SFT. `base` is what the
    start was trained from, where nothing else is said.
    Raises DataError, ConfigError or ContractError for what cannot be used.
    """
    require_name(name)
    loader = loader or config.table("custom").get("loader") or loading.loader_for(config[DATASET])
    start = config[START] or named(runs.path(name) / "sft")
    place = named(runs.path(name) / STEPS[config.kind])
    config = config.edit({"train.output_dir": place, START: start, LOADER: loader})
    if config.kind == "sft":
        config = config.edit({"train.train_policy.dataloader_seed": seed})
    config, module = _bound(config, name, loader, seed)
    if "passport" not in config.table("custom"):
        file = runs.path(name) / "data" / loading.PASSPORT
        if not (hasattr(module, "make") and file.is_file()):  # other data may have changed since
            check_data(config, name, loader, seed)
        config = config.edit({"custom.passport": named(file)})
    checked = read_passport(ROOT / config.table("custom")["passport"])
    contract, splits = loading.contract(config), module.load(config)
    for samples in splits.values():
        require_plain(samples)
    if (folder := checkpoint.on_disk(start)) and (narrow := narrower_limits(folder, contract.vision)):
        log.log(logging.WARNING if choose_engine("auto") == PROGRAM else logging.INFO, narrow)
    base = base or (lineage(start)[0].place if (ROOT / start).exists() else start)
    return Job(name, seed, loader, config, contract, splits, checked["hash"], start, base)


def _bound(config: Config, name: str, loader: str, seed: int) -> tuple[Config, ModuleType]:
    """Returns the configuration with the data that the loader makes, if it makes any, and the loader."""
    module, folder = loading.loader(loader), runs.path(name) / "data"
    if hasattr(module, "make"):
        with locked(folder.parent, wait=True):
            config = module.make(config, folder, seed)
    return config, module


def check_data(config: Config, name: str, loader: str, seed: int = 0) -> Passport:
    """Returns the passport of what the loader gives, and leaves it in `runs/NAME/data` for all later steps.

    Lengths are those that the configuration's model counts, where it is on this disk. Of data that the loader makes all
    are checked, whatever part of them the configuration takes. A loader's NEAR says how near two looks may be.
    """
    config, module = _bound(config, name, loader, seed)
    makes, out = hasattr(module, "make"), runs.path(name) / "data"
    bound, model = loading.contract(config), checkpoint.on_disk(config[START])
    if not model:
        log.warning("%s is not on this disk, so lengths are not counted", config[START])
    whole = config.edit({"custom": {"contract": config.table("custom")["contract"]}}) if makes else config
    found = passport(
        module.load(whole.edit({"custom.passport": ""})),  # not by an earlier one, which may be that of other data
        folder=out if makes else None,
        max_length=config["policy.model_max_length"],
        near=getattr(module, "NEAR", NEAR),
        count_tokens=token_counter(model, bound) if model else None,
    )
    out.mkdir(parents=True, exist_ok=True)
    found.write(out / loading.PASSPORT)
    return found


def open_model(path: str | Path, contract: Contract, dtype: str = "float32", seen: Contract | None = None):
    """Returns (model, encoder) of a checkpoint, bound to the contract; `dtype` is torch's name for its numbers.

    `seen` is what it is asked under, where that is another (`presets.preset`). Raises ContractError where the
    checkpoint was trained under another contract.
    """
    model, processor = checkpoint.load(path, getattr(torch, dtype))
    checkpoint.require_contract(path, contract)
    return model, Encoder(processor, seen or contract, model.config)


# ---- train ------------------------------------------------------------------------------------------------------


def train(
    job: Job, engine: str = "local", gpus: int = 0, stop_on_alarm: bool = True, fresh: bool = False, keep: bool = False
) -> Path:
    """Run the job's training, SFT or GRPO as its configuration says. Returns the last export, in `runs/NAME/STEP`.

    A run that was stopped goes on where it was, and one of the same settings that stands is taken as it is; with `keep`
    one of other settings too, of the same data, start and code. With `fresh` it starts over. An
    earlier export goes when the new one stands. `gpus` are for cosmos-rl; 0 takes all. With `stop_on_alarm` a severe
    alarm of cookbook.watch ends the run: TrainingStopped, on cosmos-rl EngineError. Raises RunError where another
    process trains into the folder, or where what was stopped there had other settings.
    """
    loading.require_step(job.config, job.splits)
    if job.step == "sft":
        require_targets(job.splits["train"])
    if (program := choose_engine(engine)) == PROGRAM:
        job = replace(job, config=_laid_out(job, gpus or torch.cuda.device_count()))
    place = job.path / job.step
    with locked(place):
        facts, began = _facts(job, program), datetime.fromtimestamp(place.stat().st_mtime)
        changed = _changed(place, job.config, facts)
        ended = (place / MANIFEST).is_file() and not unfinished(place) and any((place / runs.EXPORTS).glob("step_*"))
        differs = "; ".join(f"{key}: {old!r} there, {new!r} here" for key, (old, new) in changed.items())
        if ended and not fresh and (not changed or (keep and not changed.keys() & facts)):
            settings = f"of other settings ({differs})" if changed else "of these settings"
            print(f"{named(place)}: stands, {settings} and this code; fresh trains again")
            return checkpoint.find(place)
        stopped = (place / runs.STATE).is_file() or checkpoint.last_complete(place) is not None
        go_on = bool(not fresh and stopped and unfinished(place))
        changed.pop("code", None)  # a stopped run may go on after an update
        if go_on and changed:
            helps = "go on with its settings, start over (-p fresh True, or --fresh), or take another name for the job"
            raise RunError(f"{named(place)}: holds a stopped run with other settings ({differs}); {helps}")
        if not go_on and any((place / runs.EXPORTS).glob("step_*")):
            print(f"{named(place)}: this replaces the run of {began:%H:%M}, whose exports go when a new one stands")
        if program == PROGRAM:
            return _launch(job, facts, go_on, stop_on_alarm)
        require(job.config, gpus=1, samples=len(job.splits["train"]))
        learns = "param" if job.config.table(LORA) else "master"  # 16 bits would lose the updates of what learns
        model, encoder = open_model(job.start, job.contract, job.config[f"train.{learns}_dtype"])
        torch.manual_seed(job.seed)
        set_learning(model, job.config)
        run, samples, validation = _begin(job, facts, go_on), job.splits["train"], job.splits["validation"]
        with stops_between_steps(), live_curves(run, job.step):
            if job.step == "sft":
                return sft(job.config, samples, validation, encoder, model, run, stop_on_alarm=stop_on_alarm)
            return grpo(job.config, samples, encoder, model, run, job.seed, validation, stop_on_alarm=stop_on_alarm)


def _facts(job: Job, program: str) -> dict[str, Any]:
    """Returns what decides, beside the configuration, what a training ends as; it stands in the run's manifest."""
    return {
        "engine": program, "data": job.config[DATASET], "passport": job.passport, "contract": job.contract.hash,
        "start": job.config[START] if program == PROGRAM else job.start, "weights": fingerprint(job.start),
        "seed": job.seed, "code": runs.code_hash(),
    }  # fmt: skip


def _changed(place: Path, config: Config, facts: Mapping[str, Any]) -> dict[str, tuple]:
    """Returns {name: (there, here)} of what differs from the run that a folder holds."""
    told, file = read_manifest(place), place / "config.toml"
    before = Config.read(file).stated if file.is_file() else {}
    keys = [key for key in before | config.stated if key not in AS_LAUNCHED]
    return {key: (told.get(key), value) for key, value in facts.items() if told.get(key) != value} | {
        key: (before.get(key), config.stated.get(key)) for key in keys if before.get(key) != config.stated.get(key)
    }


def _begin(job: Job, facts: Mapping[str, Any], go_on: bool) -> Run:
    """Start the run folder of the job's training, or go on in it, with its configuration and manifest."""
    torch.manual_seed(job.seed)
    run = Run(f"{job.name}/{job.step}", seed=job.seed, go_on=go_on)
    (run.path / "config.toml").write_text(job.config.text(), encoding="utf-8")
    run.write_manifest(**facts, outcome="running")
    return run


def _laid_out(job: Job, gpus: int) -> Config:
    """Returns the configuration for so many GPUs of this machine, its start as a folder of weights.

    Raises ContractError where the start's own limits would show the engine other frames than evaluation.
    """
    if (folder := checkpoint.on_disk(job.start)) and (narrow := narrower_limits(folder, job.contract.vision)):
        raise ContractError(narrow)
    config = job.config
    if (ROOT / job.start).exists():
        checkpoint.require_contract(job.start, job.contract)
        config = config.edit({START: named(checkpoint.find(job.start))})
    config = on_gpus(config, gpus)
    require(config, gpus=gpus, samples=len(job.splits["train"]))
    if are_ours(config):
        require_gold(job.splits["train"], reward_weights(config), job.contract)
    return config


def _launch(job: Job, facts: Mapping[str, Any], go_on: bool, stop_on_alarm: bool) -> Path:
    """Run the job's training on cosmos-rl. Returns the last export, with its contract."""
    config, run = job.config, _begin(job, facts, go_on)
    resume = checkpoint.last_complete(run.path) if go_on else None
    with live_curves(run, job.step):
        export = launch(config, job.loader, run, resume=resume, replace=True, stop_on_alarm=stop_on_alarm)
    job.contract.save(export / checkpoint.CONTRACT)
    if not (export / ADAPTER).is_file():
        return export
    adapter = run.path / "adapter" / export.name  # the export becomes whole weights, for all that follows
    adapter.parent.mkdir(exist_ok=True)
    return merge(export.rename(adapter), export, config[START])


# ---- evaluate ---------------------------------------------------------------------------------------------------


def models(job: Job) -> dict[str, str]:
    """Returns the checkpoints to compare, by name: the base, and what the job has trained so far.

    Of a run that is the best by held-out accuracy where that was measured, or the last.
    """
    found = {"base": job.base}
    for step in STEPS.values():
        if (exports := job.path / step / "safetensors").exists():
            checkpoint.require_finished(job.path / step)
            best = best_step(job.path / step)
            found[step] = named(exports.parent if best is None else exports / f"step_{best}")
        elif outcome := unfinished(job.path / step):
            log.warning("%s: left out, its training did not come to an export (%s)", named(job.path / step), outcome)
    return found


def ask(
    job: Job, name: str, path: str | Path, questions: int | None = None, gpus: int = 1, preset: str = ""
) -> list[dict]:
    """Let a checkpoint answer unseen questions, a part on each of `gpus`, 0 for all. Returns its rows in order.

    `preset` says how answers are drawn (`presets.preset`). Writes `runs/NAME/evaluation/predictions_NAME.jsonl`;
    answers that stand there already, of the same weights, are not asked for again.
    """
    items, (seen, how) = job.unseen(questions), presets.preset(preset, job.contract)
    file = job.path / "evaluation" / f"predictions_{name}.jsonl"
    if (gpus := min(gpus or torch.cuda.device_count(), torch.cuda.device_count())) <= 1:
        model, encoder = open_model(path, job.contract, job.config["train.param_dtype"], seen)
        return predict(model, encoder, items, name, path=file, **how)
    config = job.path / "evaluation" / "config.toml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(job.config.text(), encoding="utf-8")
    said = {"--model": path, "--config": config, "--out": file, "--name": name, "--preset": preset,
            "--questions": len(items)}  # fmt: skip
    return predict_parallel([str(word) for pair in said.items() for word in pair], [s.id for s in items], file, gpus)


def evaluate(
    job: Job, questions: int | None = None, gpus: int = 1, preset: str = ""
) -> tuple[dict, dict[str, list[dict]]]:
    """Let the base and what the job has trained answer unseen questions. Returns (comparison, rows by model)."""
    rows = {name: ask(job, name, path, questions, gpus, preset) for name, path in models(job).items()}
    return compare(rows, [judge(sample, "", job.contract) for sample in job.splits["train"]]), rows


def controls(job: Job, model_name: str, questions: int | None = None) -> dict[str, list[dict]]:
    """Let a model answer unseen questions with less to see. Returns rows by control.

    A model that looks at the clip falls back to guessing; where it does not, the questions do not need what was taken
    away. Choices come once behind each letter. Writes `runs/NAME/evaluation/controls_MODEL_CONTROL.jsonl`.
    """
    items = job.unseen(questions)
    model, encoder = job.open(models(job)[model_name])
    asked = {
        "blind": (encoder, blind(items)),
        "other clips": (encoder, other_clips(items)),
        "single frame": (with_frames(encoder, single_frame), items),
        "shuffled frames": (with_frames(encoder, shuffled), items),
        "turned options": (encoder, circular([s for s in items if choices_of(s.question)[1]])),
    }
    rows = {}
    for control, (sees, part) in asked.items():
        file = job.path / "evaluation" / f"controls_{model_name}_{control.replace(' ', '_')}.jsonl"
        name, limit = f"{model_name}, {control}", job.contract.max_new_tokens
        rows[control] = predict(model, sees, part, name, limit=limit, path=file)
    return {control: found for control, found in rows.items() if found}


def report(
    job: Job,
    comparison: dict,
    rows: dict[str, list[dict]],
    clips: int = 6,
    control_rows: Mapping[str, list[dict]] | None = None,
    notes: Sequence[str] = (),
    order: Sequence[str] = (),
) -> Path:
    """Write `runs/NAME/report.html`, and `evaluation/comparison.json` with its answer. Returns the report's path.

    `control_rows` are those of the last model, `notes` sentences beside the scores, `order` the tasks that only the
    order of the frames should answer. The configurations and the lineage of the last checkpoint come along.
    """
    done = {step: job.path / step for step in STEPS.values() if (job.path / step / MANIFEST).is_file()}
    texts = {"Lineage": tree(lineage(list(models(job).values())[-1]))}
    page = Report(
        comparison,
        rows,
        **{step: read_engine_metrics(run, torn=True) for step, run in done.items()},  # as cookbook.watch reads them
        controls=control_rows or {},
        manifest={step: runs.read_json(run / MANIFEST) for step, run in done.items()},
        texts=texts
        | {f"{s}/config.toml": (run / "config.toml").read_text(encoding="utf-8") for s, run in done.items()},
        notes=notes,
        order=order,
        clips=clips,
        fps=job.contract.vision.fps,
        again=_again(job, done, comparison["n"]),
    )
    answer, doubts, _ = page.answer()
    kept = json.dumps(comparison | {"answer": answer, "doubts": doubts}, indent=1)
    (job.path / "evaluation" / "comparison.json").write_text(kept, encoding="utf-8")
    return page.write(job.path / "report.html")


def _again(job: Job, done: Mapping[str, Path], questions: int) -> dict[str, str]:
    """Returns the lines that train the job's runs again, ask again, and score what was answered, by what they do."""
    asked = f"notebooks/out.ipynb -p job {shlex.quote(job.name)} -p seed {job.seed}"
    lines = {
        f"Train {label(step)} again, as it was set:":
        f"papermill notebooks/{step}.ipynb {asked} -p config {shlex.quote(named(run / 'config.toml'))} -p fresh True"
        for step, run in done.items()
    }  # fmt: skip
    answers = shlex.quote(named(job.path / "evaluation"))
    return lines | {
        "Ask the same questions, and write this page:":
        f"papermill notebooks/evaluation.ipynb {asked} -p questions {questions}",
        "Score the answers that stand, without a model:":
        f"python -m cookbook.evaluation score {answers}/predictions_*.jsonl",
    }  # fmt: skip
