"""The job that a notebook's parameters ask for: of the toy road by default, of other data where they are named.

Why: one notebook runs the tiny job and yours. A shipped configuration is written for its own data; other data want
another loader, another form of answers, other lengths, and a batch that they can fill. All of that can be read off the
data: `fitted` sets it and nothing else. `python -m cookbook.new` writes the same into `jobs/NAME`, to be edited.

    work = jobs.job("tutorial", "sft", seed=0)
    work = jobs.job("mine", "sft", data="my_clips")
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cookbook import checkpoint, pipeline, runs
from cookbook.checkpoint import CheckpointError
from cookbook.config import Config, ConfigError
from cookbook.config.models import family_of
from cookbook.config.schema import BATCH, GENERATIONS, LENGTH, MINI, RESPONSE
from cookbook.data.answers import FORMATS
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError, Sample
from cookbook.engine.launch import choose_engine, on_gpus
from cookbook.pipeline import DATASET, START, Job
from cookbook.runs import ROOT, named
from data_tools import loading
from data_tools.passport import Passport
from data_tools.passport.tokens import rough_lengths

NAME, LOADER = "tutorial", "data_tools/road_vqa.py"
CONFIGS = {"sft": "configs/tiny_sft.toml", "rl": "configs/tiny_rl.toml"}
CONTRACT = "configs/prompts/road.yaml"
STEPS, EPOCHS = "train.max_num_steps", "train.epoch"
BASE = "models/tiny-base"
CAPTIONS = "configs/prompts/captions.yaml"  # for a configuration that names no contract
LONGEST = 4096  # tokens that the shipped models read without being told more: longer samples are the owner's decision
TEST_SHARE = 0.2  # of data that come without a test split
ROOM = 16  # tokens: a written answer may be a little longer than the longest that was seen
FOLDER = runs.JOBS


def job(
    name: str,
    step: str = "sft",
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    *,
    config: str = "",
    data: str = "",
    format: str = "",
    loader: str = "",
    contract: str = "",
    base: str = "",
) -> Job:
    """Returns the job of one step, "sft" or "rl", as the parameters of a notebook ask for it.

    `config` is a TOML file: by default `jobs/NAME/STEP.toml` where that is there, else the shipped one of the toy road,
    whose clips are made where missing. `data` (with `format`, `loader`, `contract` where they are not to be found out)
    puts other data into it, fitted by `fitted`; left empty, they are those of the job's earlier run. `base` is
    the checkpoint that SFT starts from and all are compared with. `changes` are edits of the configuration.
    """
    if data and name == NAME:
        raise ValueError(f"{NAME!r} is the job of the toy road; give yours another name: -p job mine")
    file, before = config_file(name, step, config), _earlier(name)
    toy = file == CONFIGS[step] and not (data or before)
    chosen = Config.load(file)
    if step == "sft":
        chosen = chosen.edit({START: base}) if base else chosen
    elif toy or (runs.path(name) / "sft").is_dir():  # RL goes on from the job's own SFT
        chosen = chosen.edit({START: named(runs.path(name) / "sft")})
    elif base or file == CONFIGS[step]:
        chosen = chosen.edit({START: base or BASE})
    if data or (before and file == CONFIGS[step]):
        same = not data or before.get("data") == place_of(data)
        loader = loader or (before.get("loader", "") if same else "")
        contract = contract or (before.get("contract", "") if same or step == "rl" else "")
        chosen, _ = fitted(chosen, name, data or before["data"], format=format, loader=loader, contract=contract)
    else:
        asked = {pipeline.LOADER: loader or (LOADER if toy else ""), "custom.contract": contract}
        chosen = chosen.edit({key: said for key, said in asked.items() if said})
    if toy and step == "rl" and not (runs.path(name) / "data" / loading.PASSPORT).is_file():
        job(name, "sft", seed, base=base)  # SFT's start can count tokens before SFT ends
    made = pipeline.prepare(chosen.edit(changes or {}), name, seed=seed, base=base)
    return _with_passes(made) if set(changes or {}) & {STEPS, EPOCHS} == {STEPS} else made


def _with_passes(job: Job) -> Job:
    """Returns the job with as many passes over its samples as its steps take: who asks for steps means them."""
    config = job.config
    prompts = config[BATCH] // (config[GENERATIONS] if config.kind == "grpo" else 1)
    needed = -(-config[STEPS] // max(1, len(job.splits["train"]) // prompts))
    return replace(job, config=config.edit({EPOCHS: needed})) if needed > config[EPOCHS] else job


def regrouped(job: Job, copies: int) -> Job:
    """Returns the job with groups of so many completions, 0 as configured: as many prompts a step, as many a part."""
    config = job.config
    prompts, part = (config[key] // config[GENERATIONS] for key in (BATCH, MINI))
    changes = {GENERATIONS: copies, BATCH: prompts * copies, MINI: max(1, part) * copies}
    return replace(job, config=config.edit(changes)) if copies else job


def shipped(config: Config) -> bool:
    """Returns whether a configuration states what the toy road's shipped one does: nobody has asked for another."""
    own = {"train.output_dir", DATASET, START, pipeline.LOADER, "custom.passport"}  # written by `prepare`
    asked = Config.load(CONFIGS[pipeline.STEPS[config.kind]]).stated
    return all(config.stated.get(key) == asked.get(key) for key in asked | config.stated if key not in own)


