"""A table that prints as aligned lines and shows itself as HTML in a notebook.

Why: a result should be readable in a terminal, under papermill and in JupyterLab alike.

    Table(["answer", "reward"], [["always A", "0.25"], ["always B", "0.31"]])
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Table:
    """A head and rows of cells; cells are shown as text."""

    head: Sequence[object]
    rows: Sequence[Sequence[object]]

    def __repr__(self) -> str:
        lines = [[str(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        left = 'style="text-align: left"'
        head, *body = ([html.escape(str(cell)) for cell in row] for row in (self.head, *self.rows))
        lines = ["".join(f"<th {left}>{cell}</th>" for cell in head)]
        lines += ["".join(f"<td {left}>{cell}</td>" for cell in row) for row in body]
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)
