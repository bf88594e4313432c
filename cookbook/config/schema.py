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
from math import inf, isfinite
from typing import Any

from cookbook.runs import ROOT

SCHEMA = ROOT / "configs" / "schema" / "cosmos_rl-0.4.7.json"
# what the engine lists as choices and does not insist on: other backends register themselves, SFT may replicate
FREE = ("rollout.backend", "dp_replicate_size")
MORE = {"train.optm_name": ["Adam8bit", "AdamW8bit"]}  # what it takes besides (policy/trainer/optm/__init__.py:410)
LARGEST = 2**40  # tokens, steps, seeds: a larger number is a slip, and takes long to divide
TYPES: dict[str, tuple[tuple[type, ...], str]] = {  # as the schema calls them: as Python does, and as people do
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "string": ((str,), "a text in quotes"),
    "array": ((list,), "a list"),
    "object": ((dict,), "a table"),
    "null": ((), ""),  # TOML has none
}

POLICY, ROLLOUT = "policy.parallelism", "rollout.parallelism"
BATCH, MINI, LENGTH = "train.train_batch_per_replica", "train.train_policy.mini_batch", "policy.model_max_length"
GENERATIONS, RESPONSE = "rollout.n_generation", "rollout.max_response_length"

# names of other releases, other libraries and the guide, by the key that they mean
OTHER_NAMES = {
    GENERATIONS: "num_samples_per_prompt num_generations",
    RESPONSE: "max_new_tokens max_tokens",
    BATCH: "per_device_train_batch_size train_batch_size",
    LENGTH: "max_seq_length max_length",
    f"{POLICY}.dp_shard_size": "num_gpus",
    "policy.model_name_or_path": "model_name",
    "policy.model_gradient_checkpointing": "gradient_checkpointing",
    "policy.lora.r": "lora_rank",
    "rollout.batch_size": "rollout_batch_size",
    "train.train_policy.kl_beta": "kl_penalty kl_coef",
    "train.epoch": "num_epochs num_train_epochs",
    "train.max_num_steps": "max_steps",
    "train.optm_lr": "learning_rate lr",
    "train.optm_warmup_steps": "warmup_steps",
    "train.optm_weight_decay": "weight_decay",
    "train.optm_grad_norm_clip": "max_grad_norm gradient_clipping",
    "train.optm_decay_type": "lr_scheduler_type",
    "train.ckpt.save_freq": "save_steps",
    "train.ckpt.max_keep": "save_total_limit",
    "validation.enable": "enable_validation",
    "validation.freq": "validation_step",
    "validation.batch_size": "validation_batch_per_replica",
    "logging.logger": "report_to",
}
MEANT = {name: key for key, names in OTHER_NAMES.items() for name in names.split()}
GONE = {"cp_rotate_method": "the engine no longer has this choice; delete the line"}


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong: an error must not be run, a warning is a surprise to come."""

    line: int
    key: str
    message: str
    level: str = "error"

    def __str__(self) -> str:
        return f"{self.line}: {self.key}: {self.message}"


@cache
def _nodes(kind: str) -> dict[str, dict]:
    """Returns the schema of every dotted key; a table's has its `properties`, [train.train_policy] those of `kind`."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = {}

    def walk(table: dict, prefix: str) -> None:
        for name, node in table.get("properties", {}).items():
            halves = node.get("discriminator", {}).get("mapping", {})
            references = [option["$ref"] for option in (node, *node.get("anyOf", [])) if "$ref" in option]
            reference = halves.get(kind) or next(iter(references), None)
            below = schema["$defs"][reference.split("/")[-1]] if reference else {}
            found[prefix + name] = node | {"properties": below["properties"]} if below else node
            walk(below, f"{prefix}{name}.")

    walk(schema, "")
    return found


@cache
def find_key(key: str, kind: str) -> dict | None:
    """Returns the schema of a dotted key, {} below a table that takes any key, None where the engine has none.

    `kind`: "sft" or "grpo".
    """
    return _nodes(kind).get(key, {} if any(_any_key(key, kind)) else None)


def _any_key(key: str, kind: str) -> list[Any]:
    """Returns what the tables above say of keys that they do not name, as [custom] and reward_function take them."""
    above = [_nodes(kind).get(table, {}) for table in _parents(key)]
    return [option.get("additionalProperties") for node in above for option in (node, *node.get("anyOf", []))]


