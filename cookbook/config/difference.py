"""The difference between two configurations as a table: default | custom | why.

Why: "what did you change, and why?" is the first question about any run. The answer is generated from the two files.
The why of a changed value is the comment beside it in the custom file; the why of keys that it leaves out is a comment
line `# key, key: reason`.
"""

import re
from dataclasses import dataclass

import tomlkit

from cookbook.config.document import Config

REMOVED, ADDED = "*removed*", "*not stated*"


@dataclass(frozen=True)
class Change:
    """One row: the key, both values as TOML would write them, and the reason that the custom file gives."""

    key: str
    default: str
    custom: str
    why: str


class Difference(list[Change]):
    """The rows; shows itself as a table in a notebook, and as Markdown."""

    def markdown(self) -> str:
        """Returns the table as Markdown, grouped by the TOML table."""
        lines = ["| key | default | custom | why |", "|---|---|---|---|"]
        table = None
        for row in self:
            head, _, name = row.key.rpartition(".")
            if head != table:
                lines.append(f"| **[{head}]** | | | |" if head else "| **top level** | | | |")
                table = head
            cells = (f"`{v}`" if v not in (REMOVED, ADDED) else v for v in (name, row.default, row.custom))
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in (*cells, row.why)) + " |")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.markdown()


def _shown(config: Config, key: str, absent: str) -> str:
    if key not in config.stated:
        return absent
    return tomlkit.item(config.stated[key]).as_string()


def _why(config: Config, key: str) -> str:
    """Returns the comment behind a key's value; of a key that the file lacks, the comment line that names it."""
    if key not in config.stated:
        lines = re.findall(r"^# *([\w, ]+): (.+)$", config.text(), re.MULTILINE)
        return next((why for names, why in lines if key.split(".")[-1] in names.split(", ")), "")
    item = config.document
    for part in key.split("."):
        item = item[part]
    return item.trivia.comment.lstrip("# ")


def difference(default: Config, custom: Config) -> Difference:
    """Returns every key whose value differs, table by table in the default file's order, new keys last."""
    order = dict.fromkeys([*default.stated, *custom.stated])
    return Difference(
        Change(key, _shown(default, key, ADDED), _shown(custom, key, REMOVED), _why(custom, key))
        for key in order
        if default.stated.get(key) != custom.stated.get(key)
    )
