"""The terminal of a command that runs notebooks: one line says where it is, few lines stay, and a stop is one line."""

import io
import os
import pty
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import psutil
import pytest
from pace import gone

from cookbook.display.progress import FOLLOWED
from cookbook.display.terminal import ERASE, Line, stderr_to, ways_to_open


class Screen(io.StringIO):
    """A terminal that remembers all that was written to it."""

    def isatty(self) -> bool:
        return True

    def states(self) -> list[str]:
        """What its last line was, one after the other."""
        return self.getvalue().split(ERASE)[1:]


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return Screen()


# What is shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\r██░░░ SFT: 118 of 208 · loss 0.41 · 3 min 02 s left", "[5/7] sft  118/208  loss 0.41  3 min 02 s left"),
        ("\r░░ SFT: 0 of 208", "[5/7] sft  0/208"),
        ("\rcell: 12 of 51", "[5/7] sft  cell  12/51"),
        ("\r█ RL: 3 of 30\r█ base: answers, in batches of 64: 1 of 4 · 9 s left\n", "[5/7] sft  base  1/4  9 s left"),
        ("\r█ rl, shuffled frames: answers, in batches of 8: 8 of 9", "[5/7] sft  rl, shuffled frames  8/9"),
    ],
)
def test_the_last_progress_is_shown_under_the_title(screen, said, shown):
    line = Line(screen)
    line.begin("[5/7] sft")
    line.write(said)
    assert screen.states() == ["[5/7] sft", shown]


@pytest.mark.parametrize(
    "said",
    [
        "loss 0.4\n",
        "12 of 60",
        "Yes: 47 of 744 clips\n",
        "Yes: 47 of 744\n",
        "runs/t/sft: goes on after step 5 of 60\n",
        "",
        "\r",
        "{}",
    ],
)
def test_what_else_a_notebook_prints_is_not_shown(screen, said):
    line = Line(screen)
    line.begin("[5/7] sft")
    line.write(said)
    assert screen.states() == ["[5/7] sft"]


def test_the_line_never_breaks_and_only_what_ended_stays(screen):
    line = Line(screen)
    line.begin("[7/7] evaluation")
    line.write(f"█░ {'a long name ' * 9}: 3 of 9 · 1 s left")
    line.end("[7/7] evaluation  40 s")
    assert all(len(state.rstrip("\n")) < 80 for state in screen.states())
    assert screen.getvalue().count("\n") == 1 and screen.states()[-1] == "[7/7] evaluation  40 s\n"


@pytest.mark.parametrize("hours", [0.02, 0.1, 1, 10, 100])
def test_where_nobody_watches_lines_are_few_however_long_it_takes(hours):
    out, now = io.StringIO(), 0.0
    line = Line(out, clock=lambda: now)
    line.begin("[5/7] sft")
    for step in range(1, 5001):
        now = step * hours * 3600 / 5000
        line.write(f"\r█░ SFT: {step} of 5000")
        line.write("\rcell: 3 of 9")
    lines = out.getvalue().splitlines()
    assert len(lines) <= 45 and ERASE not in out.getvalue()
    assert len(lines) >= min(hours * 60 // 2, 5)
    assert all(text.startswith("[5/7] sft  ") for text in lines)


WORK = """\
import os, warnings
from cookbook.display.progress import progress
warnings.warn("of the user")
for step in (bar := progress(300, "SFT")):
    bar.set(loss=0.5)
    import time; time.sleep(0.005)
"""


def test_papermill_feeds_it_and_the_notebook_keeps_one_line_and_its_own_warnings(tmp_path, monkeypatch, screen):
    monkeypatch.setenv(FOLLOWED, "followed")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in ("1", WORK, "2")])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    line = Line(screen)
    line.begin("[5/7] sft")
    done = papermill.execute_notebook(book, tmp_path / "out.ipynb", coalesce_streams=True, stdout_file=line,
                                      progress_bar=line.cells())  # fmt: skip
    states = screen.states()
    assert any(" left" in state and "loss 0.5" in state for state in states)
    assert any(state.startswith("[5/7] sft  cell  ") for state in states)
    streams = {output.name: output.text for output in done.cells[1].outputs}
    assert streams["stdout"] == "SFT: 300 of 300 · loss 0.5\n" and "of the user" in streams["stderr"]


