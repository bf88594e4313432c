"""JupyterLab as a learner meets it: the index opens, curves grow while a cell trains, a clip plays, a form follows.

In a real JupyterLab and a real Chromium; it takes a minute, so `make test-slow` runs it.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import nbformat
import pytest
from browser import Browser, find

from cookbook.runs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find(), reason="needs Chromium")]

TRAIN = """\
import time
from cookbook.display.live import live_curves
from cookbook.display.progress import progress
from cookbook.runs import Run

run = Run({folder!r}, seed=0)
with live_curves(run, "rl"):
    for step in (bar := progress(60, "RL")):
        time.sleep(0.1)
        row = {{"train/reward_mean": step / 60, "train/kl_loss_avg": step / 900}}
        run.log_metrics(step + 1, **row)
        bar.set(reward=row["train/reward_mean"])
"""
PLAY = "from cookbook.display.clips import play\n\nplay({clip!r})"
FORM = """\
from cookbook.display.forms import parameter_form
from cookbook.display.settings import validate

parameter_form(validate("epochs: int = 2  # [0..] passes", {{}}), "sft.ipynb")
"""
PICTURES = "[...document.querySelectorAll('.jp-RenderedImage img')].map(i => i.src.length)"


class Lab(Browser):
    """A browser with a JupyterLab."""

    def __init__(self, address: str) -> None:
        self.address = address

    def go(self, path: str) -> None:
        self.call("Page.navigate", url=f"{self.address}/lab/tree/{path}?reset")

    def value(self, expression: str):
        """Returns what an expression of JavaScript gives, a promise awaited."""
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def until(self, expression: str, seconds: float = 60):
        """Wait until an expression gives something true. Returns it."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            time.sleep(0.25)
        return found

    def run_all(self) -> None:
        self.until("!!window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel != null")
        self.value("void jupyterapp.commands.execute('notebook:run-all-cells')")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, samples):
    """A JupyterLab in a folder with one notebook, and a browser."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [code.format(folder=str(folder / "run"), clip=str(samples[0].video)) for code in (TRAIN, PLAY, FORM)]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "work.ipynb")
    (folder / "index.ipynb").write_bytes((ROOT / "notebooks/index.ipynb").read_bytes())
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        with Lab(address) as opened:
            opened.folder = folder
            yield opened
    finally:
        server.terminate()
        server.wait(20)


def test_the_index_is_read_in_order_and_its_links_open_notebooks(lab):
    lab.go("index.ipynb")
    links = "[...document.querySelectorAll('.jp-RenderedMarkdown table a')].map(a => a.textContent).join(' ')"
    assert lab.until(links).split()[:3] == ["setup", "problem", "data"]


def test_curves_grow_while_a_cell_trains_and_stay_in_the_saved_notebook(lab):
    lab.go("work.ipynb")
    lab.run_all()
    first = lab.until(f"{PICTURES}[0]")
    lab.until(f"{PICTURES}[0] !== {first}")  # drawn again, in the same place
    assert lab.value(f"{PICTURES}.length") <= 2
    lab.until("document.querySelector('.jp-OutputArea').textContent.includes('RL: 60 of 60')")
    told = lab.until("document.querySelector('video') && 'there'")
    assert told == "there"
    lab.value("jupyterapp.commands.execute('docmanager:save').then(() => 1)")
    outputs = json.loads((lab.folder / "work.ipynb").read_text())["cells"][0]["outputs"]
    picture, bar = outputs
    assert "image/png" in picture["data"] and "".join(picture["data"]["text/plain"]).endswith("to step 60")
    assert "".join(bar["text"]).rstrip().endswith("RL: 60 of 60 · reward 0.983")


def test_a_clip_plays_in_the_output(lab):
    plays = """(async () => {
        const v = document.querySelector('video');
        await v.play();
        await new Promise(done => setTimeout(done, 700));
        return v.videoWidth > 0 && v.currentTime > 0.2;
    })()"""
    assert lab.until(plays)


def test_the_form_writes_the_command(lab):
    field = lab.until("document.querySelector('.jupyter-widgets input[type=text]') && 1")
    assert field == 1
    lab.value("""(() => {
        const field = document.querySelector('.jupyter-widgets input[type=text]');
        field.value = '50';
        field.dispatchEvent(new Event('input', {bubbles: true}));
        field.dispatchEvent(new Event('change', {bubbles: true}));
    })()""")
    lab.until("document.querySelector('.jupyter-widgets code')?.textContent.endsWith('-p epochs 50')")
