"""The one table: aligned lines in a terminal, HTML in a notebook, Markdown in a page; and the checklists in its form.

Why: a result should be readable in a terminal, under papermill and in JupyterLab alike. Doctor, `checkpoint.verify`,
reward gym, passport, settings and notebooks show themselves with it.

    Table(["answer", "reward"], [["always A", "0.25"], ["always B", Bold("0.31")]], "constant answers")
    Check("redis-server", MISSING, "not found", "conda install -c conda-forge redis-server")
    verdicts([Verdict("the reward rose", False, "the steps are too small", "raise the learning rate")])
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEFT = 'style="text-align: left"'
OK, WARNING, MISSING, ERROR = "ok", "warning", "missing", "error"


class Code(str):
    """A cell in code, each of its lines for itself; plain in text."""


class Bold(str):
    """A cell in bold; plain in text."""


@dataclass(frozen=True, repr=False)
class Table:
    """A head and rows of cells, which are shown as text, under a title where there is one."""

    head: Sequence[object]
    rows: Sequence[Sequence[object]]
    title: str = ""

    def __repr__(self) -> str:
        return "\n".join([self.title] * bool(self.title) + _aligned((self.head, *self.rows)))

    def _repr_html_(self) -> str:
        lines = ["".join(f"<th {LEFT}>{html.escape(str(cell))}</th>" for cell in self.head)]
        lines += ["".join(f"<td {LEFT}>{_html(cell)}</td>" for cell in row) for row in self.rows]
        title = f"<h4>{html.escape(self.title)}</h4>" if self.title else ""
        return f"{title}<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    def markdown(self) -> str:
        """Returns the table as Markdown, an upright bar in a cell escaped."""
        head, *rows = ("| " + " | ".join(map(_markdown, line)) + " |" for line in (self.head, *self.rows))
        title = [f"**{self.title}**\n"] * bool(self.title)
        return "\n".join([*title, head, "|" + "---|" * len(self.head), *rows])


class AsTable:
    """What shows itself as the table that its `_table` makes."""

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def label(model: str) -> str:
    """Returns a model's name as people write it: "sft" is SFT, "rl" is RL, others stay as they are."""
    return model.upper() if model in ("sft", "rl") else model


@dataclass(frozen=True)
class Verdict:
    """One sentence about a run: whether it holds, None where that cannot be told; why it may not, and what to do."""

    words: str
    holds: bool | None
    why: str = ""
    do: str = ""

    def __str__(self) -> str:
        """Returns the sentence behind its mark; where it does not hold, the two others below it."""
        mark = {True: "held", False: "NOT held", None: "open"}[self.holds]
        more = {} if self.holds else {"maybe": self.why, "try": self.do}
        return "\n".join([f"{mark:8} {self.words}", *(f"{'':8} {key}: {said}" for key, said in more.items() if said)])


def verdicts(found: Iterable[Verdict], strict: bool = False) -> None:
    """Print what holds and what does not. Raises AssertionError where `strict` and something does not."""
    found = list(found)
    print(*found, sep="\n")
    if strict and (not_held := [verdict.words for verdict in found if verdict.holds is not None and not verdict.holds]):
        raise AssertionError("; ".join(not_held))


def _aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Returns a line for each row, its cells below those of the others."""
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]


def _html(cell: object) -> str:
    text = html.escape(str(cell))
    if isinstance(cell, Code):
        return "<br>".join(f"<code>{line}</code>" for line in text.splitlines())
    return f"<b>{text}</b>" if isinstance(cell, Bold) and text else text


def _markdown(cell: object) -> str:
    text = str(cell).replace("|", "\\|")
    mark = "`" if isinstance(cell, Code) else "**" if isinstance(cell, Bold) else ""
    return "<br>".join(f"{mark}{line}{mark}" for line in text.splitlines())  # a row of Markdown is one line


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, how it stands, what was found, and the line that mends it."""

    name: str
    status: str
    found: str
    fix: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.status, self.name, self.found, self.fix


def as_text(rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of (status, name, found, fix) as lines; a fix stands below what it mends."""
    lines = []
    for *looked_at, fix in rows:
        lines += [looked_at, *(("", "", f"-> {line}") for line in fix.splitlines())]
    return "\n".join(_aligned(lines))


def as_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of (status, name, found, fix) as a table: what is not well in bold, a fix, if any, in code."""
    marked = [(s if s in (OK, "yes") else Bold(s), name, found, Code(fix)) for s, name, found, fix in rows]
    columns = 4 if any(fix for *_, fix in marked) else 3
    return Table(head[:columns], [row[:columns] for row in marked])._repr_html_()
