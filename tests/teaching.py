"""What the notebooks give a reader, counted: words a cell, figures, plots, links, exercises; and where links lead.

Why: a notebook grows by a sentence at a time, and nobody sees it. `test_teaching.py` holds the limits.

    python tests/teaching.py            # the table of all notebooks
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from urllib.parse import unquote

import mistune

from cookbook.display.tables import Table
from cookbook.runs import ROOT

LONGEST, USUAL = 110, 45  # words: the most that a cell of prose has, and the median of a notebook's cells
INDEX = ROOT / "notebooks/index.ipynb"  # leads to the others, and teaches nothing itself
NOTEBOOKS = [path for place in ("", "recipes") for path in sorted((ROOT / "notebooks" / place).glob("*.ipynb"))]
NOTEBOOKS.remove(INDEX)
PAGES = [path for place in (".", "notebooks", "notebooks/recipes", "tests") for path in (ROOT / place).glob("*.md")]
NO_PROSE = {"block_code", "block_math", "image"}
BLOCKS = {"paragraph", "heading", "block_text", "table_cell", "list_item", "linebreak", "softbreak"}
FOLDED = ("source_hidden", "outputs_hidden")
EXERCISE = re.compile(r"### Exercise \d+: ")
markdown = mistune.create_markdown(renderer="ast", plugins=["table", "math"])


def walk(tokens: Collection[dict]) -> Iterator[dict]:
    """Yields every token of a parsed Markdown text, what it holds behind it."""
    for token in tokens:
        yield token
        yield from walk(token.get("children", ()))


def text(tokens: Collection[dict], but: Collection[str] = ()) -> str:
    """Returns what a reader sees of the tokens, without those of some types."""
    words = ""
    for token in tokens:
        if token["type"] not in but:
            own = token.get("raw", "")
            own = re.sub(r"<[^>]*>", " ", own) if token["type"].endswith("html") else own
            words += own + text(token.get("children", ()), but) + " " * (token["type"] in BLOCKS)
    return words


@dataclass(frozen=True)
class Page:
    """A notebook, or a Markdown file as a notebook of one cell."""

    path: Path

    @cached_property
    def cells(self) -> list[dict]:
        """Returns the cells, each with its source as one text."""
        content = self.path.read_text(encoding="utf-8")
        if self.path.suffix == ".md":
            return [{"cell_type": "markdown", "source": content}]
        return [cell | {"source": "".join(cell["source"])} for cell in json.loads(content)["cells"]]

    @cached_property
    def prose(self) -> list[list[dict]]:
        """Returns the tokens of each Markdown cell."""
        return [markdown(cell["source"]) for cell in self.cells if cell["cell_type"] == "markdown"]

    @cached_property
    def words(self) -> list[int]:
        """Returns how many words each cell of prose has, those of its tables too."""
        return [len(text(tokens, NO_PROSE).split()) for tokens in self.prose]

    def addresses(self, kind: str) -> list[str]:
        """Returns where the page's links ("link") lead, or where its pictures ("image") lie."""
        tag = {"link": r'<a\s[^>]*?href="([^"]*)"', "image": r'<img\s[^>]*?src="([^"]*)"'}[kind]
        tokens = [token for cell in self.prose for token in walk(cell)]
        html = " ".join(token["raw"] for token in tokens if token["type"].endswith("html"))
        return [token["attrs"]["url"] for token in tokens if token["type"] == kind] + re.findall(tag, html)

    @property
    def contents(self) -> set[str]:
        """Returns the places of this page that one of its first cells leads to."""
        first = (token for cell in self.prose[:4] for token in walk(cell) if token["type"] == "link")
        return {unquote(token["attrs"]["url"][1:]) for token in first if token["attrs"]["url"].startswith("#")}

    @property
    def silent(self) -> list[str]:
        """Returns the pictures in the prose that have no text alternative."""
        tokens = [token for cell in self.prose for token in walk(cell)]
        tags = [tag for t in tokens if t["type"].endswith("html") for tag in re.findall(r"<img\b[^>]*>", t["raw"])]
        return [t["attrs"]["url"] for t in tokens if t["type"] == "image" and not text(t["children"]).strip()] + [
            tag for tag in tags if not re.search(r'\balt="[^"]*\w', tag)
        ]

    @property
    def plots(self) -> int:
        """Returns how many outputs are pictures."""
        outputs = [output for cell in self.cells for output in cell.get("outputs", [])]
        return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs)

    @property
    def exercises(self) -> list[bool]:
        """Returns for each exercise whether the cell behind it is its solution, folded until one has guessed."""
        pairs = zip(self.cells, [*self.cells[1:], {"cell_type": "none", "metadata": {}}])
        return [
            "solution" in after["metadata"].get("tags", []) and all(after["metadata"]["jupyter"].get(p) for p in FOLDED)
            for cell, after in pairs
            if cell["cell_type"] == "markdown" and EXERCISE.match(cell["source"])
        ]

    @cached_property
    def anchors(self) -> dict[str, int]:
        """Returns what a link can lead to on this page: names of headings, with their levels, as the page's host has.

        JupyterLab puts a hyphen for each space; on a Markdown page GitHub also lowers letters, and drops other marks.
        """
        heads = {text(t["children"]).strip(): t["attrs"]["level"] for cell in self.prose for t in cell
                 if t["type"] == "heading"}  # fmt: skip
        if self.path.suffix == ".md":
            heads = {re.sub(r"[^\w\- ]", "", head.lower()): level for head, level in heads.items()}
        return {head.replace(" ", "-"): level for head, level in heads.items()}

    @property
    def astray(self) -> list[str]:
        """Returns the links and pictures of this project that lead nowhere."""
        found = []
        for address in self.addresses("link") + self.addresses("image"):
            file, _, anchor = unquote(address).partition("#")
            target = self.path.parent / file if file else self.path
            if not re.match(r"[a-z]+:", address) and (
                not target.exists() or (anchor and anchor not in page(target.resolve()).anchors)
            ):
                found.append(address)
        return found


@cache
def page(path: Path) -> Page:
    """Returns the page of a file, read once."""
    return Page(path)


def table() -> Table:
    """Returns the count of all notebooks."""
    head = ("notebook", "cells", "words", "most", f"over {LONGEST}", "figures", "plots", "links", "exercises")
    rows = []
    for path in NOTEBOOKS:
        book = page(path)
        figures = sum(address.endswith(".svg") for address in book.addresses("image"))
        rows.append((path.stem, len(book.cells), f"{median(book.words):g}", max(book.words),
                     sum(words > LONGEST for words in book.words), figures, book.plots,
                     sum(address[0] != "#" for address in book.addresses("link")), len(book.exercises)))  # fmt: skip
    return Table(head, rows)


if __name__ == "__main__":
    print(table())
