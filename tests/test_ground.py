"""The ground the project stands on: one set of versions, two commands, one clear line on an unfit machine.

The set-up runs here against a fake Python in a temporary folder; the real .venv is never touched.
"""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tomlkit
import yaml
from pace import gone

ROOT = Path(__file__).parents[1]
PROJECT = tomlkit.parse((ROOT / "pyproject.toml").read_text())["project"].unwrap()
REQUIREMENTS = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", " ")
MB = 1_000_000


# One set of versions


def test_environment_yml_asks_pip_for_what_pyproject_asks_for():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert [line for line in pip if not line.startswith("-")] == REQUIREMENTS
    # the lock as constraints gives conda users the same versions; the project itself comes last
    assert [line for line in pip if line.startswith("-")] == ["-c requirements.lock", "-e ."]
    assert pip[-1] == "-e ."


def test_every_pin_of_pyproject_stands_in_the_lock():
    pins = [re.match(r"[\w.-]+==[^\s;]+", requirement) for requirement in REQUIREMENTS]
    pins = [match.group() for match in pins if match]
    locked = {line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert pins and set(pins) <= locked


def test_the_lock_covers_every_dependency_and_pins_everything():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    lines = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert [line for line in lines if not re.match(r"[a-z0-9.-]+==\S+", line)] == []
    names = {line.split("==")[0] for line in lines}
    assert {re.match(r"[\w.-]+", requirement).group() for requirement in REQUIREMENTS} <= names


# The repository


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git tracks; skips where the project was unpacked without its history."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in names.stdout.split("\0") if (ROOT / name).is_file()]


def test_tracked_files_are_small(tracked):
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked}
    assert {name: size for name, size in sizes.items() if size > 12 * MB} == {}
    assert sum(sizes.values()) < 40 * MB


def test_no_tracked_file_names_a_registry_or_this_checkout(tracked):
    # in pieces, so that this file does not name them either
    hosts = ["py" + "pi.org", "python" + "hosted.org", "anaconda" + ".org", "npm" + "js.org"]
    needles = [name.encode() for name in [*hosts, f"{ROOT}/"]]
    named = [(path.name, needle) for path in tracked for needle in needles if needle in path.read_bytes()]
    assert named == []


def test_no_second_lock_file_is_tracked(tracked):
    assert {"uv.lock", "package-lock.json"}.isdisjoint(path.name for path in tracked)


# The commands


