"""The engine's own schema: which keys there are, what they take, what they default to.

Why: cosmos-rl takes seconds to import and drops unknown keys in silence. Its pydantic schema is exported once, into
`configs/schema/`, and read in milliseconds. A test compares the export with the pinned engine.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from cookbook.runs import ROOT

SCHEMA = ROOT / "configs" / "schema" / "cosmos_rl-0.4.7.json"
# what the engine lists as choices and does not insist on: other backends register themselves, SFT may replicate
FREE = ("rollout.backend", "dp_replicate_size")
WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text in quotes",
         "array": "a list", "object": "a table"}  # fmt: skip


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
