"""Progress: every item comes once, the estimate is right, and each place gets what it can show."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import nbformat
import pytest
from nbval.kernel import RunningKernel

from cookbook.display import progress as module
from cookbook.display.progress import Progress, choose_mode, progress


class Clock:
    """A clock that somebody has to turn."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def work(mode: str, steps: int, seconds: float, **figures) -> Progress:
    """Goes through so many steps of so many seconds each."""
    clock = Clock()
    bar = Progress(steps, "SFT", mode=mode, clock=clock)
    for _ in bar:
        clock.now += seconds
        bar.set(**figures)
    return bar


@pytest.mark.parametrize("mode", ["lines", "quiet", "terminal"])
@pytest.mark.parametrize("items", [[], ["a"], ["a", "b", "c"]])
def test_every_item_comes_once_and_in_order(mode, items):
    bar = Progress(items, "SFT", mode=mode)
    assert list(bar) == items and bar.done == len(items)


def test_a_number_stands_for_its_range():
    assert list(Progress(3, "SFT", mode="quiet")) == [0, 1, 2]


def test_items_without_a_length_are_refused():
    with pytest.raises(TypeError):
        progress(iter([1, 2]), "SFT")


def test_the_estimate_is_the_mean_time_of_the_steps_that_are_left():
    clock = Clock()
    bar = Progress(100, "SFT", mode="lines", clock=clock)
    assert "left" not in bar.text()  # nothing is known yet
    for elapsed, done, said in [
        (8, 10, "1 min 12 s left"),
        (100, 50, "1 min 40 s left"),
        (99, 99, "1 s left"),
    ]:
        clock.now, bar.done = elapsed, done
        assert bar.text() == f"SFT: {done} of 100 · {said}"
    clock.now, bar.done = 3700, 10
    assert bar.text().endswith("9 h 15 min left")


# Plain lines


@pytest.mark.parametrize(("steps", "seconds"), [(1000, 0.001), (60, 1), (10, 30), (5, 200), (3000, 1)])
def test_lines_are_rare_in_short_work_and_regular_in_long_work(capsys, steps, seconds):
    work("lines", steps, seconds)
    lines = capsys.readouterr().out.splitlines()
    total = steps * seconds
    assert lines[-1].startswith(f"SFT: {steps} of {steps} · took ")
    assert 1 <= len(lines) <= 1 + min(total / 10, max(10, total / 60))
    assert len(lines) >= min(steps, total // 70)


def test_figures_stand_in_the_lines(capsys):
    work("lines", 5, 200.0, loss=0.51234, clips=12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SFT: 1 of 5 · loss 0.512 · clips 12 · 13 min 20 s left"
    assert lines[-1] == "SFT: 5 of 5 · loss 0.512 · clips 12 · took 16 min 40 s"


def test_work_without_items_counts_by_hand(capsys):
    bar = Progress(10, "Reading", mode="quiet")
    bar.advance(4)
    assert capsys.readouterr().out == ""
    bar.advance(6)
    assert capsys.readouterr().out == "Reading: 10 of 10\n"


# Kept outputs


@pytest.mark.parametrize("seconds", [0.001, 100])
def test_what_is_kept_is_one_line_that_tells_no_time(capsys, seconds):
    work("quiet", 20, seconds, loss=0.5)
    assert capsys.readouterr() == ("SFT: 20 of 20 · loss 0.5\n", "")


def test_a_step_whose_figures_are_told_was_made_though_the_loop_ends_in_it(capsys):
    with pytest.raises(KeyboardInterrupt):
        for item in (bar := Progress(5, "SFT", mode="quiet")):
            bar.set(loss=0.5)
            if item == 2:
                raise KeyboardInterrupt
    assert capsys.readouterr().out == "SFT: 3 of 5 · loss 0.5\n"


def test_a_loop_that_is_left_early_says_where(capsys):
    for item in Progress(5, "SFT", mode="quiet"):
        if item == 2:
            break
    assert capsys.readouterr().out == "SFT: 2 of 5\n"


# Lines that overwrite themselves


@pytest.mark.parametrize("mode", ["terminal", "live"])
def test_a_bar_overwrites_its_one_line_where_it_is_watched(monkeypatch, capsys, mode):
    monkeypatch.setattr(module, "REDRAW", 0)
    work(mode, 4, 1.0, loss=0.25)
    out, err = capsys.readouterr()
    shown, other = (err, out) if mode == "terminal" else (out, err)
    drawn = [line.strip() for line in shown.split("\r") if line.strip()]
    assert other == "" and shown.count("\n") == 1
    assert drawn[0] == "░" * 20 + " SFT: 0 of 4"
    assert drawn[2] == "█" * 10 + "░" * 10 + " SFT: 2 of 4 · loss 0.25 · 2 s left"
    assert drawn[-1] == "SFT: 4 of 4 · loss 0.25" + (" · took 4 s" if mode == "terminal" else "")


def test_a_bar_is_drawn_at_most_four_times_a_second(capsys):
    begun = time.monotonic()
    work("terminal", 4000, 0.1)
    assert 2 <= capsys.readouterr().err.count("\r") <= 6 + 4 * (time.monotonic() - begun)


def test_a_bar_is_drawn_in_a_terminal_that_says_it_has_no_lines(monkeypatch):
    """As that of `script` and of some containers; tqdm asks for the size, and would draw nothing."""
    monkeypatch.setattr(module, "REDRAW", 0)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 0, 80, 0, 0))
    with os.fdopen(theirs, "w") as screen:
        monkeypatch.setattr("sys.stderr", screen)
        work("terminal", 4, 1.0)
        shown = b""
        while "░ SFT: 2 of 4" not in shown.decode(errors="replace"):  # what was written may come in parts
            assert select.select([ours], [], [], 10)[0], shown
            shown += os.read(ours, 4096)