def as_shipped(name: str) -> bool:
    """Returns whether SFT and RL of a job ran with the shipped settings of the toy road: only then do checks hold."""
    files = [runs.path(name) / step / "config.toml" for step in CONFIGS]
    return all(file.is_file() and shipped(Config.load(file)) for file in files)


def config_file(name: str, step: str, config: str = "") -> str:
    """Returns the TOML file that a step begins with: what is said, else `jobs/NAME/STEP.toml`, else the toy road's.

    Raises RunError for what is no name of a job, ConfigError where there is a folder `jobs/NAME` without one.
    """
    runs.require_name(name)
    own = FOLDER / name / f"{step}.toml"
    if not config and own.parent.is_dir() and not own.is_file():
        raise ConfigError(f"{named(own)} is not there: these data allow no {step.upper()}; see the README beside it")
    return config or (named(own) if own.is_file() else CONFIGS[step])


def first_step(name: str) -> str:
    """Returns the step that a job begins with: SFT, but for data without written answers."""
    return "rl" if (FOLDER / name).is_dir() and not (FOLDER / name / "sft.toml").is_file() else "sft"


def _earlier(name: str) -> dict[str, str]:
    """Returns the data, loader and contract of the job's earlier run; {} without one, and for the toy road."""
    for step in CONFIGS:
        file = runs.path(name) / step / "config.toml"
        custom = Config.read(file).table("custom") if file.is_file() else {}
        if custom.get("loader", LOADER) != LOADER:
            return {"data": Config.load(file)[DATASET]} | {key: custom[key] for key in ("loader", "contract")}
    return {}


def is_toy(name: str) -> bool:
    """Returns whether a job of that name, without other parameters, is one of the toy road."""
    return not (FOLDER / name).is_dir() and not _earlier(name)


def toy_contract() -> Contract:
    """Returns the contract of the main job."""
    return Contract.load(ROOT / CONTRACT)


def trained(name: str, step: str = "sft", seed: int = 0, engine: str = "local", gpus: int = 0) -> str:
    """Returns the job's SFT or RL run, as a start for others; of the toy road it is trained first where it is missing.

    So each notebook also runs alone, with the defaults; a killed run goes on, one that an alarm ended is left alone.
    """
    place = runs.path(name) / step
    if not (place / runs.EXPORTS).exists() or runs.unfinished(place) == "running":
        if step == "rl":
            trained(name, "sft", seed, engine, gpus)
        print(f"{named(place)}: holds no finished run, so it is trained first, with the defaults of {step}.ipynb")
        pipeline.train(job(name, step, seed), engine, gpus)
    return named(runs.path(name) / step)


