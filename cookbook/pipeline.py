"""The steps of the main job that make a model, each in one call: data, SFT, RL.

Why: a notebook explains a step and then runs it; the step itself stands here, so that papermill, `make tutorial` and
the tests run the same lines. All of a job lies under `runs/NAME/`: data, sft, rl, evaluation, report.html. A step whose
input is not there yet makes it first, so each notebook also runs alone. cookbook/assessment.py evaluates the models.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from cookbook import checkpoint, runs
from cookbook.config import Config, require
from cookbook.config.rules import View, gpus_needed
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.engine.failures import EngineError
from cookbook.engine.launch import PROGRAM, launch
from cookbook.engine.redis import find_redis, search_path
from cookbook.runs import ROOT, Run, named
from cookbook.training.grpo import grpo
from cookbook.training.rewards import are_ours, require_gold, reward_weights
from cookbook.training.sft import sft
from data_tools import loading, road_vqa
from data_tools.loading import Splits
from data_tools.passport import Passport, passport, read_quarantine
from data_tools.passport.tokens import token_counter
from data_tools.worlds import STAMP, road

log = logging.getLogger(__name__)

CLIPS = {"train": 480, "validation": 40, "test": 120}
CONTRACT = "configs/prompts/road.yaml"
LOADER = "data_tools/road_vqa.py"
ENGINES = ("auto", "local", PROGRAM)
DATASET = "train.train_policy.dataset.name"
BASE = "models/tiny-base"
PASSPORT = "passport.json"


def road_data(name: str, seed: int = 0, clips: Mapping[str, int] | None = None) -> Path:
    """Returns the job's data folder. Builds it where it is not there, or where `clips` asks for other sizes.

    Raises ValueError where the folder holds the clips of another seed or another version of the world: a comparison
    across them would mean nothing.
    """
    folder = runs.path(name) / "data"
    stamp = folder / STAMP
    if clips is not None or not stamp.exists():
        (folder / PASSPORT).unlink(missing_ok=True)  # it was that of other clips
        return road.build(folder, dict(clips or CLIPS), seed)
    found = json.loads(stamp.read_text())
    for key, wanted in (("seed", seed), ("version", road.VERSION)):
        if found[key] != wanted:
            was = f"{named(folder)} holds clips of {key} {found[key]}, not {wanted}"
            raise ValueError(f"{was}; give another run_name, or delete {named(folder.parent)}")
    return folder


def contract() -> Contract:
    """Returns the contract that every step of the job is bound to."""
    return Contract.load(ROOT / CONTRACT)


def samples(name: str, split: str, seed: int = 0, reasoned: float = 1.0, clips: int = -1) -> list[Sample]:
    """Returns the questions of a split; of its first `clips` clips only, where that is not negative.

    `reasoned` is the share of targets that come with written reasoning (see data_tools/road_vqa.py). What the data's
    passport has in quarantine is left out, here and so in training, rollouts and evaluation.
    """
    folder = road_data(name, seed)
    found = road_vqa.read(folder, split, contract(), reasoned)
    out = read_quarantine(folder / PASSPORT).get(split, {}) if (folder / PASSPORT).is_file() else {}
    if out:
        log.warning("%s: %d samples are left out by the passport", split, len(out))
        found = [s for s in found if s.id not in out]
    return road_vqa.first_clips(found, clips)


def check_data(name: str, seed: int = 0) -> Passport:
    """Returns the passport of the job's clips, and leaves it in `runs/NAME/data/passport.json` for all later steps."""
    folder = road_data(name, seed)
    splits = {split: road_vqa.read(folder, split, contract()) for split in CLIPS}
    return _check(splits, Config.load("configs/tiny_sft.toml"), folder, folder)


def _check(splits: Splits, config: Config, out: Path, folder: Path | None = None) -> Passport:
    """Returns the passport of these samples, lengths as the configuration's model counts them; leaves it in `out`."""
    count = token_counter(checkpoint.find(config["policy.model_name_or_path"]), loading.contract(config))
    found = passport(splits, folder=folder, max_length=config["policy.model_max_length"], count_tokens=count)
    out.mkdir(parents=True, exist_ok=True)
    found.write(out / PASSPORT)
    return found


def training_data(config: Config, name: str, seed: int = 0, loader: str = LOADER) -> tuple[Config, Splits]:
    """Returns the configuration bound to the job's data, and its samples, as `cosmos-rl --config … LOADER` takes them.

    The toy road world is built where it is missing. Data without a passport get one first, in `runs/NAME/data`; what
    it has in quarantine is not among the samples.
    """
    out, load = runs.path(name) / "data", loading.loader(loader)
    if loader == LOADER:
        config = config.edit({DATASET: named(road_data(name, seed))})
        if not (out / PASSPORT).is_file():
            check_data(name, seed)
    if "passport" not in config.table("custom"):
        if loader != LOADER:
            _check(load(config), config, out)
        config = config.edit({"custom.passport": named(out / PASSPORT)})
    return config, load(config)


def open_model(path: str | Path, bound: Contract | None = None):
    """Returns (model, encoder) of a checkpoint, bound to a contract: the job's, where none is given.

    Raises ContractError where the checkpoint was trained under another one.
    """
    bound = bound or contract()
    model, processor = checkpoint.load(path)
    checkpoint.require_contract(path, bound)
    return model, Encoder(processor, bound, model.config)


