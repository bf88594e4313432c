"""A learner's way in JupyterLab: cells run, bars and curves move, clips play, forms follow, a stopped training goes on.

In a real JupyterLab and a real Chromium. What needs no training runs in `make test`, all of it in `make test-browser`.
"""

import re
import time

import pytest
from browser import needs_browser
from lab import Lab

pytestmark = [pytest.mark.browser, needs_browser]
slow = [pytest.mark.slow, pytest.mark.timeout(1200)]
SMALL = {  # what makes each notebook short
    "setup": {},
    "data": {"train_clips": 24, "validation_clips": 6, "test_clips": 8},
    "sft": {"clips": 24, "epochs": 4},
    "rl": {"steps": 6, "lesson": ""},
    "evaluation": {"questions": 24, "control_questions": 8, "clips_in_report": 2},
}
CALL = "pipeline.train("
TRAIN = """\
import time
from cookbook.display.live import live_curves
from cookbook.display.progress import progress
from cookbook.runs import Run

run = Run("curves", seed=0)
with live_curves(run, "rl"):
    for step in (bar := progress(60, "RL")):
        time.sleep(0.1)
        row = {"train/reward_mean": step / 60, "train/kl_loss_avg": step / 900}
        run.log_metrics(step + 1, **row)
        bar.set(reward=row["train/reward_mean"])
"""
PLAY = "from cookbook.display.clips import play\n\nplay({clip!r})"
FORM = """\
from cookbook.display.forms import parameter_form
from cookbook.display.settings import validate

parameter_form(validate("epochs: int = 2  # [0..] passes", {}), "sft.ipynb")
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab whose notebooks share a small job, away from runs/."""
    with Lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture(scope="module")
def work(lab, samples):
    """A notebook that seems to train, plays a clip and shows a form; and what its first cell showed while it ran."""
    lab.write("work.ipynb", TRAIN, PLAY.format(clip=str(samples[0].video)), FORM)
    book = lab.book("work.ipynb")
    book.run_all()
    return book, book.watch(0, 60)


def moved(shown):
    """Returns how many texts and how many pictures a cell has shown, one after another."""
    return tuple(len({found for found in column if found}) for column in zip(*shown))


def test_the_index_leads_to_the_notebooks_in_reading_order(lab):
    book = lab.book("index.ipynb")
    links = book.page.locator(".jp-RenderedMarkdown table a")
    assert links.all_inner_texts()[:3] == ["setup", "problem", "data"]
    links.first.click()
    book.page.wait_for_function("jupyterapp.shell.currentWidget.context?.path === 'notebooks/setup.ipynb'")
    book.page.close()


def test_a_curve_grows_while_a_cell_trains_and_stays_in_the_notebook(work):
    book, shown = work
    texts, pictures = moved(shown)
    assert texts > 5 and pictures > 1, "the bar or the curve stood still"
    picture, bar = book.outputs()[0]
    assert "image/png" in picture["data"] and picture["data"]["text/plain"].endswith("to step 60")
    assert bar["text"].rstrip().endswith("RL: 60 of 60 · reward 0.983")


def test_a_clip_plays(work):
    book, _ = work
    book.shown(1)
    clip = book.page.locator("video").first
    clip.evaluate("clip => clip.play()")
    book.page.wait_for_function("document.querySelector('video').currentTime > 0.2", timeout=30_000)
    assert clip.evaluate("clip => clip.videoWidth") > 0
    book.shoot("clip", 1)


def test_the_form_writes_the_command(work):
    book, _ = work
    book.shown(2)
    field = book.page.locator(".jupyter-widgets input[type=text]").first
    field.fill("50")
    field.press("Enter")
    book.page.wait_for_function("document.querySelector('.jupyter-widgets code').textContent.endsWith('-p epochs 50')")


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow * (name != "setup")) for name in SMALL])
def test_all_cells_run_and_nothing_complains(lab, name):
    book = lab.book(f"{name}.ipynb")
    book.set(**SMALL[name])
    book.run_all()
    training = book.cell(CALL)
    if training >= 0:
        texts, pictures = moved(book.watch(training, 600))
        assert texts > 3 and pictures > 1, "the bar or the curve stood still"
    book.wait(600)
    assert not book.complaints()
    book.shoot("done", max(training, 0))
    book.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_stopped_training_says_how_to_go_on_and_all_cells_run_again(lab):
    book = lab.book("sft.ipynb")
    book.set(**SMALL["sft"] | {"epochs": 8, "fresh": True})
    book.run_all()
    training = book.cell(CALL)
    while "SFT: 5 of" not in book.shown(training)[0]:
        time.sleep(0.1)
    book.shoot("training", training)
    book.interrupt()
    book.wait(120)
    (stop,) = [output for output in book.outputs()[training] if output["output_type"] == "error"]
    assert len(stop["traceback"]) == 1 and "goes on from there" in stop["traceback"][0]
    made = re.search(r"after step (\d+) of 16", stop["traceback"][0])[1]
    said = "".join(output.get("text", "") for output in book.outputs()[training])
    assert f"SFT: {made} of 16 · " in said  # bar and message count alike
    book.shoot("stopped", training)
    book.set(fresh=False)
    book.run_all()
    book.wait(600)
    said = "".join(output.get("text", "") for output in book.outputs()[training])
    assert f"goes on after step {made} of 16" in said and "SFT: 16 of 16 · " in said
    assert not book.complaints()
    book.close()
