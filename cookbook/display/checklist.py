"""Checklists: what was looked at, how it stands, and the line that mends it, as text and as a table.

Why: the doctor looks at a machine and `verify` at a checkpoint; both must read the same in a terminal, in a notebook
and as JSON.

    Check("redis-server", MISSING, "not found", "conda install -c conda-forge redis-server")
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OK, WARNING, MISSING, ERROR = "ok", "warning", "missing", "error"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, how it stands, what was found, and the line that mends it."""

    name: str
    status: str
    found: str
    fix: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The four columns of its row."""
        return self.status, self.name, self.found, self.fix


def as_text(rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of (status, name, found, fix) as lines; a fix stands below what it mends."""
    rows = list(rows)
    first, second = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    lines = []
    for status, name, found, fix in rows:
        lines.append(f"{status:{first}}  {name:{second}}  {found}".rstrip())
        lines += [" " * (first + second + 4) + f"-> {line}" for line in fix.splitlines()]
    return "\n".join(lines)


def as_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of (status, name, found, fix) as a table; the fix stands in code."""
    left = 'style="text-align: left"'
    lines = ["".join(f"<th {left}>{html.escape(cell)}</th>" for cell in head)]
    for status, name, found, fix in rows:
        mark = html.escape(status) if status in (OK, "yes") else f"<b>{html.escape(status)}</b>"
        code = "<br>".join(f"<code>{html.escape(line)}</code>" for line in fix.splitlines())
        cells = (mark, html.escape(name), html.escape(found), code)
        lines.append("".join(f"<td {left}>{cell}</td>" for cell in cells))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
