"""Training configurations: the engine's own TOML files, with its own defaults, and no key that it does not know.

Why: cosmos-rl drops unknown keys in silence, so a misspelt learning rate trains with the default. Here every key is
looked up in the engine's schema (`configs/schema/`, exported from the pinned cosmos-rl), when a file is read and when a
value is changed. A key that a file leaves out has the engine's default. Comments in the file survive an edit.

    config = Config.load("configs/tiny_sft.toml").edit({"train.epoch": 50})
    config["train.optm_lr"]
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit

from cookbook.runs import ROOT

SCHEMA = ROOT / "configs" / "schema" / "cosmos_rl-0.4.7.json"


class ConfigError(ValueError):
    """A configuration that must not be run; the message names the file, the key, and what to do."""


@cache
def _schema() -> dict:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def _resolve(node: dict, kind: str) -> dict:
    """Returns the schema behind a reference; of [train.train_policy] the half that `kind` ("sft", "grpo") names."""
    mapping = node.get("discriminator", {}).get("mapping", {})
    options = [node, *node.get("anyOf", [])]
    reference = mapping.get(kind) or next((o["$ref"] for o in options if "$ref" in o), None)
    return _schema()["$defs"][reference.split("/")[-1]] if reference else node


def _leaf(key: str, kind: str) -> dict | None:
    """Returns the schema of a dotted key, None where the engine has no such key; open tables take any."""
    node = _schema()
    for part in key.split("."):
        if any(option.get("additionalProperties") for option in (node, *node.get("anyOf", []))):
            return {}
        node = _resolve(node, kind).get("properties", {}).get(part)
        if node is None:
            return None
    return node


def _walk(table: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of all leaves."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _all_keys(kind: str) -> list[str]:
    """Returns every dotted key that the engine knows."""

    def below(node: dict, prefix: str) -> Iterator[str]:
        for name, child in _resolve(node, kind).get("properties", {}).items():
            inner = _resolve(child, kind)
            if inner.get("properties"):
                yield from below(child, f"{prefix}{name}.")
            else:
                yield prefix + name

    return list(below(_schema(), ""))


class Config:
    """One configuration file; immutable, values by dotted key."""

    def __init__(self, document: tomlkit.TOMLDocument, name: str) -> None:
        """Raises ConfigError where the document holds a key that the engine would drop."""
        self.document, self.name = document, name
        self.stated = dict(_walk(document.unwrap()))
        self.kind = self.stated.get("train.train_policy.type", "grpo")
        for key in self.stated:
            self._require(key)

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a TOML file; a relative path counts from the project's root. Raises ConfigError."""
        path = ROOT / path
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file")
        try:
            return cls(tomlkit.parse(path.read_text(encoding="utf-8")), path.name)
        except tomlkit.exceptions.ParseError as error:
            raise ConfigError(f"{path}: not valid TOML ({error})") from None

    def _require(self, key: str) -> dict:
        leaf = _leaf(key, self.kind)
        if leaf is None:
            near = difflib.get_close_matches(key, _all_keys(self.kind), 1, 0.6)
            last = [k for k in _all_keys(self.kind) if k.split(".")[-1] == key.split(".")[-1]]
            hint = (last or near or ["a key of the schema in configs/schema"])[0]
            raise ConfigError(f"{self.name}: the engine has no key {key!r} and would drop it; did you mean {hint!r}?")
        return leaf

    def __getitem__(self, key: str) -> Any:
        """Returns the file's value, else the engine's default. Raises ConfigError for an unknown key."""
        leaf = self._require(key)
        return self.stated.get(key, leaf.get("default"))

    def table(self, key: str) -> dict:
        """Returns all stated values below a table, by the rest of their keys: table("custom")["data.train"]."""
        return {k.removeprefix(f"{key}."): v for k, v in self.stated.items() if k.startswith(f"{key}.")}

    def edit(self, changes: Mapping[str, Any]) -> "Config":
        """Returns a copy with the dotted keys set, comments kept. Raises ConfigError for an unknown key."""
        document = tomlkit.parse(tomlkit.dumps(self.document))
        for key, value in changes.items():
            self._require(key)
            *tables, name = key.split(".")
            node = document
            for table in tables:
                node = node.setdefault(table, tomlkit.table())
            node[name] = value
        return Config(document, self.name)

    def text(self) -> str:
        """Returns the configuration as TOML."""
        return tomlkit.dumps(self.document)
