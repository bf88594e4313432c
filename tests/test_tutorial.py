"""The tutorial's command: says before what it will do, shows where it is, ends in the result; a stop is one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from pace import gone
from teaching import Page

from cookbook import jobs, tutorial
from cookbook.doctor import checks
from cookbook.runs import ROOT, code_hash

MODELS = {"base": (0.25, 0.2, 0.3), "sft": (0.5, 0.45, 0.55), "rl": (0.75, 0.7, 0.8)}
CLUSTERED = {"sft_vs_base": 4e-4, "rl_vs_sft": 0.04}
COMPARISON = {
    "n": 400,
    "chance": 0.4,
    "majority": 0.4,
    "models": {m: {"accuracy": a, "ci95": [low, high], "format_rate": 1.0} for m, (a, low, high) in MODELS.items()},
    # single questions would be surer of RL than whole clips are
    "paired": {"sft_vs_base": {"p": 1e-9, "needed": 40}, "rl_vs_sft": {"p": 1e-9, "needed": 40}},
    "clustered": {pair: {"difference": 0.25, "ci95": [0.2, 0.3], "p": p} for pair, p in CLUSTERED.items()},
    "answer": "Yes, better at every step, but rules fell",
    "doubts": ["RL set off an alarm: kl (from step 20 on)."],
}


def test_names_that_are_written_twice_agree():
    assert (tutorial.NAME, tutorial.JOBS) == (jobs.NAME, jobs.FOLDER)
    assert (
        tutorial.SECONDS.keys() == {*tutorial.NOTEBOOKS, *tutorial.RECIPES}
        and tutorial.AGAIN.keys() < tutorial.SECONDS.keys()
    )


# What it says


@pytest.fixture
def notebooks(runs, monkeypatch):
    """Notebooks that take no time and print much: the list of those that ran."""
    ran = []

    def execute(source, out, wanted, line=None):
        ran.append(source.stem)
        for step in range(200):
            line.write(f"█░ SFT: {step} of 200 · loss 0.5 · 9 s left\nother words\n")
        (out.parent / "evaluation").mkdir(parents=True, exist_ok=True)
        (out.parent / "evaluation/comparison.json").write_text(json.dumps(COMPARISON))

    monkeypatch.setattr(tutorial, "execute", execute)
    monkeypatch.setattr(tutorial, "probe", lambda: 2 * tutorial.PACE)
    monkeypatch.setattr(checks, "query_gpus", lambda: "")
    return ran


def said(monkeypatch, capsys, *arguments) -> list[str]:
    monkeypatch.setattr("sys.argv", ["tutorial", *arguments])
    assert tutorial.main() == 0
    return capsys.readouterr().out.splitlines()


def test_first_the_time_then_a_line_a_notebook_last_the_result_and_the_report(notebooks, runs, monkeypatch, capsys):
    lines = said(monkeypatch, capsys)
    assert len(lines) <= 60 and all(len(line) <= 80 or str(runs) in line for line in lines)
    seconds = 2 * sum(tutorial.SECONDS[name] for name in tutorial.NOTEBOOKS)
    assert "7 notebooks" in lines[0] and lines[2] == tutorial.STOP
    minutes, rest = map(int, re.match(r"About (\d+) min (\d+) s", lines[1]).groups())
    assert abs(60 * minutes + rest - seconds) <= 5
    assert [re.match(r"\[(\d)/7\] (\w+) +\d+ s$", line).groups() for line in lines[3:10]] == [
        (str(number), name) for number, name in enumerate(tutorial.NOTEBOOKS, start=1)
    ]
    assert lines[10].startswith("Took ") and lines[10].endswith("were said.")
    assert lines[11:14] == [
        "base   25.0 %  [20.0–30.0]  of 400 questions on unseen clips; guessing: 40.0 %",
        "SFT    50.0 %  [45.0–55.0]  +25.0 points, p < 0.001",
        "RL     75.0 %  [70.0–80.0]  +25.0 points, p = 0.040",
    ]
    assert lines[14:16] == [f"Did it get better? {COMPARISON['answer']}.", *COMPARISON["doubts"]]  # as the report opens
    assert lines[16].startswith("report: ") and lines[16].endswith("tutorial/report.html")
    told = json.loads((runs / "tutorial/summary.json").read_text())["paired"]
    assert {pair: step["p"] for pair, step in told.items()} == {"sft_vs_base": 8e-4, "rl_vs_sft": 0.04}


def test_of_sentences_the_last_lines_tell_the_shared_words():
    texts = {"n": 400, "majority": 0.3, "models": {"base": {"rougeL": 0.2, "ci95": [0.1, 0.3]}}, "clustered": {}}
    told = tutorial.results(COMPARISON | {"texts": texts})
    assert told[0] == "base   20.0 %  [10.0–30.0]  words shared; one answer for all: 30.0 %"


def test_the_copy_of_a_notebook_shows_its_figures_and_its_links_lead_somewhere(tmp_path):
    tutorial.execute(ROOT / "notebooks/configuration.ipynb", tmp_path / "runs/a job/notebooks", {})
    copy = Page(tmp_path / "runs/a job/notebooks/configuration.ipynb")
    assert any(address.endswith("figures/memory.svg") for address in copy.addresses("image"))
    assert len(copy.addresses("link")) > 10 and not copy.astray


def test_what_ended_before_a_stop_is_neither_run_nor_counted(notebooks, runs, monkeypatch, capsys):
    whole = said(monkeypatch, capsys)[1]
    asked = {"seed": 0, "engine": "auto", "notebooks": tutorial.NOTEBOOKS}
    ended = {name: 1.0 for name in list(tutorial.NOTEBOOKS)[:5]}
    (runs / "tutorial/summary.json").unlink()
    (runs / "tutorial/tutorial.json").write_text(json.dumps({"asked": asked, "seconds": ended}))
    notebooks.clear()
    lines = said(monkeypatch, capsys)
    assert notebooks == ["rl", "evaluation"] and sum(line.endswith("ended before") for line in lines) == 5
    assert lines[1] != whole
    assert said(monkeypatch, capsys, "--fresh")[1] == whole


def test_a_time_that_nobody_measured_is_not_made_up(runs, monkeypatch):
    monkeypatch.setattr(tutorial, "probe", lambda: tutorial.PACE)
    monkeypatch.setattr(checks, "query_gpus", lambda: "NVIDIA H200")
    assert tutorial.how_long("t", 0, "auto", ["sft"]) == (0.0, "How long it takes on GPUs was not measured.")
    assert tutorial.how_long("t", 0, "local", ["sft"])[0] == tutorial.SECONDS["sft"]
    assert tutorial.how_long("mine", 0, "local", ["sft"], own=True)[0] == 0
    (runs / "mine").mkdir()
    (runs / "mine/summary.json").write_text('{"seconds": {"setup": 5, "total": 65}}')
    assert tutorial.how_long("mine", 0, "local", ["sft"], own=True) == (60, "Its last run took 1 min 00 s.")
    (runs / "mine/summary.json").write_text('{"seconds": {')
    assert tutorial.how_long("mine", 0, "local", ["sft"], own=True)[0] == 0


def test_of_what_stands_only_the_rest_is_counted(runs, monkeypatch):
    monkeypatch.setattr(tutorial, "probe", lambda: tutorial.PACE)
    (runs / "t").mkdir()
    for code, seconds in [(code_hash(), tutorial.AGAIN), ("other", tutorial.SECONDS)]:
        (runs / "t/summary.json").write_text(json.dumps({"seed": 0, "code": code}))
        assert tutorial.how_long("t", 0, "local", ["sft"])[0] == seconds["sft"]
    assert tutorial.how_long("t", 1, "local", ["sft"])[0] == tutorial.SECONDS["sft"]


def test_a_notebook_that_fails_is_told_in_two_lines(runs, monkeypatch, capsys):
    def execute(source, out, wanted, line=None):
        raise RuntimeError("Kernel died\nand more")

    monkeypatch.setattr(tutorial, "execute", execute)
    monkeypatch.setattr("sys.argv", ["tutorial"])
    with pytest.raises(SystemExit) as left:
        tutorial.main()
    err = capsys.readouterr().err.splitlines()
    assert left.value.code == 1 and err[0] == "RuntimeError: Kernel died" and len(err) == 2 and tutorial.GO_ON in err[1]


def test_a_base_that_is_missing_is_said_before_the_first_notebook(notebooks, runs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tutorial, "JOBS", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/sft.toml").write_text('[policy]\nmodel_name_or_path = "nvidia/Cosmos-Reason2-8B"')
    for asked in (["--job", "mine"], ["--base", "nvidia/Cosmos-Reason2-8B"], ["--recipes", "--base", str(tmp_path)]):
        monkeypatch.setattr("sys.argv", ["tutorial", *asked])
        with pytest.raises(SystemExit, match="1"):
            tutorial.main()
        told, start = capsys.readouterr(), asked[-1].replace("mine", "nvidia/Cosmos-Reason2-8B")
        assert not told.out and told.err.startswith(f"{start}: no such folder") and "hf download" in told.err
    assert not notebooks
    assert "[3/3]" in "".join(said(monkeypatch, capsys, "--job", "mine", "--base", "models/tiny-base"))


# A stop, in a process of its own


def start(runs, *arguments):
    env = os.environ | {"COOKBOOK_RUNS": str(runs), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=env, cwd=ROOT, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def stopped(process, number) -> SimpleNamespace:
    """Send a signal as a terminal or a machine does; nothing may be left of it."""
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert gone(below)
    assert process.returncode == 128 + number
    return SimpleNamespace(out=out, err=err)


def wait_for(holds, process, seconds=120.0):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until and process.poll() is None, "it does not come"
        time.sleep(0.1)


LINE = f"stopped; {tutorial.GO_ON}\n"


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("modules", [2, 30, 150, 400, 900])
def test_a_stop_among_the_imports_is_one_line(runs, number, modules):
    """So many modules are imported when it comes; `signal` is the last before the command takes signals."""
    process = start(runs, "-X", "importtime", "-m", "cookbook.tutorial", "--engine", "local")
    seen = []
    for line in process.stderr:
        seen += [line] * (bool(seen) or line.rstrip().endswith("| signal"))
        if len(seen) >= modules:
            break
    ended = stopped(process, number)
    told = [line for line in ended.err.splitlines(keepends=True) if not line.startswith("import time:")]
    assert told == [LINE]


@pytest.mark.fault("local engine")
def test_a_stop_in_a_notebook_is_one_line_and_the_same_command_goes_on(runs):
    book = runs / "tutorial/notebooks/setup.ipynb"
    for seconds in (0.0, 1.0, 4.0):  # the kernel starts; it imports; it works
        process = start(runs, "-m", "cookbook.tutorial", "--engine", "local")
        wait_for(lambda: book.is_file() and psutil.Process(process.pid).children(), process)  # noqa: B023
        time.sleep(seconds)
        ended = stopped(process, signal.SIGINT)
        assert ended.err == LINE and ended.out.count("\n") <= 4
        book.unlink()


TRAINING = """\
import sys
from cookbook import tutorial
from cookbook.display.terminal import stop_in_one_line
stop_in_one_line(tutorial.GO_ON)
tutorial.run_notebooks("tutorial", 0, "local", {"sft": {"epochs": 1}})
"""


@pytest.mark.slow
@pytest.mark.fault("local engine")
def test_a_stop_in_a_training_keeps_every_step(runs):
    metrics = runs / "tutorial/sft/metrics.jsonl"
    process = start(runs, "-c", TRAINING)
    wait_for(lambda: metrics.is_file() and metrics.read_text().count("\n") >= 3, process, 300)
    assert stopped(process, signal.SIGINT).err == LINE
    steps = metrics.read_text().count("\n")
    assert json.loads((runs / "tutorial/sft/manifest.json").read_text())["outcome"] == "running"
    process = start(runs, "-c", TRAINING)
    assert process.communicate()[1] == "" and process.returncode == 0
    assert f"goes on after step {steps} of" in (runs / "tutorial/sft/log.txt").read_text()


@pytest.mark.fault("local engine")
def test_a_name_that_leads_out_of_runs_is_refused_and_a_damaged_place_is_no_stop(notebooks, runs, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tutorial", "--name", "../elsewhere"])
    with pytest.raises(SystemExit, match="2"):
        tutorial.main()
    assert "'../elsewhere' is no name for a job" in capsys.readouterr().err and not (runs.parent / "elsewhere").exists()
    for bad in ("{", "[]", '{"asked": 1}'):
        (runs / "tutorial").mkdir(exist_ok=True)
        (runs / "tutorial" / tutorial.PLACE).write_text(bad)
        said(monkeypatch, capsys)
    assert len(notebooks) == 3 * len(tutorial.NOTEBOOKS)
