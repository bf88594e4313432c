"""The names of keys: which the engine does not know, and what was meant.

Why: the engine drops an unknown key without a word. The finding must name the right one: a key of another table, of
another release or library, or one that is spelt nearly the same.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cookbook.config import schema

if TYPE_CHECKING:
    from cookbook.config.document import Config

POLICY, ROLLOUT = "policy.parallelism", "rollout.parallelism"
BATCH, MINI, LENGTH = "train.train_batch_per_replica", "train.train_policy.mini_batch", "policy.model_max_length"
GENERATIONS, RESPONSE = "rollout.n_generation", "rollout.max_response_length"

# names of other releases, other libraries and the guide, by the last part of the key
TRANSLATIONS = {
    "num_samples_per_prompt": GENERATIONS,
    "num_generations": GENERATIONS,
    "rollout_batch_size": "rollout.batch_size",
    "kl_penalty": "train.train_policy.kl_beta",
    "kl_coef": "train.train_policy.kl_beta",
    "enable_validation": "validation.enable",
    "validation_step": "validation.freq",
    "validation_batch_per_replica": "validation.batch_size",
    "learning_rate": "train.optm_lr",
    "lr": "train.optm_lr",
    "num_epochs": "train.epoch",
    "num_train_epochs": "train.epoch",
    "max_steps": "train.max_num_steps",
    "warmup_steps": "train.optm_warmup_steps",
    "weight_decay": "train.optm_weight_decay",
    "max_grad_norm": "train.optm_grad_norm_clip",
    "gradient_clipping": "train.optm_grad_norm_clip",
    "lr_scheduler_type": "train.optm_decay_type",
    "per_device_train_batch_size": BATCH,
    "train_batch_size": BATCH,
    "gradient_checkpointing": "policy.model_gradient_checkpointing",
    "max_seq_length": LENGTH,
    "max_length": LENGTH,
    "model_name": "policy.model_name_or_path",
    "num_gpus": f"{POLICY}.dp_shard_size",
    "save_steps": "train.ckpt.save_freq",
    "save_total_limit": "train.ckpt.max_keep",
    "max_new_tokens": RESPONSE,
    "max_tokens": RESPONSE,
    "report_to": "logging.logger",
    "lora_rank": "policy.lora.r",
}
GONE = {"cp_rotate_method": "the engine no longer has this choice; delete the line"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: an error must not be run, a warning is a surprise to come."""

    line: int
    key: str
    message: str
    level: str = "error"

    def __str__(self) -> str:
        """Returns "LINE: key: message", to stand behind a file's name."""
        return f"{self.line}: {self.key}: {self.message}"


def _nearest(key: str, kind: str) -> str:
    """Returns what to write instead of an unknown key."""
    table, _, name = key.rpartition(".")
    if name in GONE:
        return GONE[name]
    real = schema.keys(kind)
    same = [TRANSLATIONS[name]] if name in TRANSLATIONS else [k for k in real if k.split(".")[-1] == name]
    beside = [k for k in real if k.rpartition(".")[0] == table]
    near = same or difflib.get_close_matches(key, beside, 1, 0.75) or difflib.get_close_matches(key, real, 1, 0.6)
    if not near or schema.find(near[0], kind) is None:
        return "see configs/schema for its keys"
    best = min(near, key=lambda k: (k.split(".")[0] != key.split(".")[0], len(k)))
    place = best.rpartition(".")[0]
    return f"write {best}" + (f", below [{place}]" if place and place != table else "")


def check_schema(config: "Config") -> Iterator[Finding]:
    """Yields unknown keys, tables in a value's place, and values of the wrong type or outside the choices."""
    for key, value in config.stated.items():
        if schema.find(key, config.kind) is None:
            parent = next((p for p in _parents(key) if schema.find(p, config.kind) not in (None, {})), "")
            if parent and not schema.is_table(parent, config.kind):
                message = f"{parent} {schema.refusal(parent, {}, config.kind) or 'takes a value'}, not a table"
            elif _other_kind(key, config.kind):
                message = f"this key is for {_other_kind(key, config.kind)}, and train.train_policy.type says otherwise"
            else:
                message = f"the engine has no such key and would drop it; {_nearest(key, config.kind)}"
            yield Finding(config.line(key), key, message)
        elif refused := schema.refusal(key, value, config.kind):
            yield Finding(config.line(key), key, f"{refused}, not {value!r}")


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _other_kind(key: str, kind: str) -> str | None:
    other = {"sft": "grpo", "grpo": "sft"}.get(kind, "")
    return other if other and schema.find(key, other) is not None else None