def evaluated(name: str, seed: int = 0, engine: str = "local", gpus: int = 0, **asked: str) -> Job:
    """Returns the job of the last step that was trained; of the toy road, what is missing is trained first.

    Raises CheckpointError for another job that has trained nothing.
    """
    if is_toy(name) and not asked.get("data") and not asked.get("config"):
        trained(name, "rl", seed, engine, gpus)
    there = [step for step in CONFIGS if (runs.path(name) / step / runs.EXPORTS).exists()]
    if not there:
        raise CheckpointError(f"runs/{name} has no SFT and no RL; first: papermill sft.ipynb out.ipynb -p job {name}")
    return job(name, there[-1], seed, **asked)


# ---- other data -----------------------------------------------------------------------------------------------------


def fitted(
    config: Config,
    name: str,
    data: str,
    *,
    format: str = "",
    loader: str = "",
    contract: str = "",
    folder: Path | None = None,
    found: Passport | None = None,
) -> tuple[Config, Passport]:
    """Returns (configuration for other data: loader, contract, lengths and batch as these want them, their passport).

    `data` is a folder or file (from the project's root, or from here) or a dataset of the hub. What is empty is found
    out: the loader by the format, the contract by the answers; it is written to `folder`, by default `runs/NAME/data`.
    `found` is the passport of these data where another step has just made it. Raises DataError for what cannot be used.
    """
    data = place_of(data)
    own = config.table("custom").get("contract", CAPTIONS)
    loader = loader or loading.loader_for(data, format)
    config = _bound(config, data, loader, contract or own, 0.1)
    splits = loading.loader(loader).load(config)
    if not splits.get("test"):
        config = config.edit({"custom.test_share": TEST_SHARE})
        splits = loading.loader(loader).load(config)
    found = found or pipeline.check_data(config.edit({LENGTH: max(config[LENGTH], LONGEST)}), name, loader)
    if not (usable := found.counts["train"]["usable"]):
        raise DataError(f"{data}: no sample of train is usable; {next(iter(found.errors), 'it holds none')}")
    if not (tokens := counted(found, config)):
        tokens = rough_lengths(splits, found.facts, family_of(config[START]), loading.contract(config))
    prompt, answer = (max(column, default=0) for column in zip(*tokens)) if tokens else (0, 0)
    answer = answer + ROOM if answer else 0
    if not contract:
        place = (folder or runs.path(name) / "data") / "contract.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        fits = contract_for(splits["train"], Contract.load(ROOT / own))
        replace(fits, max_new_tokens=answer or fits.max_new_tokens).save(place)
        config = config.edit({"custom.contract": named(place)})
    if config.kind == "grpo" and any(sample.answer is None for sample in splits["validation"]):
        config = config.edit({"validation.enable": False})  # it counts right answers; these are whole texts
    return config.edit(_sizes(config, usable, prompt, answer)), found


def counted(found: Passport, config: Config) -> list[tuple[int, int]]:
    """Returns (prompt, answer) tokens of the samples that were counted, but for those that are left out for them."""
    longest = max(config[LENGTH], LONGEST)
    return [tokens for split in found.tokens.values() for tokens in split if sum(tokens) <= longest]


def _bound(config: Config, data: str, loader: str, contract: str, held_out: float | None) -> Config:
    """Returns the configuration with other data: all of them, but for the share that validation may hold out."""
    accepted = {key: share for key, share in config.table("custom").items() if key == "accept_left_out"}
    parts = {f"{loading.TRAIN}.{key}": None for key in ("subset", "split")} | {f"{loading.TRAIN}.test_size": held_out}
    return config.edit(parts | {DATASET: data, "custom": {"contract": contract, "loader": loader} | accepted})


def place_of(data: str) -> str:
    """Returns the data as a configuration names them: from the project's root; a name of the hub as it is.

    What lies where the command was typed comes before what the project has under that name.
    """
    here = Path(data).expanduser()
    return named(here.resolve()) if data and here.exists() else str(data)


@contextmanager
def parameter(name: str) -> Iterator[None]:
    """Put the name of a notebook's parameter in front of what is wrong with what it names."""
    try:
        yield
    except (DataError, CheckpointError) as error:
        raise type(error)(f"parameter {name}: {error}") from None