# What is not


def test_what_others_say_on_stderr_goes_to_a_file(tmp_path, capfd):
    with stderr_to(tmp_path / "new/said.log"):
        subprocess.run([sys.executable, "-c", "import sys; print('a warning', file=sys.stderr)"])
    with stderr_to(tmp_path / "silent.log"):
        pass
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "after it\n"
    assert (tmp_path / "new/said.log").read_text() == "a warning\n" and not (tmp_path / "silent.log").exists()


@pytest.mark.parametrize("there", ["", "xdg-open"])
def test_a_page_is_opened_by_what_this_machine_has(tmp_path, monkeypatch, there):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: name if name == there else None)
    monkeypatch.chdir(tmp_path)
    lines = ways_to_open("report", tmp_path / "my runs/report.html")
    assert lines[0] == "report: my runs/report.html" and "JupyterLab" in lines[-1]
    assert lines[1:-1] == ["  open it:        xdg-open 'my runs/report.html'"] * bool(there)


# A stop

COMMAND = """\
import subprocess, sys
from cookbook.display.terminal import leave_if_asked, stop_in_one_line
stop_in_one_line("go on", grace=int(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=True) if sys.argv[2:] else None
print("begun", flush=True)
while not child or child.poll() is None:
    try:
        __import__("time").sleep(0.05)
    except BaseException as error:  # as libraries do
        print(error)
leave_if_asked()
print("not asked")
"""
TIDY = """\
import pathlib, time
try:
    print("child", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    pathlib.Path("kept").touch()
"""
STUBBORN = """\
import signal, subprocess, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
subprocess.Popen(["sleep", "60"], start_new_session=True)
print("child", flush=True)
time.sleep(60)
"""


@pytest.fixture
def started(tmp_path):
    """A function that starts COMMAND, with this child, waits for both, and returns it with all below it."""

    def start(*child: str, grace: int = 3) -> tuple[subprocess.Popen, list[psutil.Process]]:
        process = subprocess.Popen([sys.executable, "-c", COMMAND, str(grace), *child], cwd=tmp_path, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert {process.stdout.readline() for _ in ("begun", *child)} == {"begun\n", *(["child\n"] * len(child))}
        return process, psutil.Process(process.pid).children(recursive=True)

    return start


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("child", [(), (TIDY,), (STUBBORN,)], ids=["nothing", "tidy", "stubborn"])
def test_a_stop_is_one_line_and_the_child_may_end_what_it_does(started, tmp_path, number, child):
    process, below = started(*child)
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("", "stopped; go on\n")
    assert process.returncode == 128 + number
    assert gone(below)
    assert (tmp_path / "kept").exists() == (child == (TIDY,))


@pytest.mark.fault("local engine")
def test_with_its_terminal_all_of_it_goes(tmp_path):
    pid, screen = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", COMMAND, "3", TIDY])
    seen = b""
    while seen.count(b"\n") < 2:  # "begun" and "child"
        seen += os.read(screen, 1024)
    (child,) = psutil.Process(pid).children()
    os.close(screen)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert gone([child]) and (tmp_path / "kept").exists()


@pytest.mark.fault("local engine")
def test_a_second_stop_waits_for_nobody(started):
    process, below = started(STUBBORN, grace=60)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "stopped; go on\n")
    assert gone(below)


PRINTS = """
import sys, time
from cookbook.display.terminal import command_parser
command_parser("x", "y").parse_args([])
for _ in range(200):
    print("word " * 1000, flush=True)
    time.sleep(0.05)
"""


def test_a_command_whose_reader_goes_away_ends_without_a_traceback():
    with subprocess.Popen([sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == b"" and command.wait() != 0


def test_a_command_that_is_stopped_says_so_in_one_line():
    with subprocess.Popen([sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.readline()
        command.send_signal(signal.SIGINT)
        assert command.communicate()[1] == b"stopped\n" and command.returncode != 0