def test_readme_and_both_ci_files_give_the_same_test_command():
    blocks = re.findall(r"```.*?\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert any(re.search(r"^make test\b(?!-)", block, flags=re.MULTILINE) for block in blocks)
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert "make test" in script
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    steps = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert "make test PYTHON=python" in steps


def test_make_test_runs_every_notebook_that_is_tracked(tracked):
    listed = re.search(r"^NOTEBOOKS := (.*)$", MAKEFILE, flags=re.MULTILINE).group(1).split()
    folder = ROOT / "notebooks"
    present = {path.relative_to(ROOT).as_posix() for path in tracked if path.parent == folder}
    assert {name for name in present if name.endswith(".ipynb")} <= set(listed)


def test_the_index_leads_to_every_notebook_in_reading_order():
    listed = re.search(r"^NOTEBOOKS := (.*)$", MAKEFILE, flags=re.MULTILINE).group(1).split()
    cells = json.loads((ROOT / "notebooks/index.ipynb").read_text(encoding="utf-8"))["cells"]
    table = "".join(cells[0]["source"])
    named = re.findall(r"\((\w+\.ipynb)\)", table)
    assert [f"notebooks/{name}" for name in ["index.ipynb", *named]] == listed
    links = re.findall(r"\]\(([^)]+)\)", "".join(line for cell in cells for line in cell["source"]))
    assert [link for link in links if not (ROOT / "notebooks" / link).exists()] == []


def test_hook_and_makefile_clean_notebooks_alike():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (entry,) = [hook["entry"] for hook in hooks if hook["id"] == "nbstripout"]
    recipe = re.search(r"^STRIP := (.*)$", MAKEFILE, flags=re.MULTILINE).group(1)
    assert recipe.replace("$(BIN)", ".venv/bin").split() == entry.split()


# The set-up, on a machine of fakes

FAKE_PYTHON = """#!/bin/sh
# Answers like a Python $VERSION, installs copies of itself, notes every call, fails where $FAIL is in one.
case "$1" in *step.py)
    [ -z "${SLOW:-}" ] || exec "$REAL" "$@"
    log=$2; shift 2; exec "$@" >>"$log" 2>&1 ;;
esac
echo "$*" >>calls.txt
case "$*" in *"${FAIL:-nothing fails}"*) printf "$SAYS" >&2; exit 1 ;; esac
case "$*" in *"${SLOW:-nothing is slow}"*) sleep 60 & sleep 60 ;; esac
case "$*" in
    *version_info*) echo "${VERSION:-3.11}" ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/uv ;;
    *tutorial*) echo "$*" ;;
esac
"""
FAKE_DF = """#!/bin/sh
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "/dev/disk 99000000 1 ${FREE_KB:-50000000} 1% /"
"""
TRACEBACK = r"Traceback (most recent call last):\n  File x\n"


@pytest.fixture
def machine(tmp_path):
    """A function that runs a command in a copy of the ground; PATH holds fakes and plain tools only."""
    for name in ["Makefile", "pyproject.toml", "requirements.lock", ".ci/setup.sh", ".ci/step.py"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ["sh", "cat", "cp", "date", "dirname", "grep", "make", "mkdir", "rm", "sleep", "touch"]:
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    for name, text in {"python3": FAKE_PYTHON, "df": FAKE_DF}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def begin(*command: str, **variables: str) -> subprocess.Popen:
        environment = {"PATH": str(programs), "HOME": str(tmp_path), **variables}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True)  # fmt: skip

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess:
        said = (process := begin(*command, **variables)).communicate()
        return subprocess.CompletedProcess(command, process.returncode, *said)

    run.folder, run.begin = tmp_path, begin
    return run


def calls(machine) -> list[str]:
    """What was asked of the fake Python and its uv, oldest first; asking empties the list."""
    notes = machine.folder / "calls.txt"
    lines = notes.read_text().splitlines() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return lines


def assert_one_line(result: subprocess.CompletedProcess, *words: str) -> None:
    """The set-up failed, said one line on stderr with all `words` in it, and showed nobody a traceback."""
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert [word for word in words if word not in result.stderr] == []
    assert "Traceback" not in result.stdout + result.stderr


def test_set_up_installs_the_lock_and_then_the_project(machine):
    result = machine(".ci/setup.sh")
    assert (result.returncode, result.stderr) == (0, "")
    installs = [call for call in calls(machine) if "install" in call]
    assert re.fullmatch(r"-m pip install uv==[\d.]+", installs[0])
    target = "--python .venv/bin/python"
    whole = f"pip install --compile-bytecode {target} -r requirements.lock"
    assert installs[1:] == [whole, f"pip install {target} --no-deps -e ."]
    assert (machine.folder / ".venv/.ready").exists()
    assert int((machine.folder / ".venv/.setup_seconds").read_text()) >= 0


def test_no_python_is_said_in_one_line(machine):
    (machine.folder / "programs/python3").unlink()
    assert_one_line(machine(".ci/setup.sh"), "no Python", "install Python 3.10, 3.11 or 3.12", "make PYTHON=")


def test_a_shim_that_does_not_run_is_no_python(machine):
    says = r"shim: command not found\nTry another version\n"
    result = machine(".ci/setup.sh", FAIL="version_info", SAYS=says)
    assert_one_line(result, "no Python", "install Python 3.10")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13", "2.7"])
def test_a_wrong_python_is_named(machine, version):
    assert_one_line(machine(".ci/setup.sh", VERSION=version), f"python3 ({version})", "install Python 3.10")


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_a_named_python_is_used(machine, version):
    named = machine.folder / "my python"
    (machine.folder / "programs/python3").rename(named)
    result = machine(".ci/setup.sh", str(named), VERSION=version)
    assert result.returncode == 0 and f"Python {version}" in result.stdout


@pytest.mark.parametrize(("user", "flag"), [("0", "--allow-root"), ("1000", "")])
def test_lab_opens_the_index_at_the_root_and_says_what_it_adds_for_root(machine, user, flag):
    (machine.folder / "programs/id").write_text(f"#!/bin/sh\necho {user}\n")
    (machine.folder / "programs/id").chmod(0o755)
    said = machine("make", "-n", "lab", "LAB=--no-browser").stdout
    assert f"jupyter lab --LabApp.default_url=/lab/tree/notebooks/index.ipynb {flag} --no-browser" in said
    assert f'test -z "{flag}" || echo "make lab: you are root' in said


def test_a_missing_venv_module_is_named(machine):
    result = machine(".ci/setup.sh", FAIL="import ensurepip", SAYS=TRACEBACK)
    assert_one_line(result, "venv", "apt install python3.11-venv")


def test_a_full_disk_stops_before_anything_is_made(machine):
    assert_one_line(machine(".ci/setup.sh", FREE_KB="9999999"), "10 GB", "make room")
    assert not (machine.folder / ".venv").exists()


@pytest.mark.parametrize("step", ["-m venv", "pip install uv", "-r requirements.lock", "-e ."])
@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        (r"error sending request\ndns error\n", "check the connection"),
        (r"No space left on device\n", "free 10 GB"),
        (r"something new\n", "make clean"),
    ],
)
def test_a_failing_step_names_its_log_and_its_remedy(machine, step, says, remedy):
    result = machine(".ci/setup.sh", FAIL=step, SAYS=TRACEBACK + says)
    assert_one_line(result, ".venv-setup.log", remedy)
    assert "Traceback" in (machine.folder / ".venv-setup.log").read_text()
    assert not (machine.folder / ".venv/.ready").exists()