def _start(step: str, name: str, config: Config, seed: int) -> Run:
    """Start the run folder of a step, with its configuration and manifest.

    Exports of an earlier run go: a longer one's higher step would pass for the last export of this one.
    """
    torch.manual_seed(seed)
    run = Run(f"{name}/{step}", seed=seed)
    shutil.rmtree(run.path / "safetensors", ignore_errors=True)
    (run.path / "config.toml").write_text(config.text(), encoding="utf-8")
    checked = json.loads((ROOT / config.table("custom")["passport"]).read_text(encoding="utf-8"))
    run.write_manifest(
        data=config[DATASET],
        passport=checked["hash"],
        contract=loading.contract(config).hash,
        start=config["policy.model_name_or_path"],
    )
    return run


def choose_engine(wanted: str = "auto") -> str:
    """Returns "local" or "cosmos-rl": what is wanted, where "auto" is cosmos-rl on a machine that can run it.

    Raises ValueError for an engine that does not exist.
    """
    if wanted not in ENGINES:
        raise ValueError(f"engine is {wanted!r}; it is one of {', '.join(ENGINES)}")
    if wanted != "auto":
        return wanted
    try:
        find_redis()
    except EngineError:
        return "local"
    return "cosmos-rl" if torch.cuda.is_available() and shutil.which(PROGRAM, path=search_path()) else "local"


def on_gpus(config: Config, gpus: int) -> Config:
    """Returns the configuration of a run on that many GPUs of one machine, the batch of a step as large as before.

    Rollouts that have GPUs of their own keep them; the policy gets the others.
    """
    gpus = max(1, gpus - gpus_needed(View(config))[1])
    share = max(1, config["train.train_batch_per_replica"] // gpus)
    changes = {
        "policy.parallelism.dp_shard_size": gpus,
        "train.train_policy.mini_batch": min(share, config["train.train_policy.mini_batch"]),
    }
    if config.kind == "sft":  # here the engine counts its batch for each GPU, for GRPO for all of them
        changes["train.train_batch_per_replica"] = share
    elif config["mode"] == "colocated":
        changes["rollout.parallelism.dp_shard_size"] = gpus
        changes["validation.freq"] = max(2, config["validation.freq"])  # at 1 the engine measures too early, and fails
    return config.edit(changes)


def _launch(
    step: str, name: str, config: Config, seed: int, loader: str, train: list[Sample], gpus: int, stop_on_alarm=True
) -> Path:
    """Run a step on cosmos-rl, on `gpus` GPUs (0: all that there are). Returns the last export, with its contract."""
    start = config["policy.model_name_or_path"]
    if (ROOT / start).exists():
        checkpoint.require_contract(start, loading.contract(config))
        config = config.edit({"policy.model_name_or_path": named(checkpoint.find(start))})
    gpus = gpus or torch.cuda.device_count()
    config = on_gpus(config, gpus)
    require(config, gpus=gpus, samples=len(train))
    if are_ours(config):
        require_gold(train, reward_weights(config), loading.contract(config))
    export = launch(config, loader, _start(step, name, config, seed), replace=True, stop_on_alarm=stop_on_alarm)
    loading.contract(config).save(export / checkpoint.CONTRACT)
    return export


def train_sft(
    config: Config, name: str, seed: int = 0, loader: str = LOADER, engine: str = "local", gpus: int = 0
) -> Path:
    """Run SFT from the configuration's model, on what the loader gives. Returns the last export, in `runs/NAME/sft`."""
    out = named(runs.path(f"{name}/sft"))
    config = config.edit({"train.output_dir": out, "train.train_policy.dataloader_seed": seed})
    config, splits = training_data(config, name, seed, loader)
    if choose_engine(engine) == PROGRAM:
        return _launch("sft", name, config, seed, loader, splits["train"], gpus)
    model, encoder = open_model(config["policy.model_name_or_path"], loading.contract(config))
    run = _start("sft", name, config, seed)
    return sft(config, splits["train"], splits["validation"], encoder, model, run)


def train_rl(
    config: Config,
    name: str,
    seed: int = 0,
    loader: str = LOADER,
    engine: str = "local",
    gpus: int = 0,
    stop_on_alarm: bool = True,
) -> Path:
    """Run GRPO from the job's SFT export, which is trained first where it is missing. Returns the last export.

    With `stop_on_alarm` a severe alarm of training.alarms ends the run: TrainingStopped, on cosmos-rl EngineError.
    """
    own = runs.path(f"{name}/sft")
    start = config["policy.model_name_or_path"] or named(own)
    if start == named(own) and not (own / "safetensors").exists():
        log.info("%s holds no export; training it first", start)
        train_sft(Config.load("configs/tiny_sft.toml"), name, seed, engine=engine, gpus=gpus)
    config = config.edit({"train.output_dir": named(runs.path(f"{name}/rl")), "policy.model_name_or_path": start})
    config, splits = training_data(config, name, seed, loader)
    if choose_engine(engine) == PROGRAM:
        return _launch("rl", name, config, seed, loader, splits["train"], gpus, stop_on_alarm)
    model, encoder = open_model(start, loading.contract(config))
    run = _start("rl", name, config, seed)
    return grpo(config, splits["train"], encoder, model, run, seed, splits["validation"], stop_on_alarm=stop_on_alarm)
