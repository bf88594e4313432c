"""A learner's way through the notebooks, in a real JupyterLab and a real Chromium: bar, curve, clip, stop button.

The first two notebooks run wherever there is a Chromium, the trainings with `make test-browser`.
"""

import time

import pytest
from browser import find
from lab import Lab

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not find(), reason="no Chromium here (Debian: apt install chromium)"),
]
slow = [pytest.mark.slow, pytest.mark.timeout(900)]
TRAIN = "pipeline.train("
SMALL = {  # what makes each notebook short
    "setup": {},
    "data": {"train_clips": 24, "validation_clips": 6, "test_clips": 8},
    "sft": {"clips": 24, "epochs": 2},
    "rl": {"steps": 6, "lesson": ""},
    "evaluation": {"questions": 24, "control_questions": 8, "clips_in_report": 2},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab whose notebooks share a job, small and away from runs/."""
    with Lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


def opened(lab, name):
    book = lab.book(f"{name}.ipynb")
    book.set(**SMALL[name])
    book.run_all()
    return book


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow * (name not in ("setup", "data"))) for name in SMALL])
def test_all_cells_run_and_nothing_complains(lab, name):
    book = opened(lab, name)
    training, seen = book.cell(TRAIN), []
    while training >= 0 and not book.page.evaluate("window.ended"):
        seen.append(book.shown(training))
        time.sleep(0.5)
    book.wait(300)
    assert not book.complaints()
    if training >= 0:
        texts, pictures = ({found for found in column if found} for column in zip(*seen))
        assert len(texts) > 3, "the bar stood still"
        assert len(pictures) > 1, "the curve stood still"
    book.shoot("done")
    book.close()


def test_a_clip_plays(lab):
    book = opened(lab, "data")
    book.wait(300)
    book.shown(book.cell("play("))
    clip = book.page.locator("video").first
    clip.evaluate("clip => clip.play()")
    book.page.wait_for_function("document.querySelector('video').currentTime > 0.2", timeout=10_000)
    book.shoot("clip")
    book.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_training_says_how_to_go_on_and_all_cells_run_again(lab):
    book = lab.book("sft.ipynb")
    book.set(**SMALL["sft"] | {"epochs": 8, "fresh": True})
    book.run_all()
    training = book.cell(TRAIN)
    while "SFT: 5 of" not in book.shown(training)[0]:
        time.sleep(0.1)
    book.shoot("training")
    book.interrupt()
    book.wait(120)
    (stop,) = [output for output in book.outputs()[training] if output["output_type"] == "error"]
    assert len(stop["traceback"]) == 1 and "goes on from there" in stop["traceback"][0]
    book.shoot("stopped")
    book.set(fresh=False)
    book.run_all()
    book.wait(300)
    assert not book.complaints()
    book.close()
