"""The environment in which the engine's processes run.

Why: the engine takes from the environment what its TOML file cannot say: which python, where redis is, whether
W&B may talk to the network. Everything that we set is here; what the caller's environment already has wins.
"""

import contextlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path

from cookbook.config import Config
from cookbook.engine import generations
from cookbook.engine.redis import find_redis, search_path
from cookbook.runs import GENERATIONS

ENGINE_METRICS = "engine_metrics.jsonl"  # what the engine reports, row by row; cookbook.engine.metrics reads it
NO_KEY = "0" * 40  # W&B checks the length only, and offline nobody asks for it
WANDB_HOST = "api.wandb.ai"


def engine_environment(
    config: Config, run: Path, extra: Mapping[str, str] | None = None, nodes: int = 1
) -> dict[str, str]:
    """Returns the environment of all the engine's processes. Raises EngineError where redis is missing.

    `extra` replaces anything; with a PATH of its own, that is where cosmos-rl, python and redis are looked for.
    """
    environment = {
        "PATH": search_path(),
        "PYTHONUNBUFFERED": "1",  # or the last lines before a crash are lost
        "COSMOS_REDIS_NO_TLS": "1",  # leaves out a line of redis' configuration that builds without TLS refuse
    }
    environment = {**environment, **os.environ, "PATH": environment["PATH"], **(extra or {})}
    environment["COOKBOOK_METRICS"] = str(run / ENGINE_METRICS)
    environment[generations.FILE] = str(run / GENERATIONS)
    if nodes == 1:
        environment["COOKBOOK_LOOPBACK"] = "1"  # nobody outside this machine has business with it
    redis = str(find_redis(environment["PATH"]))
    if redis not in environment["PATH"].split(os.pathsep):
        environment["PATH"] += os.pathsep + redis
    return {**environment, **wandb_environment(config, environment)}


def wandb_environment(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns what makes W&B work: online with a key, offline without one, nothing where the config leaves it off.

    The engine asks for a key even offline, and else drops W&B with a warning.
    """
    if "wandb" not in (config["logging.logger"] or []):
        return {}
    has_key = bool(environment.get("WANDB_API_KEY")) or _logged_in(environment)
    if environment.get("WANDB_MODE", "online" if has_key else "offline") == "online":
        return {}
    return {"WANDB_MODE": environment.get("WANDB_MODE", "offline")} | ({} if has_key else {"WANDB_API_KEY": NO_KEY})


def _logged_in(environment: Mapping[str, str]) -> bool:
    """Returns whether `wandb login` has left a key."""
    file = environment.get("NETRC", os.path.join(environment.get("HOME", os.path.expanduser("~")), ".netrc"))
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(file).authenticators(WANDB_HOST) is not None
    return False
