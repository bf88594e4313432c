"""JupyterLab as a learner meets it: a server on copies of the notebooks, and pages in a browser.

Why: nbval and papermill run cells, but see no bar, no curve, no clip, no stop button.

    with Lab(folder) as lab:
        book = lab.book("sft.ipynb")
        book.set(clips=24)                  # in the parameters cell
        book.run_all()
        book.wait(120)
        assert not book.complaints()
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import nbformat
from browser import Browser
from playwright.sync_api import Page

from cookbook.runs import FOLDER, ROOT

SHOTS = ROOT / "runs/screenshots"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}  # pixels
NEWS = "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
CELLS = "jupyterapp.shell.currentWidget.content.widgets"
READY = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


class Lab(Browser):
    """A JupyterLab, started as `make lab` does but for a port and a token of its own, and a browser beside it."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes the copies of the notebooks, and all runs."""
        self.folder = folder

    def __enter__(self) -> "Lab":
        shutil.copytree(ROOT / "notebooks", self.folder / "notebooks")
        (news := self.folder / "config" / NEWS).parent.mkdir(parents=True)
        news.write_text('{"fetchNews": "false"}')  # its question would lie over the pictures
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.token = f"http://127.0.0.1:{port}", secrets.token_hex()
        command = [Path(sys.executable).with_name("jupyter"), "lab", "notebooks/index.ipynb", "--no-browser",
                   "--allow-root", "--expose-app-in-browser", f"--ServerApp.port={port}",
                   f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.folder}"]  # fmt: skip
        own = {FOLDER: self.folder / "runs", "JUPYTER_CONFIG_DIR": self.folder / "config", "PYTHONPATH": ROOT}
        environment = os.environ | {name: str(place) for name, place in own.items()}
        self.log = (self.folder / "jupyter.log").open("wb")
        self.server = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=self.log, stderr=self.log)
        try:
            self._wait()
            return super().__enter__()
        except BaseException:
            self._end()
            raise

    def _wait(self, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.server.poll() is None:
            with suppress(OSError), urlopen(f"{self.address}/api?token={self.token}", timeout=2):
                return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "jupyter.log").read_text())

    def __exit__(self, *_) -> None:
        super().__exit__()
        self._end()

    def _end(self) -> None:
        self.server.terminate()  # which ends its kernels too
        self.server.wait(30)
        self.log.close()

    def write(self, name: str, *cells: str) -> None:
        """Write a notebook of these code cells beside the others."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.folder / "notebooks" / name)

    def book(self, name: str) -> "Book":
        """Returns a notebook in a page of its own, its kernel ready."""
        page = self.chromium.new_page(viewport=dict(zip(("width", "height"), WIDTHS["desktop"])))
        page.goto(f"{self.address}/lab/tree/notebooks/{name}?token={self.token}&reset")
        page.wait_for_function(READY, timeout=60_000)
        return Book(page, Path(name).stem)


@dataclass
class Book:
    """An open notebook."""

    page: Page
    name: str

    def set(self, **parameters: object) -> None:
        """Type values into the cell of the parameters."""
        own = f"{CELLS}.find(c => c.model.getMetadata('tags')?.includes('parameters')).model.sharedModel"
        source = self.page.evaluate(f"{own}.getSource()")
        for name, value in parameters.items():
            source, found = re.subn(rf"(?m)^({name}: \w+ = ).*?(?=  #|$)", rf"\g<1>{value!r}", source)
            assert found == 1, f"{name} is no parameter of {self.name}"
        self.page.evaluate(f"source => {own}.setSource(source)", source)

    def run_all(self) -> None:
        """Start all cells, as the menu does."""
        self.page.evaluate(
            """() => {
                window.ended = false;
                jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ended = true; });
            }"""
        )

    def wait(self, seconds: float) -> None:
        """Wait until the cells that were started have ended, well or not."""
        self.page.wait_for_function("window.ended", timeout=seconds * 1000)

    def interrupt(self) -> None:
        """Press the stop button."""
        self.page.evaluate("void jupyterapp.commands.execute('notebook:interrupt-kernel')")

    def cell(self, words: str) -> int:
        """Returns the place of the first code cell whose source has these words."""
        wanted = f"{CELLS}.findIndex(c => c.model.type === 'code' && c.model.sharedModel.getSource().includes(words))"
        return self.page.evaluate(f"words => {wanted}", words)

    def outputs(self) -> list[list[dict]]:
        """Returns the outputs of all cells, as the notebook's file would have them."""
        own = "Array.from({length: c.model.outputs.length}, (_, i) => c.model.outputs.get(i).toJSON())"
        return self.page.evaluate(f"() => {CELLS}.map(c => c.model.outputs ? {own} : [])")

    def complaints(self) -> list[str]:
        """Returns what a learner would take for an error: error outputs, words on stderr, cells that did not run."""
        count = f"() => {CELLS}.filter(c => c.model.type === 'code' && c.model.executionCount === null).length"
        unrun = self.page.evaluate(count)
        said = [output for cell in self.outputs() for output in cell]
        return [f"{unrun} cells did not run"] * bool(unrun) + [
            output.get("evalue") or output["text"]
            for output in said
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]

    def shown(self, cell: int) -> tuple[str, str]:
        """Returns what the page shows below a cell: (its text, the end of its first picture's data)."""
        look = """async cell => {
            const book = jupyterapp.shell.currentWidget.content;
            await book.scrollToItem(cell, 'end');
            const node = book.widgets[cell].outputArea.node;
            return [node.innerText, node.querySelector('img')?.src.slice(-400) ?? ''];
        }"""
        return tuple(self.page.evaluate(look, cell))

    def watch(self, cell: int, seconds: float) -> list[tuple[str, str]]:
        """Returns what a cell shows, twice a second, until it has run."""
        done = f"cell => window.ended || {CELLS}[cell].model.executionCount !== null"
        seen, end = [], time.monotonic() + seconds
        while not self.page.evaluate(done, cell) and time.monotonic() < end:
            seen.append(self.shown(cell))
            self.page.wait_for_timeout(500)
        return [*seen, self.shown(cell)]

    def shoot(self, what: str, cell: int) -> None:
        """Keep a picture of the page around a cell at each width, by night and by day, and at the widest go on."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        for theme in ("Dark", "Light"):
            change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme}).then(() => null)"
            self.page.evaluate(change, f"JupyterLab {theme}")
            for name, (width, height) in reversed(WIDTHS.items()):
                self.page.set_viewport_size({"width": width, "height": height})
                # on a phone the list of files would leave no room for the notebook
                self.page.evaluate(f"jupyterapp.shell.{'expand' if width > 700 else 'collapse'}Left()")
                self.page.evaluate("cell => jupyterapp.shell.currentWidget.content.scrollToItem(cell, 'start')", cell)
                self.page.wait_for_timeout(1000)  # until it is laid out anew
                self.page.screenshot(path=SHOTS / f"{self.name}_{what}_{name}_{theme.lower()}.png")

    def close(self) -> None:
        """End the kernel, and close the page."""
        self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
