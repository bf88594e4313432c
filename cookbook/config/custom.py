"""The table [custom]: the keys that loader files read there, and what is wrong with those that a file states.

Why: the engine passes the table on untouched, so a misspelt key would be lost without a word. Loaders
(`data_tools.loading.custom`) and the lint both ask here. The keys of one loader alone stand in its `OPTIONS`, by their
types, which the lint reads without running the file.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cookbook.config.document import Config
from cookbook.config.schema import Issue
from cookbook.runs import ROOT

SLICE = re.compile(r"\w*(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")
KEYS = {"accept_left_out": float, "contract": str, "loader": str, "passport": str, "subset": SLICE, "test_share": float}
TYPES = {str: "a text in quotes", list: "a list of texts", int: "a whole number", float: "a share from 0 to 1",
         bool: "true or false", SLICE: 'a text like "[:100]" or "[:10%]"'}  # fmt: skip
NAMES = {kind.__name__: kind for kind in TYPES if isinstance(kind, type)}
OPTIONS = re.compile(r"^OPTIONS = \{([^}]*)\}", re.MULTILINE)  # of a loader file


def check_custom(
    config: Config, more: Mapping[str, Any] | None, who: str = "this loader does not read it", level: str = "error"
) -> Iterator[Issue]:
    """Yields the stated keys that a loader refuses: all but KEYS and `more`, its own, and values of another type.

    Where `more` is None, only KEYS are known, and others pass. `level` is that of what stands outside of KEYS; as a
    warning, since a loader of one's own may read it, a key must look like a known one.
    """
    known = {**(more or {}), **KEYS}
    for key, value in config.table("custom").items():
        kind, name = known.get(key), f"custom.{key}"
        if key not in known and more is not None:
            near = difflib.get_close_matches(key[:99], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it reads {', '.join(sorted(known))}"
            if near or level == "error":
                yield Issue(config.line(name), name, f"{who}; {hint}", level)
        elif kind and not _is(value, kind):
            words = f"is {value!r}; it is {TYPES[kind]}"
            yield Issue(config.line(name), name, words, "error" if key in KEYS else level)


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and 0 <= value <= 1
    if kind is SLICE:
        return isinstance(value, str) and SLICE.fullmatch(value) is not None
    return type(value) is kind and (kind is not list or all(isinstance(item, str) for item in value))


def options(loader: Path) -> dict[str, Any] | None:
    """Returns the keys that a loader file reads beside KEYS, with their types; None where it does not state them."""
    found = OPTIONS.search(loader.read_text(encoding="utf-8", errors="replace")) if loader.is_file() else None
    return found and {key: NAMES.get(kind) for key, kind in re.findall(r'"(\w+)": (\w+)', found[1])}


@cache
def shipped_options() -> dict[str, Any]:
    """Returns the keys that any loader of the project reads, with their types."""
    return {key: kind for file in (ROOT / "data_tools").glob("*.py") for key, kind in (options(file) or {}).items()}
