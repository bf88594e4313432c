"""`make recipes`: what a notebook found stands on the page, beside its outcome; what failed is told, in any light."""

import browser
import nbformat
import pytest

from cookbook import tutorial
from cookbook.runs import ROOT
from cookbook.tutorial import RECIPES, finding, page, run_recipe


def stub(folder, name, *sources):
    """A notebook of these cells; the first one is tagged as the parameters, the last one as the finding."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"], cells[-1].metadata["tags"] = ["parameters"], ["finding"]
    book = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
    )
    nbformat.write(book, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, what came of a recipe that holds, of one whose cell fails, and of one whose verdict does not hold)."""
    folder = tmp_path_factory.mktemp("recipes")
    stub(folder, "good", "seed: int = 4  # of all", 'print(f"SFT lifts {seed / 4:.0%} <of all>.")')
    stub(folder, "bad", 'raise ValueError("a <b>bad</b> day\\nand more")', "print('never')")
    stub(folder, "odd", "seed: int = 4  # of all", "print('NOT held b\\n         try: c')", "print('It moves.')")
    wanted = {"seed": 3, "engine": "local"}  # the stub has no engine, and must not be given one
    names = ("good", "bad", "odd")
    return folder / "out", [run_recipe(folder / f"{name}.ipynb", folder / "out", wanted) for name in names]


def test_a_finding_is_what_the_notebook_printed(ran):
    _, (good, bad, odd) = ran
    assert good[:3] == ("good", "SFT lifts 75% <of all>.", "ok") and good[3] > 0
    assert bad[:3] == ("bad", "", "ValueError: a <b>bad</b> day")
    assert odd[:3] == ("odd", "It moves.", "NOT held b")


def test_the_page_shows_finding_outcome_and_seconds_as_text(ran):
    out, found = ran
    text = page(found)
    assert "SFT lifts 75% &lt;of all&gt;." in text and '<p class="ok">ok · ' in text and '<p class="failed">' in text
    assert "ValueError: a &lt;b&gt;bad&lt;/b&gt; day" in text and "<b>" not in text
    for name in ("good", "bad"):
        assert f'href="{name}.html"' in text and (out / f"{name}.html").is_file()


def test_the_command_writes_the_page_and_fails_where_a_recipe_does(runs, monkeypatch, capsys):
    def ran(source, out, wanted, line):
        out.mkdir(exist_ok=True)
        assert wanted == {"seed": 3, "engine": "local"}
        return source.stem, f"{source.stem} moves.", "ok" if source.stem == "video_rewards" else "Error: no", 1.0

    monkeypatch.setattr(tutorial, "run_recipe", ran)
    for names, code, listed in ((["video_rewards"], 0, 1), ([], 1, len(RECIPES))):
        monkeypatch.setattr("sys.argv", ["tutorial", "--seed", "3", "--engine", "local", "--recipes", *names])
        assert tutorial.main() == code
        assert (runs / "recipes/index.html").read_text().count(" moves.") == listed
    assert "Error: no" in capsys.readouterr().out


@browser.needs_browser
def test_the_page_fits_a_phone_in_light_and_dark(ran):
    out, found = ran
    index = out / "index.html"
    index.write_text(page(found), encoding="utf-8")
    with browser.Browser() as opened:
        seen = [opened.open(index, *look) for look in browser.LOOKS]
    assert all(not s.console and not s.requests and s.overflow <= 0 for s in seen)
    assert seen[0].picture != seen[1].picture, "dark looks like light"


@browser.needs_browser
def test_the_page_shuts_nobody_out(ran):
    out, found = ran
    index = out / "index.html"
    index.write_text(page(found), encoding="utf-8")
    with browser.Browser() as opened:
        for look in browser.LOOKS:
            opened.open(index, *look)
            assert opened.violations() == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_prints_one_sentence_as_its_finding(name):
    found = finding(nbformat.read(ROOT / f"notebooks/recipes/{name}.ipynb", 4))
    assert found.endswith(".") and "\n" not in found and len(found) < 300
