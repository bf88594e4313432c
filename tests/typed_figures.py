"""Figures and verdicts that a notebook's author typed, where the notebook should have computed them.

Why: a sentence beside an output outlives it. A number in an f-string's own words, or "better" in a print, stays when
the run says otherwise; so does a number in the prose below an output that this output, or the code, does not have.

    print("better" if after > before else "worse")    # computed: not found
    print("accuracy is above 0.9")                     # typed: found twice
"""

import ast
import re
from collections.abc import Iterator

# not 1 to 9, which count things in a sentence; not 28 × 28, a size, nor what an equation has worked out; "95 %" is what
# our intervals are called
NUMBER = r"(\d[\d,]*\.\d+|\d[\d,]*\d|\d(?= ?%))(?: ?%)?"
FIGURE = re.compile(rf"(?<![\w.,/-])(?<![x×=] )(?!95 ?%){NUMBER}(?! ?[x×] ?\d)(?![\w-])")
VERDICT = re.compile(r"\b(better|worse|above|below|more|less|higher|lower|lifts|rises|falls)\b", re.IGNORECASE)
CHOSEN = (ast.If, ast.IfExp, ast.Dict, ast.Compare, ast.comprehension)  # what stands in one was picked by a value
SAYS = ("print", "display", "Markdown")
NOT_SHOWN = (ast.Raise, ast.Assert)


def in_code(source: str) -> list[str]:
    """Returns the figures and verdicts that are typed in what a cell prints, and in the words of its f-strings.

    A figure that is also a number of the cell's code is an argument, no result.
    """
    tree = ast.parse(source)
    numbers = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    own = {f"{number:g}" for number in numbers if type(number) in (int, float)}
    return [words for words in _typed(tree, shown=False, chosen=False) if not own & _spellings(words)]


def _typed(node: ast.AST, shown: bool, chosen: bool) -> Iterator[str]:
    if isinstance(node, NOT_SHOWN):
        return
    if isinstance(node, ast.Constant) and shown and isinstance(node.value, str):
        yield from (match[0] for match in FIGURE.finditer(node.value))
        yield from (match[0] for match in VERDICT.finditer(node.value) if not chosen)
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    shown |= isinstance(node, ast.JoinedStr) or called in SAYS
    chosen |= isinstance(node, CHOSEN) or called == "Verdict"
    put_in = isinstance(node, ast.FormattedValue)  # computed; its format is no text
    for child in [node.value] if put_in else ast.iter_child_nodes(node):
        yield from _typed(child, shown and not put_in, chosen)


def in_prose(words: str, before: str) -> list[str]:
    """Returns the figures in prose that the outputs and the code before it do not have."""
    known = {match[1].replace(",", "") for match in re.finditer(r"(?<![\d.])(\d[\d,]*(?:\.\d+)?)", before)}
    return [match[0] for match in FIGURE.finditer(words) if not _spellings(match[0]) & known]


def _spellings(figure: str) -> set[str]:
    """Returns how outputs and code may write a figure: 78 % as 78, 0.78 or .78; nothing for a word."""
    plain = figure.replace(",", "").rstrip(" %")
    if not plain[0].isdigit():
        return set()
    share = f"{float(plain) / 100:g}" if "%" in figure else plain
    return {plain, share, share.removeprefix("0"), f"{float(plain):.2f}"}