def _parents(key: str) -> list[str]:
    """Returns the tables that a key stands in, the nearest first."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def is_table(key: str, kind: str) -> bool:
    """Returns whether the key names a table of keys, not a value."""
    return "properties" in (find_key(key, kind) or {})


def _takes(node: dict, value: Any) -> bool:
    """Returns whether a value is of the node's type, and one of what it insists on."""
    if options := node.get("anyOf") or node.get("oneOf"):
        return any(_takes(option, value) for option in options)
    if "const" in node or "enum" in node:
        return value in node.get("enum", [node.get("const")])
    wanted = "object" if "$ref" in node else node.get("type")
    if wanted is None:
        return True
    if not isinstance(value, TYPES[wanted][0]) or (isinstance(value, bool) and wanted != "boolean"):
        return False
    if each := node.get("prefixItems"):
        return len(value) == len(each) and all(map(_takes, each, value))
    inner = {"array": node.get("items"), "object": node.get("additionalProperties")}.get(wanted)
    items = value.values() if isinstance(value, dict) else value
    return not isinstance(inner, dict) or all(_takes(inner, item) for item in items)


def refusal(key: str, value: Any, kind: str) -> str | None:
    """Returns what the key takes, in words, where it does not take this value; else None."""
    node = find_key(key, kind) or next((each for each in _any_key(key, kind) if isinstance(each, dict)), {})
    numbers = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int | float)]
    if any(LARGEST < abs(number) < inf for number in numbers):
        return f"takes a number up to {LARGEST:,}"
    if not all(map(isfinite, numbers)):
        return "takes a finite number"
    if not node:
        return None
    if is_table(key, kind):
        return None if isinstance(value, dict) else f"is a table: write [{key}] with its keys below"
    choices = [] if key.endswith(FREE) else node.get("choices") or node.get("enum", [])
    if key == "train.train_policy.type":  # here the schema of one half only knows its own name
        choices = ["sft", "grpo"]
    choices = choices and [*choices, *MORE.get(key, [])]
    if choices and not all(item in choices for item in (value if isinstance(value, list) else [value])):
        return f"takes one of {', '.join(map(repr, choices))}"
    if _takes(node, value):
        return None
    if each := node.get("prefixItems"):
        return f"takes a list of {len(each)}, each {TYPES[each[0]['type']][1]}"
    options = node.get("anyOf") or node.get("oneOf") or [node]
    return "takes " + " or ".join(dict.fromkeys(TYPES[o["type"]][1] for o in options if o["type"] != "null"))


def _nearest(key: str, kind: str) -> str:
    """Returns what to write instead of an unknown key."""
    table, _, name = key.rpartition(".")
    if name in GONE:
        return GONE[name]
    real = [k for k in _nodes(kind) if not is_table(k, kind)]
    same = [MEANT[name]] if name in MEANT else [k for k in real if k.split(".")[-1] == name]
    beside = [k for k in real if k.rpartition(".")[0] == table]
    near = same or difflib.get_close_matches(key[:99], beside, 1, 0.75)
    near = near or difflib.get_close_matches(key[:99], real, 1, 0.6)
    if not near or find_key(near[0], kind) is None:
        return "see configs/schema for its keys"
    best = min(near, key=lambda k: (k.split(".")[0] != key.split(".")[0], len(k)))
    place = best.rpartition(".")[0]
    return f"write {best}" + (f", below [{place}]" if place and place != table else "")


def check(stated: Mapping[str, Any], kind: str, line: Callable[[str], int]) -> Iterator[Issue]:
    """Yields unknown keys, tables in a value's place, and values of the wrong type or outside the choices.

    `stated` are the values of a file by dotted key, `line` tells where a key stands.
    """
    for key, value in stated.items():
        if find_key(key, kind) is None:
            parent, other = next(filter(_nodes(kind).get, _parents(key)), ""), "sft" if kind == "grpo" else "grpo"
            if parent and not is_table(parent, kind):
                message = f"{parent} {refusal(parent, {}, kind) or 'takes a value'}, not a table"
            elif find_key(key, other) is not None:
                message = f"this key is for {other}, and train.train_policy.type says otherwise"
            else:
                message = f"the engine has no such key and would drop it; {_nearest(key, kind)}"
            yield Issue(line(key), key, message)
        elif refused := refusal(key, value, kind):
            yield Issue(line(key), key, f"{refused}, not {value!r}")
