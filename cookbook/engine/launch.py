"""Run cosmos-rl for one configuration and one loader file, in a run folder, and tell the truth about how it ended.

Why: the engine alone drops a crashed run in silence or waits for ever, leaves redis and workers behind, and writes
to a folder named by the clock. Here a run is good or raises, its folder reads like the local engine's, and
afterwards no process of it is left.

    python -m cookbook.engine --config configs/sft.toml --run mine/sft data_tools/llava_sft.py
"""

import logging
import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cookbook.checkpoint.shards import STATE
from cookbook.checkpoint.store import find
from cookbook.config import Config
from cookbook.config.rules import View, gpus_needed
from cookbook.display.terminal import sigterm_exits
from cookbook.engine.diagnose import ENGINE_LOG, require_success
from cookbook.engine.environment import PROGRAMS, engine_environment, free_port, is_free, search_path
from cookbook.engine.failures import EngineError
from cookbook.engine.guardian import Engine
from cookbook.engine.records import ENGINE_METRICS, add_completions
from cookbook.engine.supervisor import Patience, Supervisor
from cookbook.runs import EXPORTS, FINISHED, ROOT, Run, installed_version, named

log = logging.getLogger(__name__)

PROGRAM = "cosmos-rl"
PORT, REDIS_PORT = 8000, 12800
START = "policy.model_name_or_path"
RESULTS = (EXPORTS, "checkpoints", "best")
# keys that `as_launched` sets, so that they say nothing about the settings of a run
AS_LAUNCHED = (START, "train.timestamp", "logging.logger", "logging.wandb_run_id", "redis",
               "train.resume")  # fmt: skip


def choose_engine(wanted: str = "auto") -> str:
    """Returns "local" or "cosmos-rl": what is wanted, where "auto" is cosmos-rl on a machine that can run it.

    Raises ValueError for an engine that does not exist.
    """
    if wanted in ("local", PROGRAM):
        return wanted
    if wanted != "auto":
        raise ValueError(f"engine is {wanted!r}; it is one of auto, local, {PROGRAM}")
    programs = all(shutil.which(name, path=search_path()) for name in (PROGRAM, *PROGRAMS))
    return PROGRAM if programs and torch.cuda.is_available() else "local"


