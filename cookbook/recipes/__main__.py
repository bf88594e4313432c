"""Run the four recipes in miniature through papermill, and write one page that leads to them: `make recipes`.

Why: a recipe is worth what it found, and the findings are read side by side. The sentence on the page is the output of
the notebook's cell tagged `finding`, so it is computed by the run that it stands for.

    python -m cookbook.recipes                     # runs/recipes/index.html
    python -m cookbook.recipes --only video_rewards
"""

import argparse
import html
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cookbook import runs
from cookbook.runs import ROOT, named

RECIPES = ("video_rewards", "warehouse_spatial", "intelligent_transportation", "av_caption_vqa")
NOTEBOOKS = ROOT / "notebooks/recipes"
FINDING = "finding"  # the tag of the cell that prints one sentence
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The recipes</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --line: light-dark(#ccc, #444); --good: light-dark(#12692f, #6fd08c);
  --bad: light-dark(#a4161a, #ff8f8f) }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em }}
article {{ border-top: 1px solid var(--line); padding: .8em 0 }}
h2 {{ font-size: 1.1em; margin: 0 }} p {{ margin: .3em 0; overflow-wrap: anywhere }}
.ok {{ color: var(--good) }} .failed {{ color: var(--bad) }}
</style></head><body>
<h1>The recipes</h1>
<p>Four published recipes in miniature. Each line is what the notebook found; the name leads to the whole of it.</p>
{articles}
</body></html>
"""
ARTICLE = """<article><h2><a href="{name}.html">{name}</a></h2>
<p>{finding}</p>
<p class="{state}">{outcome} · {seconds:.0f} s</p></article>"""


@dataclass(frozen=True)
class Ran:
    """One recipe's run: what it found, "ok" or the first line of its error, and how long it took."""

    name: str
    finding: str
    outcome: str
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether the notebook ran to its end, its own checks included."""
        return self.outcome == "ok"


def run(recipe: str, out: Path, folder: Path = NOTEBOOKS) -> Ran:
    """Execute one notebook of `folder` into `out`, also as HTML. Returns what came of it."""
    import nbformat
    import papermill
    from nbconvert import HTMLExporter

    started, outcome = time.monotonic(), "ok"
    source, target = folder / f"{recipe}.ipynb", out / f"{recipe}.ipynb"
    try:
        papermill.execute_notebook(source, target, progress_bar=False, kernel_name="python3", cwd=source.parent)
    except papermill.PapermillExecutionError as error:
        outcome = (f"{error.ename}: {error.evalue}".splitlines() or ["failed"])[0]
    book = nbformat.read(target, 4)
    target.with_suffix(".html").write_text(HTMLExporter().from_notebook_node(book)[0], encoding="utf-8")
    return Ran(recipe, finding(book), outcome, time.monotonic() - started)


def finding(book) -> str:
    """Returns what the cells tagged `finding` printed; "" where none ran."""
    cells = [cell for cell in book.cells if FINDING in cell.metadata.get("tags", [])]
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", [])).strip()


def page(found: Sequence[Ran]) -> str:
    """Returns the page, which needs nothing from the network."""
    articles = (
        ARTICLE.format(
            name=html.escape(ran.name),
            finding=html.escape(ran.finding or "No finding: it ended before."),
            state="ok" if ran.is_ok else "failed",
            outcome=html.escape(ran.outcome),
            seconds=ran.seconds,
        )
        for ran in found
    )
    return PAGE.format(articles="\n".join(articles))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a recipe's own check does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES)
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    out = runs.path("recipes")
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for recipe in args.only:
        found.append(run(recipe, out))
        print(f"{recipe}: {found[-1].outcome}, {found[-1].seconds:.0f} s\n  {found[-1].finding}", flush=True)
    index = out / "index.html"
    index.write_text(page(found), encoding="utf-8")
    print(f"index: {named(index)}")
    return int(not all(ran.is_ok for ran in found))


if __name__ == "__main__":
    sys.exit(main())
