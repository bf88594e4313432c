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
ANY = "any"  # the type of a key of which nothing is known


def check_custom(config: Config, more: Mapping[str, Any], who: str = "this loader does not read it") -> Iterator[Issue]:
    """Yields the stated keys that a loader refuses: all but KEYS and `more`, its own, and values of another type."""
    known = dict(more) | KEYS
    for key, value in config.table("custom").items():
        name = f"custom.{key}"
        if key not in known:
            near = difflib.get_close_matches(key[:99], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it reads {', '.join(sorted(known))}"
            yield Issue(config.line(name), name, f"{who}; {hint}")
        elif not _is(value, kind := known[key]):
            yield Issue(config.line(name), name, f"is {value!r}; it is {TYPES[kind]}")


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and 0 <= value <= 1
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return (
        kind == ANY
        or type(value) is kind
        or (kind is SLICE and isinstance(value, str) and bool(SLICE.fullmatch(value)))
    )


def options(loader: Path) -> dict[str, Any] | None:
    """Returns the keys that a loader file reads beside KEYS, with their types; None where it does not state them."""
    found = OPTIONS.search(loader.read_text(encoding="utf-8")) if loader.is_file() else None
    return found and {key: NAMES.get(kind, ANY) for key, kind in re.findall(r'"(\w+)": (\w+)', found[1])}


@cache
def shipped_options() -> dict[str, Any]:
    """Returns the keys that any loader of the project reads, with their types."""
    return {key: kind for file in (ROOT / "data_tools").glob("*.py") for key, kind in (options(file) or {}).items()}