def contract_for(samples: Sequence[Sample], own: Contract) -> Contract:
    """Returns the contract under which every written answer is well-formed: `own`, or its limits with another form.

    Without written answers it is `own`: rewards then say what form is paid for.
    """
    targets = [sample.target for sample in samples if sample.target is not None]
    forms = dict.fromkeys([own.answer_format, *FORMATS])
    form = next(name for name in forms if all(map(FORMATS[name].well_formed, targets)) or name == "text")
    return own if form == own.answer_format else replace(own, answer_format=form, system="")


def _sizes(config: Config, samples: int, prompt: int, answer: int) -> dict[str, int]:
    """Returns batch and lengths for so many samples, the longest of so many tokens; stated values are only raised."""
    if config.kind == "sft":
        shards = max(1, config["policy.parallelism.dp_shard_size"])  # the batch is that of each GPU
        batch = max(1, min(config[BATCH], samples // shards))
        mini = max(n for n in range(1, min(config[MINI], batch) + 1) if batch % n == 0)
        return {BATCH: batch, MINI: mini, LENGTH: max(config[LENGTH], prompt + answer)}
    batch, response = max(1, min(config[BATCH] // config[GENERATIONS], samples)), max(config[RESPONSE], answer)
    batch *= config[GENERATIONS]
    length = max(config[LENGTH], prompt + response)
    return {BATCH: batch, MINI: min(config[MINI], batch), RESPONSE: response, LENGTH: length}


def runnable(job: Job, engine: str = "auto") -> Job:
    """Returns the job of a published file, which is for eight GPUs, with a batch that its samples can fill.

    `pipeline.train` lays it out for cosmos-rl's GPUs. The local engine is one process, and filters no completions.
    """
    config = job.config
    if choose_engine(engine) == "local":
        config = on_gpus(config, 1)
        if config.kind == "grpo":
            alone = {"rollout.parallelism.tp_size": 1, "train.train_policy.min_filter_prefix_tokens": None}
            groups = -(-config[MINI] // config[GENERATIONS])
            config = config.edit({"mode": "colocated", MINI: groups * config[GENERATIONS], **alone})
    return replace(job, config=config.edit(_sizes(config, len(job.splits["train"]), 0, 0)))


def evaluation_samples(
    data: str, format: str, loader: str, contract: str, split: str, config: str = ""
) -> tuple[list[Sample], Contract, str]:
    """Returns (samples, contract, numbers) for an evaluation: a dataset's test split where there is one, else all.

    With `config`, a run's own, they are that run's: what it has not trained on, or a `split` of it. `contract` is a
    file, or a checkpoint that carries its own. Raises DataError, or CheckpointError without a contract.
    """
    if config:
        own = Config.load(config)
        splits, bound = loading.loader(own[pipeline.LOADER]).load(own), loading.contract(own)
        found = splits[split] if split else splits.get("test") or splits["validation"]
        return found, bound, own["train.param_dtype"]
    data, file = place_of(data), ROOT / contract
    if not file.is_file() and not (file := checkpoint.resolve(contract) / checkpoint.CONTRACT).is_file():
        raise CheckpointError(f"{contract}: carries no {checkpoint.CONTRACT}; name one with --contract")
    loader = loader or loading.loader_for(data, format)
    settings = {"validation.enable": False, "custom.accept_left_out": 1.0}  # what is left out is told
    bound = Config.load(CONFIGS["sft"]).edit(settings)
    splits = loading.loader(loader).load(_bound(bound, data, loader, str(file), None))
    if split and split not in splits:
        raise DataError(f"{data}: has no split {split}; it has {', '.join(splits)}")
    found = splits[split] if split else splits.get("test") or _all_of(splits)
    return found, Contract.load(file), "bfloat16"


def _all_of(splits: loading.Splits) -> list[Sample]:
    """Returns the samples of all splits, each under an id of its own."""
    several = {key for key, count in Counter(s.id for rows in splits.values() for s in rows).items() if count > 1}
    named = ((f"{split}-{s.id}" if s.id in several else s.id, s) for split, rows in splits.items() for s in rows)
    return [replace(sample, id=name) for name, sample in named]
