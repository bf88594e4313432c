"""The engine's own schema: which keys there are, what they take, what they default to, and what was meant instead.

Why: cosmos-rl takes seconds to import and drops unknown keys in silence. Its pydantic schema is exported once, into
`configs/schema/`, and read in milliseconds. A test compares the export with the pinned engine. What is said of an
unknown key names the right one: a key of another table, of another release or library, or one spelt nearly the same.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cookbook.runs import ROOT

SCHEMA = ROOT / "configs" / "schema" / "cosmos_rl-0.4.7.json"
# what the engine lists as choices and does not insist on: other backends register themselves, SFT may replicate
FREE = ("rollout.backend", "dp_replicate_size")
WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text in quotes",
         "array": "a list", "object": "a table"}  # fmt: skip

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


@cache
def _schema() -> dict:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def _resolve(node: dict, kind: str) -> dict:
    """Returns the schema behind a reference; of [train.train_policy] the half that `kind` ("sft", "grpo") names."""
    mapping = node.get("discriminator", {}).get("mapping", {})
    options = [node, *node.get("anyOf", [])]
    reference = mapping.get(kind) or next((o["$ref"] for o in options if "$ref" in o), None)
    return _schema()["$defs"][reference.split("/")[-1]] if reference else node


def _is_open(node: dict) -> bool:
    """Returns whether a table takes any key, as [custom] and reward_function do."""
    return any(option.get("additionalProperties") for option in (node, *node.get("anyOf", [])))


@cache
def find(key: str, kind: str) -> dict | None:
    """Returns the schema of a dotted key, {} below a table that takes any key, None where the engine has none."""
    node = _schema()
    for part in key.split("."):
        if _is_open(node):
            return {}
        node = _resolve(node, kind).get("properties", {}).get(part)
        if node is None:
            return None
    return node


@cache
def keys(kind: str) -> tuple[str, ...]:
    """Returns every dotted key that the engine knows, tables left out."""

    def below(node: dict, prefix: str) -> Iterator[str]:
        for name, child in _resolve(node, kind).get("properties", {}).items():
            if _resolve(child, kind).get("properties"):
                yield from below(child, f"{prefix}{name}.")
            else:
                yield prefix + name

    return tuple(below(_schema(), ""))


def is_table(key: str, kind: str) -> bool:
    """Returns whether the key names a table of keys, not a value."""
    node = find(key, kind)
    return bool(node) and bool(_resolve(node, kind).get("properties"))


def _takes(node: dict, value: Any) -> bool:
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        return any(_takes(option, value) for option in options)
    if "$ref" in node:
        return isinstance(value, dict)
    if "const" in node or "enum" in node:
        return value in node.get("enum", [node.get("const")])
    kinds = {"integer": int, "number": (int, float), "string": str, "boolean": bool, "array": list, "object": dict}
    wanted = node.get("type")
    if wanted is None:
        return True
    if not isinstance(value, kinds.get(wanted, ())) or (isinstance(value, bool) and wanted != "boolean"):
        return False
    inner = {"array": node.get("items"), "object": node.get("additionalProperties")}.get(wanted)
    if not isinstance(inner, dict):
        return True
    return all(_takes(inner, item) for item in (value if wanted == "array" else value.values()))


def _choices(key: str, node: dict) -> list:
    if key == "train.train_policy.type":  # here the schema of one half only knows its own name
        return ["sft", "grpo"]
    given = [] if key.endswith(FREE) else node.get("choices", [])
    return given or node.get("enum") or ([node["const"]] if "const" in node else [])


def refusal(key: str, value: Any, kind: str) -> str | None:
    """Returns what the key takes, in words, where it does not take this value; else None."""
    node = find(key, kind)
    if not node:
        return None
    if is_table(key, kind):
        return None if isinstance(value, dict) else f"is a table: write [{key}] with its keys below"
    choices = _choices(key, node)
    if choices and not all(item in choices for item in (value if isinstance(value, list) else [value])):
        return f"takes one of {', '.join(map(repr, choices))}"
    if _takes(node, value):
        return None
    options = node.get("anyOf") or node.get("oneOf") or [node]
    names = dict.fromkeys(WORDS.get("object" if "$ref" in o else o.get("type")) for o in options)
    return "takes " + " or ".join(name for name in names if name)


def _nearest(key: str, kind: str) -> str:
    """Returns what to write instead of an unknown key."""
    table, _, name = key.rpartition(".")
    if name in GONE:
        return GONE[name]
    real = keys(kind)
    same = [TRANSLATIONS[name]] if name in TRANSLATIONS else [k for k in real if k.split(".")[-1] == name]
    beside = [k for k in real if k.rpartition(".")[0] == table]
    near = same or difflib.get_close_matches(key, beside, 1, 0.75) or difflib.get_close_matches(key, real, 1, 0.6)
    if not near or find(near[0], kind) is None:
        return "see configs/schema for its keys"
    best = min(near, key=lambda k: (k.split(".")[0] != key.split(".")[0], len(k)))
    place = best.rpartition(".")[0]
    return f"write {best}" + (f", below [{place}]" if place and place != table else "")


def check(stated: Mapping[str, Any], kind: str, line: Callable[[str], int]) -> Iterator[Finding]:
    """Yields unknown keys, tables in a value's place, and values of the wrong type or outside the choices.

    `stated` are the values of a file by dotted key, `line` tells where a key stands.
    """
    for key, value in stated.items():
        if find(key, kind) is None:
            parent = next((p for p in _parents(key) if find(p, kind) not in (None, {})), "")
            if parent and not is_table(parent, kind):
                message = f"{parent} {refusal(parent, {}, kind) or 'takes a value'}, not a table"
            elif other := _other_kind(key, kind):
                message = f"this key is for {other}, and train.train_policy.type says otherwise"
            else:
                message = f"the engine has no such key and would drop it; {_nearest(key, kind)}"
            yield Finding(line(key), key, message)
        elif refused := refusal(key, value, kind):
            yield Finding(line(key), key, f"{refused}, not {value!r}")


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _other_kind(key: str, kind: str) -> str | None:
    other = {"sft": "grpo", "grpo": "sft"}.get(kind, "")
    return other if other and find(key, other) is not None else None