@pytest.mark.parametrize("step", ["-m venv", "pip install uv", "-r requirements.lock"])
@pytest.mark.parametrize("to", ["the shell", "everybody"])  # SIGTERM, or Ctrl-C of a terminal
def test_a_stop_is_one_line_and_leaves_nothing_running(machine, step, to):
    process = machine.begin(".ci/setup.sh", SLOW=step, REAL=sys.executable)
    own = psutil.Process(process.pid)
    wait_until(lambda: sum(is_asleep(child) for child in own.children(recursive=True)) == 2)
    below = own.children(recursive=True)
    if to == "the shell":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)
    assert said[1] == "setup: stopped; the same command goes on, with the packages that have come already\n"
    assert process.returncode != 0 and "Traceback" not in said[0]
    assert gone(below)


def is_asleep(process):
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended since it was listed
        return process.name() == "sleep"
    return False


def wait_until(holds, seconds=30.0):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.05)


INSTALLER = """\
import sys, time
print("Resolved 2 packages", end="\\r\\n" if sys.stdout.isatty() else "\\n", flush=True)
print("terminal" if sys.stdout.isatty() else "no terminal", sys.stdin.isatty(), flush=True)
print("Installed 2 packages\\n + one\\n + two", flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_step_shows_progress_on_a_terminal_only_and_keeps_every_word(tmp_path, terminal):
    ours, screen = pty.openpty()
    command = [sys.executable, ROOT / ".ci/step.py", tmp_path / "log", sys.executable, "-c", INSTALLER]
    to = screen if terminal else subprocess.PIPE
    result = subprocess.run(command, stdout=to, stdin=subprocess.DEVNULL)
    os.write(screen, b".")  # or reading would wait
    shown = os.read(ours, 4096) if terminal else result.stdout
    words = (tmp_path / "log").read_text()
    assert result.returncode == 3 and " + one" in words and " + two" in words
    assert (b"Resolved 2" in shown) == ("terminal True" in words) == terminal
    assert b"+ one" not in shown


def test_a_half_made_venv_is_made_anew(machine):
    machine(".ci/setup.sh")
    calls(machine)
    (machine.folder / ".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    assert machine(".ci/setup.sh").returncode == 0
    assert "-m venv --clear .venv" in calls(machine)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_second_make_installs_nothing_and_counts_no_seconds(machine):
    first = machine("make", "tutorial")
    assert first.returncode == 0
    assert re.search(r"-m cookbook.tutorial --setup-seconds \d+$", first.stdout)
    assert any("install" in call for call in calls(machine))

    second = machine("make", "tutorial")
    assert second.stdout == "-m cookbook.tutorial --setup-seconds 0\n"
    assert calls(machine) == ["-m cookbook.tutorial --setup-seconds 0"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_newer_lock_is_installed_into_the_same_venv(machine):
    machine("make", "tutorial")
    calls(machine)
    later = (machine.folder / ".venv/.ready").stat().st_mtime + 5
    os.utime(machine.folder / "requirements.lock", (later, later))
    machine("make", "tutorial")
    again = calls(machine)
    assert "pip install --compile-bytecode --python .venv/bin/python -r requirements.lock" in again
    assert not any("-m venv" in call for call in again)
