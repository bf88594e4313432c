"""One configuration file: read, looked up and edited by dotted key, its comments kept; and two of them compared.

config = Config.load("configs/tiny_sft.toml").edit({"train.epoch": 50})
config["train.optm_lr"]
difference(Config.load("configs/tiny_sft.toml"), config)
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import InlineTable

from cookbook.config import schema
from cookbook.display.tables import Table
from cookbook.runs import ROOT


class ConfigError(ValueError):
    """A configuration that must not be run; each line of the message names the file, the key, and what to do."""


def _walk(table: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _line_of(kind: type[Exception], text: str) -> int:
    """Returns the first line up to which a text cannot be read for this reason, for a library that does not say it."""
    lines = text.splitlines(keepends=True)

    def fails(count: int) -> bool:
        try:
            tomlkit.parse("".join(lines[:count]))
        except Exception as error:
            return isinstance(error, kind)
        return False

    return bisect_left(range(1, len(lines) + 1), True, key=fails) + 1


class Config:
    """One configuration; immutable. What the file leaves out has the engine's default."""

    def __init__(self, document: tomlkit.TOMLDocument, name: str) -> None:
        self.document, self.name = document, name
        self.stated = dict(_walk(document.unwrap()))
        # where the file does not say what it is for, a table for rollouts means RL
        guess = "grpo" if {"rollout", "grpo"} & document.keys() else "sft"
        kind = self.stated.get("train.train_policy.type")
        self.kind = kind if kind in ("sft", "grpo") else guess

    @classmethod
    def parse(cls, text: str, name: str = "config") -> "Config":
        """Read TOML without a check of its keys. Raises ConfigError where it is not TOML."""
        try:
            return cls(tomlkit.parse(text), name)
        except (tomlkit.exceptions.TOMLKitError, RecursionError) as error:
            line = getattr(error, "line", 0) or _line_of(type(error), text)
            raise ConfigError(f"{name}:{line}: not valid TOML ({error})") from None

    @classmethod
    def read(cls, path: Path, name: str = "") -> "Config":
        """Read a file without a check of its keys: `lint` says what is wrong with them. Raises ConfigError."""
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file")
        try:
            return cls.parse(path.read_bytes().decode("utf-8-sig"), name or str(path))
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(f"{name or path}:{line}: is not UTF-8 ({error.reason}); save it as UTF-8") from None

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a file; a relative path counts from the project's root.

        Raises ConfigError where the file is missing, is not TOML, or holds a key that the engine would drop or a
        value that it would refuse.
        """
        return cls.read(ROOT / path, Path(path).name)._checked()

    def _checked(self) -> "Config":
        if found := list(schema.check(self.stated, self.kind, self.line)):
            raise ConfigError("\n".join(f"{self.name}:{f}" for f in found))
        return self

    def __getitem__(self, key: str) -> Any:
        """Returns the file's value, else the engine's default. Raises ConfigError for a key it does not have."""
        leaf = schema.find_key(key, self.kind)
        if leaf is None:
            raise ConfigError(f"{self.name}: the engine has no key {key!r}")
        return self.stated.get(key, leaf.get("default"))

    def table(self, key: str) -> dict:
        """Returns all stated values below a table, by the rest of their keys: table("custom")["data.train"]."""
        return {k.removeprefix(f"{key}."): v for k, v in self.stated.items() if k.startswith(f"{key}.")}

    def edit(self, changes: Mapping[str, Any]) -> "Config":
        """Returns a copy with the dotted keys set (None removes a key), comments kept. Raises ConfigError."""
        document = tomlkit.parse(tomlkit.dumps(self.document))
        for key, value in changes.items():
            *tables, name = key.split(".")
            node = document
            for table in tables:
                made = tomlkit.inline_table() if isinstance(node, InlineTable) else tomlkit.table()
                if not isinstance(node := node.setdefault(table, made), Mapping):
                    raise ConfigError(f"{self.name}: {table} is {node}, and must be a table")
            if value is None:
                node.pop(name, None)
            else:
                node[name] = value
        return Config(document, self.name)._checked()

    def text(self) -> str:
        return tomlkit.dumps(self.document)

    def line(self, key: str) -> int:
        """Returns the line on which a dotted key stands; of a missing key the line of its nearest table, else 1."""
        parts = key.split(".")
        return next((at for n in range(len(parts), 0, -1) if (at := self._lines.get(tuple(parts[:n])))), 1)

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], int]:
        found, table, quoted = {}, "", False
        for number, text in enumerate(self.text().splitlines(), 1):
            inside, quoted = quoted, quoted ^ (text.count('"""') % 2 == 1) ^ (text.count("'''") % 2 == 1)
            match = None if inside else re.match(r"\s*(?:\[+([^\]]+)\]+|([\w\-.\"' ]+?)\s*=)", text)
            if not match:
                continue
            if match[1]:
                table = match[1].strip()
            here = ".".join(filter(None, [table, (match[2] or "").strip().replace('"', "")])).split(".")
            found.setdefault(tuple(here), number)
        return found


def difference(default: Config, custom: Config) -> Table:
    """Returns key | default | custom | why of every key whose value differs, in the default's order, new keys last.

    Values stand as TOML would write them. The why of a changed value is the comment beside it in the custom file; the
    why of keys that it leaves out is a comment line `# key, key: reason`.
    """
    keys = dict.fromkeys([*default.stated, *custom.stated])
    rows = [
        (key, _written(default, key, "not stated"), _written(custom, key, "removed"), _why(custom, key))
        for key in keys
        if default.stated.get(key) != custom.stated.get(key)
    ]
    return Table(("key", "default", "custom", "why"), rows)


def _written(config: Config, key: str, absent: str) -> str:
    return tomlkit.item(config.stated[key]).as_string() if key in config.stated else absent


def _why(config: Config, key: str) -> str:
    if key not in config.stated:
        lines = re.findall(r"^# *([\w, ]+): (.+)$", config.text(), re.MULTILINE)
        return next((why for names, why in lines if key.split(".")[-1] in names.split(", ")), "")
    item = dict(_walk(config.document))[key]  # not part by part: a name in quotation marks may hold dots
    if isinstance(item, bool):  # tomlkit gives a plain one, without its comment
        return config.text().splitlines()[config.line(key) - 1].partition("#")[2].strip()
    return item.trivia.comment.lstrip("# ")
