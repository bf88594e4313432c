"""Run the four recipes in miniature through papermill, and write one page that leads to them: `make recipes`.

Why: a recipe is worth its card, and the cards are read side by side.

    python -m cookbook.recipes                     # runs/recipes/index.html
    python -m cookbook.recipes --only video_rewards
"""

import argparse
import html
import sys
import time
import warnings
from pathlib import Path

from cookbook.runs import ROOT, RUNS

RECIPES = ("video_rewards", "warehouse_spatial", "intelligent_transportation", "av_caption_vqa")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The recipes</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui; max-width: 50em; margin: 2em auto; padding: 0 1em }}
td, th {{ text-align: left; padding: .3em 1em .3em 0 }}</style>
<h1>The recipes</h1><table><tr><th>recipe<th>outcome<th>seconds{rows}</table></html>
"""


def run(recipe: str, out: Path) -> tuple[str, float]:
    """Execute one notebook into `out`, also as HTML. Returns ("ok" or the first line of its error, seconds)."""
    import nbformat
    import papermill
    from nbconvert import HTMLExporter

    started, outcome = time.monotonic(), "ok"
    source, target = ROOT / "notebooks/recipes" / f"{recipe}.ipynb", out / f"{recipe}.ipynb"
    try:
        papermill.execute_notebook(source, target, progress_bar=False, kernel_name="python3", cwd=source.parent)
    except papermill.PapermillExecutionError as error:
        outcome = f"{error.ename}: {error.evalue}".splitlines()[0]
    page, _ = HTMLExporter().from_notebook_node(nbformat.read(target, 4))
    target.with_suffix(".html").write_text(page, encoding="utf-8")
    return outcome, time.monotonic() - started


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a recipe's own check does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES)
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    out = RUNS / "recipes"
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for recipe in args.only:
        found[recipe] = run(recipe, out)
        print(f"{recipe}: {found[recipe][0]}, {found[recipe][1]:.0f} s", flush=True)
    rows = "".join(
        f'<tr><td><a href="{name}.html">{name}</a><td>{html.escape(said)}<td>{seconds:.0f}'
        for name, (said, seconds) in found.items()
    )
    index = out / "index.html"
    index.write_text(PAGE.format(rows=rows), encoding="utf-8")
    print(f"index: {index.relative_to(ROOT)}")
    return int(any(said != "ok" for said, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
