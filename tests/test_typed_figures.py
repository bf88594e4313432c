"""What a notebook says of its results is computed, or stands in the output above it."""

from itertools import takewhile

import pytest
from teaching import NO_PROSE, NOTEBOOKS, page, text
from typed_figures import in_code, in_prose

# (notebook, what is typed): why it may be
TYPED = {
    ("av_caption_vqa", "Better"): "heads a list of what the tests found better",
    ("av_caption_vqa", "Worse"): "heads a list of what the tests found worse",
    ("data", "above"): "heads a list of what was found above",
    ("evaluation", "0.05"): "Cohen's scale, which the figure beside it is read on",
    ("evaluation", "0.15"): "the same",
    ("evaluation", "0.25"): "the same",
    ("evaluation", "10"): "the power that the number of questions is worked out for",
    ("evaluation", "90"): "an example of a useless score, worked out in the cell below",
    ("problem", "higher"): "says which answer has the maximum",
}


def found(path):
    """Yields what was typed in a notebook's prints, and in the cells of prose that stand right below an output."""
    before, below, prose = "", False, iter(page(path).prose)
    for cell in page(path).cells:
        if cell["cell_type"] == "code":
            yield from in_code(cell["source"])
            outputs = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]]
            before += "\n".join([cell["source"], *map("".join, outputs), ""])
            below = bool(outputs)
        else:
            tokens = takewhile(lambda token: token["type"] != "heading", next(prose))
            yield from in_prose(text(list(tokens), NO_PROSE | {"codespan", "link"}), before) if below else ()
            below = False


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_figure_or_verdict_is_typed(path):
    typed = {(path.stem, words) for words in found(path)}
    assert not typed - TYPED.keys()
    assert not {key for key in TYPED if key[0] == path.stem} - typed  # nothing in the table that no longer needs it


def test_a_typed_figure_is_found_and_a_computed_one_is_not():
    computed = """
print("better" if after > before else "worse", {True: "above", False: "below"}[high], f"{words['less']:12.2f}")
print(f"{share:.0%} of {n}, 95 %, 28 x 28 pixels, step 1")
print(f"{taken} of 400 tokens fit" if fits(taken, 400) else "too long")
raise ValueError("more than 100")
"""
    assert in_code(computed) == []
    assert in_code('print("accuracy is above 0.9")') == ["0.9", "above"]
    assert in_code('told = f"{name}: 12 % more"') == ["12 %", "more"]


def test_prose_may_say_what_the_output_or_the_code_says():
    above = "n = 2_880\naccuracy 0.78 of 1,200\n"
    assert in_prose("78 % of 1200, that is 0.78, of 28 × 28, in three steps", above) == []
    assert in_prose("79 % of 1,300; it took 14 minutes", above) == ["79 %", "1,300", "14"]