def on_gpus(config: Config, gpus: int) -> Config:
    """Returns the configuration of a run on that many GPUs of one machine, the batch of a step as large as before.

    Rollouts that have GPUs of their own keep them; the policy gets the others.
    """
    gpus = max(1, gpus - gpus_needed(View(config))[1])
    # SFT's batch is counted for each GPU, GRPO's for all of them
    before = max(1, config["policy.parallelism.dp_shard_size"]) if config.kind == "sft" else 1
    share = max(1, config["train.train_batch_per_replica"] * before // gpus)
    mini = min(share, config["train.train_policy.mini_batch"])
    changes = {"policy.parallelism.dp_shard_size": gpus, "train.train_policy.mini_batch": mini}
    if config.kind == "sft":
        changes["train.train_batch_per_replica"] = share - share % mini
    elif config["mode"] == "colocated":
        changes["rollout.parallelism.dp_shard_size"] = gpus
        changes["validation.freq"] = max(2, config["validation.freq"])  # at 1 the engine measures too early, and fails
    return config.edit(changes)


def launch(
    config: Config,
    loader: str | Path,
    run: Run,
    *,
    port: int | None = None,
    resume: Path | None = None,
    replace: bool = False,
    patience: Patience | None = None,
    env: Mapping[str, str] | None = None,
    nodes: int = 1,
    node_ips: str = "",
    stop_on_alarm: bool = True,
) -> Path | None:
    """Train. Returns the last export, `runs/NAME/safetensors/step_N`; None where the configuration asks for none.

    `resume` is a checkpoint's `policy` folder. A run folder that holds results is refused, unless they are resumed
    or `replace` deletes them. `env` is added to the environment. With several `nodes` this is the first one, and the
    others join with the files of `--write-nodes`. A severe alarm of `training.alarms` ends the run, with a
    checkpoint where the controller still answers, unless `stop_on_alarm` is false.
    Raises EngineError, whose message has the first traceback and what helps; ConfigError for a key that is wrong,
    CheckpointError for a start that is not whole.
    Whatever happens, Ctrl-C and SIGTERM too, no process of the engine is left, unless its guardian is killed.
    """
    patience, environment = patience or Patience(), engine_environment(config, run.path, env, nodes)
    port = choose_port(port or PORT, nodes)
    words = command(run.path / "config.toml", loader, port, environment["PATH"], nodes, node_ips)
    if (ROOT / config[START]).exists():  # the engine would run a checkpoint's code, and take minutes to find it broken
        config = config.edit({START: named(find(config[START]))})
    require_disk(config, run.path)
    make_room(run.path, resume, replace)
    config = as_launched(config, run.path, resume)
    (run.path / "config.toml").write_text(config.text(), encoding="utf-8")
    facts = {"engine": PROGRAM, "engine_version": installed_version(PROGRAM), "engine_command": as_typed(words)}
    start = config[START].removeprefix("./")
    run.write_manifest(**facts, port=port, start=start, resume=resume, outcome="running")
    run.log(as_typed(words))
    started, outcome = time.monotonic(), "interrupted"
    supervisor = Supervisor(run, config.kind.upper(), patience, port, stop_on_alarm)
    try:
        with sigterm_exits(), Engine(words, environment, run.path / ENGINE_LOG, patience.stop) as engine:
            reason = supervisor.follow(engine)
        supervisor.take_metrics(at_end=True)
        seconds = time.monotonic() - started
        export = require_success(done := supervisor.state.log, engine.code, config, run.path, reason, seconds)
        run.let_earlier_go(done.exported)
        outcome = FINISHED
    except EngineError as error:
        outcome = error.kind
        raise
    finally:
        if config.kind == "grpo":
            add_completions(run.path, config["train.train_batch_per_replica"])
        run.write_manifest(outcome=outcome, seconds={"train": round(time.monotonic() - started, 1)})
        run.log(f"{PROGRAM}: {outcome}")
    return export


def command(config: Path, loader: str | Path, port: int, path: str, nodes: int = 1, node_ips: str = "") -> list[str]:
    """Returns the engine's command line, with `cosmos-rl` looked for on `path`. Raises EngineError."""
    if (program := shutil.which(PROGRAM, path=path)) is None:
        raise EngineError("install", f"{PROGRAM} not found on PATH")
    if not (ROOT / loader).is_file():
        raise EngineError("install", f"{ROOT / loader}: no such loader file")
    for word in (named(config), named(ROOT / loader)):
        if re.search(r"[\s*?\[]", word) or not word.isprintable():  # launcher/launch_controller.sh:77 of 0.4.7
            raise EngineError("name", f"{word!r}: the engine's scripts take a path apart at blanks, *, ? and [")
    several = ["--num-workers", str(nodes), "--worker-idx", "0"] if nodes > 1 else []
    several += ["--node-ip-list", node_ips] if node_ips else []
    return [program, "--config", named(config), "--port", str(port), *several, named(ROOT / loader)]


def as_typed(words: Sequence[str]) -> str:
    """Returns a command line as a person would type it."""
    return shlex.join([Path(words[0]).name, *words[1:]])


def choose_port(wanted: int, nodes: int = 1, who: str = "the controller") -> int:
    """Returns the port that is asked for, else the next free one, and says so.

    Raises EngineError where it is taken and other nodes were told of it.
    """
    if nodes > 1 and not is_free(wanted):
        raise EngineError("port", f"port {wanted} is in use, and the other nodes expect {who} there")
    if (found := free_port(wanted)) != wanted:
        log.warning("port %d is in use; %s gets %d", wanted, who, found)
    return found


def as_launched(config: Config, run: Path, resume: Path | None = None) -> Config:
    """Returns the configuration as the engine gets it: results in the run folder, steps printed, redis on a free port.

    The engine takes the name of a file that a folder `a/b` does not hold for one on the hub, asks for minutes, and goes
    on with another model class (utils/util.py:111 of 0.4.7); `./a/b` has three parts and passes for a folder. W&B takes
    `timestamp` for the name of its run, and ours is the same for all: so it gets the folder's name.
    """
    loggers, start = config["logging.logger"] or [], config[START]
    if (ROOT / start).is_dir() and not Path(start).is_absolute():
        start = f"./{start.removeprefix('./')}"
    changes = {
        START: start,
        "train.output_dir": named(run),
        "train.timestamp": config["train.timestamp"] or "fixed",  # or results go to a folder named by the clock
        "logging.logger": [*([] if "console" in loggers else ["console"]), *loggers],  # without: no `Step:` lines
        "redis": str(choose_port(int(config["redis"] or REDIS_PORT), who="redis")),
    }
    if "wandb" in loggers and not config["logging.wandb_run_id"]:
        changes["logging.wandb_run_id"] = re.sub(r"\W+", "-", named(run)).strip("-")[-100:]
    if resume is not None:
        changes["train.resume"] = named(Path(resume).resolve())
    return config.edit({key: value for key, value in changes.items() if config.stated.get(key) != value})


def make_room(run: Path, resume: Path | None, replace: bool) -> None:
    """Leave nothing in the run folder that could pass for this run's. Raises EngineError rather than delete results.

    A resumed run keeps its metrics, and its earlier log as engine.1.log, engine.2.log and so on.
    """
    if resume is not None:
        if not (Path(resume) / STATE).exists():
            raise EngineError("checkpoint", f"{resume}: no checkpoint, it holds no {STATE}")
        if (run / ENGINE_LOG).is_file():
            (run / ENGINE_LOG).rename(run / f"engine.{len(list(run.glob('engine*.log')))}.log")
        return
    found = [run / name for name in RESULTS if any((run / name).glob("*"))]
    if found and not replace:
        raise EngineError("run", f"{run} holds {' and '.join(f.name for f in found)} of an earlier run")
    for folder in found:
        if folder.name != EXPORTS:  # those go when a new one stands
            shutil.rmtree(folder)
    for file in (run / ENGINE_METRICS, *run.glob("engine*.log")):
        file.unlink(missing_ok=True)


def require_disk(config: Config, run: Path, free: int | None = None) -> None:
    """Raises EngineError where the disk cannot hold one checkpoint (six times the weights) and one export.

    `free` are its bytes, where they are not to be asked of the disk.
    """
    if not config["train.ckpt.enable_checkpoint"] or config.table("policy.lora"):
        return
    weights = sum(f.stat().st_size for f in (ROOT / config[START]).glob("*.safetensors"))
    free = shutil.disk_usage(run).free if free is None else free
    if free < 7 * weights:  # a model that is not here yet counts as nothing
        raise EngineError("disk", f"{run}: {free / 2**30:.2f} GiB are free, one step needs {7 * weights / 2**30:.2f}")
