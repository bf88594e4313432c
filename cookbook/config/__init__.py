"""Training configurations: checked against the engine's own schema and planned, before a GPU is booked.

Why: cosmos-rl drops unknown keys in silence, so a misspelt learning rate trains with the default, and a night of
eight GPUs is gone. Here every key is looked up in the schema of the pinned engine, and the numbers are checked against
each other. Nothing here imports torch or cosmos_rl.

    config = Config.load("configs/sft.toml").edit({"train.epoch": 3})
    lint(config, gpus=4)                                          # what is wrong, by line
    plan(config, gpus=4, gpu_gib=80, samples=10_000, tokens=2000) # memory, steps, hours, disk
    difference(Config.load("configs/sft.toml"), config)           # default | custom | why

    python -m cookbook.config lint configs/*.toml
"""

from cookbook.config.difference import difference
from cookbook.config.document import Config, ConfigError
from cookbook.config.planner import layouts, plan
from cookbook.config.rules import lint, require
from cookbook.config.schema import Finding
from cookbook.data.vision import clip_tokens

__all__ = ["Config", "ConfigError", "Finding", "clip_tokens", "difference", "layouts", "lint", "plan", "require"]