def test_a_bar_that_was_left_behind_takes_no_line(monkeypatch, capsys):
    monkeypatch.setattr(module, "REDRAW", 0)
    broken = Progress(5, "broken", mode="live")
    broken.advance()
    work("live", 2, 1.0)
    assert capsys.readouterr().out.count("\n") == 1 and broken.done == 1


# Where am I?


@pytest.mark.parametrize(
    ("launcher", "metadata", "mode"),
    [
        (["python3", "/opt/bin/jupyter-lab", "x.ipynb"], {"cellId": "1"}, "live"),
        (["python3", "/opt/bin/papermill", "a.ipynb", "pytest"], {}, "lines"),
        (["python3", "-m", "papermill", "a.ipynb"], {}, "lines"),
        (["python3", "-m", "cookbook.tutorial"], {}, "lines"),
        (["/opt/bin/python3", "/opt/bin/jupyter-nbconvert", "--to"], {}, "quiet"),
        ([], {}, "lines"),
    ],
)
def test_a_kernel_knows_who_reads_it(monkeypatch, launcher, metadata, mode):
    kernel = SimpleNamespace(get_parent=lambda: {"metadata": metadata})
    monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(module.psutil, "Process", lambda pid: SimpleNamespace(cmdline=lambda: launcher))
    assert choose_mode() == mode


def test_a_launcher_that_is_gone_means_lines(monkeypatch):
    def gone(pid):
        raise module.psutil.NoSuchProcess(pid)

    kernel = SimpleNamespace(get_parent=lambda: {})
    monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(module.psutil, "Process", gone)
    assert choose_mode() == "lines"


@pytest.mark.parametrize(("is_terminal", "mode"), [(True, "terminal"), (False, "lines")])
def test_a_plain_process_asks_its_terminal(monkeypatch, is_terminal, mode):
    monkeypatch.setattr(module.sys, "stderr", SimpleNamespace(isatty=lambda: is_terminal))
    assert choose_mode() == mode


# In real kernels

WORK = """\
from cookbook.display.progress import progress

for step in (bar := progress(3, "SFT")):
    bar.set(loss=0.5)
"""


def outputs(kernel: RunningKernel, metadata: dict) -> list[tuple[str, str]]:
    """Runs WORK as a front end that sends this metadata would; returns the kinds and texts that came."""
    content = {"code": WORK, "silent": False, "store_history": False, "allow_stdin": False}
    request = kernel.kc.session.msg("execute_request", content, metadata=metadata)
    kernel.kc.shell_channel.send(request)
    came = []
    while True:
        message = kernel.get_message("iopub", timeout=30)
        if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
            continue
        kind, content = message["msg_type"], message["content"]
        if content.get("execution_state") == "idle":
            return came
        if kind in ("stream", "display_data", "update_display_data", "error"):
            came.append((content.get("name", kind), content.get("text") or content["data"]["text/plain"]))


def test_a_kernel_of_nbval_is_quiet_and_one_of_a_front_end_is_live(monkeypatch):
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "work.ipynb::Cell 0 (setup)")  # as pytest sets it for a notebook
    kernel = RunningKernel("python3")
    try:
        assert outputs(kernel, {}) == [("stdout", "SFT: 3 of 3 · loss 0.5\n")]
        came = outputs(kernel, {"cellId": "abc"})
    finally:
        kernel.stop()
    first, last = came[0], came[-1]
    assert {kind for kind, _ in came} == {"stdout"}  # no widget, whose state would be saved
    assert first[0] == "stdout" and "░ SFT: 0 of 3" in first[1]
    assert last[0] == "stdout" and last[1].endswith("\rSFT: 3 of 3 · loss 0.5\n")


def test_papermill_logs_lines(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WORK)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "work.ipynb")
    command = [
        sys.executable,
        "-m",
        "papermill",
        "work.ipynb",
        "out.ipynb",
        "--log-output",
        "--no-progress-bar",
    ]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "SFT: 3 of 3 · loss 0.5 · took 0 s" in result.stderr
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs
    assert output.name == "stdout"
