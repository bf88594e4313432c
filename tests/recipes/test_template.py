"""A new recipe made from the template passes untouched: under nbval, and under papermill with parameters."""

import os
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest

from cookbook import runs
from cookbook.runs import ROOT

TEMPLATE = ROOT / "notebooks/recipes/template.ipynb"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks/recipes").glob("*.ipynb"))


@pytest.fixture
def mine(tmp_path):
    """A copy with another name, in another folder, and a job of its own below runs/."""
    copy = tmp_path / "mine.ipynb"
    shutil.copy(TEMPLATE, copy)
    book = nbformat.read(copy, 4)
    for cell in book.cells:
        cell.source = cell.source.replace('"my_recipe"', '"test_recipe_template"')
    nbformat.write(book, copy)
    yield copy
    shutil.rmtree(runs.path("test_recipe_template"), ignore_errors=True)


def quick(notebook):
    """The same copy with two steps and few clips: what is tested is that it runs."""
    book = nbformat.read(notebook, 4)
    for cell in book.cells:
        cell.source = cell.source.replace("clips: int = 60", "clips: int = 12").replace(
            "steps: int = 12", "steps: int = 4"
        )
    nbformat.write(book, notebook)
    return notebook


def test_a_copy_passes_nbval(mine):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    found = subprocess.run([*command, quick(mine)], cwd=ROOT, capture_output=True, text=True, timeout=300,
                           env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.slow
def test_a_copy_runs_under_papermill_and_refuses_a_misspelt_parameter(mine, tmp_path):
    wanted = {"clips": 12, "steps": 4, "engine": "local"}
    out = papermill.execute_notebook(mine, tmp_path / "out.ipynb", wanted, progress_bar=False, kernel_name="python3")
    assert all(cell.execution_count for cell in out.cells if cell.cell_type == "code")
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean steps"):
        papermill.execute_notebook(mine, tmp_path / "out.ipynb", {"step": 4}, progress_bar=False, kernel_name="python3")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebooks_keep_the_rules(name):
    """One parameters cell, settings checked right behind it, outputs kept and in order, no path of this machine."""
    book = nbformat.read(ROOT / f"notebooks/recipes/{name}.ipynb", 4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [0]
    assert "check_settings()" in code[1].source
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for c in code for output in c.outputs
    )
    text = nbformat.writes(book)
    assert str(ROOT) not in text and "/home/" not in text and "/tmp/" not in text
