"""The difference between two configurations as a table: key | default | custom | why.

Why: "what did you change, and why?" is the first question about any run. The answer is generated from the two files.
The why of a changed value is the comment beside it in the custom file; the why of keys that it leaves out is a comment
line `# key, key: reason`.

    python -m cookbook.config diff configs/sft.toml configs/avha_sft.toml
"""

import re

import tomlkit

from cookbook.config.document import Config
from cookbook.display.tables import Table


def difference(default: Config, custom: Config) -> Table:
    """Returns every key whose value differs, as TOML would write both; in the default file's order, new keys last."""
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
    """Returns the comment behind a key's value; of a key that the file lacks, the comment line that names it."""
    if key not in config.stated:
        lines = re.findall(r"^# *([\w, ]+): (.+)$", config.text(), re.MULTILINE)
        return next((why for names, why in lines if key.split(".")[-1] in names.split(", ")), "")
    item = config.document
    for part in key.split("."):
        item = item[part]
    if isinstance(item, bool):  # tomlkit gives a plain one, without its comment
        return config.text().splitlines()[config.line(key) - 1].partition("#")[2].strip()
    return item.trivia.comment.lstrip("# ")
