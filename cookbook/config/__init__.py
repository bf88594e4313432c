"""Training configurations: checked against the engine's own schema and planned, before a GPU is booked.

Why: cosmos-rl drops unknown keys in silence, so a misspelt learning rate trains with the default, and a night of eight
GPUs is gone. Nothing here imports torch or cosmos_rl. notebooks/configuration.ipynb walks through it; in this order:

    document      one file: read, looked up and edited by dotted key; two compared: key | default | custom | why
    schema        which keys the engine has, what they take, and what was meant instead
    custom        the keys that loaders read in [custom]
    models        the published models by name: family, parameters, shape
    patterns      what freeze_pattern, trainable_map and adapters hit in the model
    rules         `lint`: what is wrong, by line, with the fix; `require` refuses it
    speed         what a step takes, as measured, and which keys make it faster
    planner       `plan`: memory, steps, hours, disk
    __main__      python -m cookbook.config lint configs/*.toml
"""

from cookbook.config.document import Config, ConfigError, difference
from cookbook.config.planner import layouts, plan
from cookbook.config.rules import lint, require
from cookbook.config.schema import Issue
from cookbook.data.vision import clip_tokens

__all__ = ["Config", "ConfigError", "Issue", "clip_tokens", "difference", "layouts", "lint", "plan", "require"]
