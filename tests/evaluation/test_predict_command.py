"""`python -m cookbook.evaluation predict`: a dataset answered, continued, and by several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cookbook import jobs
from cookbook.evaluation.__main__ import main
from cookbook.evaluation.parallel import predict_parallel
from cookbook.runs import ROOT, read_jsonl
from data_tools import formats


@pytest.fixture
def asked(tmp_path, samples):
    """The command for a folder with six questions, one a line, that are no split of a dataset."""
    formats.write(samples[:6], tmp_path / "own", "samples_jsonl")
    common = ["--data", str(tmp_path / "own"), "--contract", jobs.CONTRACT, "--limit", "12"]
    return ["predict", "--model", jobs.BASE, *common, "--out", str(tmp_path / "base.jsonl")]


def test_all_questions_are_answered_once_and_a_file_is_continued(asked, tmp_path, samples, capsys):
    out = tmp_path / "base.jsonl"
    assert main([*asked, "--questions", "4"]) == 0
    first = read_jsonl(out)
    assert {row["id"] for row in first} < {s.id for s in samples[:6]} and len(first) == 4
    out.write_text(out.read_text().replace('"output": "', '"output": "kept '))
    assert main(asked) == 0
    rows = read_jsonl(out)
    assert {row["id"] for row in rows} == {s.id for s in samples[:6]}
    assert [row["output"].startswith("kept ") for row in rows] == [True] * 4 + [False] * 2
    assert "6 answers in" in capsys.readouterr().out


def test_two_processes_give_the_rows_of_one(asked, tmp_path):
    assert main(asked) == 0
    alone = read_jsonl(tmp_path / "base.jsonl")
    (tmp_path / "base.jsonl").unlink()
    assert main([*asked, "--gpus", "2"]) == 0
    assert read_jsonl(tmp_path / "base.jsonl") == alone
    assert not list(tmp_path.glob("base.jsonl.*"))
    kept = (tmp_path / "base.jsonl").read_text().replace('"output": "', '"output": "kept ')
    (tmp_path / "base.jsonl").write_text(kept)
    assert main([*asked, "--gpus", "2"]) == 0
    assert all(row["output"].startswith("kept ") for row in read_jsonl(tmp_path / "base.jsonl"))


PART = """#!{python}
import sys
from pathlib import Path
from cookbook.evaluation.parallel import end_with_stdin
part = sys.argv[-1].replace("/", "-of-")
with open(f"{out}.{{part}}", "a") as file:
    file.write('{{"id": "' + part[0] + '"}}\\n{{"id": "torn')
end_with_stdin()
"""
PARENT = """
import sys
from pathlib import Path
from cookbook.display.terminal import sigterm_exits
from cookbook.evaluation.parallel import predict_parallel
sys.executable = sys.argv[1]
with sigterm_exits():
    predict_parallel([], ["0", "1", "2", "3"], Path(sys.argv[2]), 2)
"""


SAYS_ITS_GPU = """#!{python}
import json, os, sys
from pathlib import Path
row = {{"id": sys.argv[-1][0], "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}}
Path(f"{out}." + sys.argv[-1].replace("/", "-of-")).write_text(json.dumps(row) + "\\n")
"""


@pytest.mark.parametrize(("visible", "taken"), [(None, ["0", "1"]), ("6,3", ["6", "3"]), ("GPU-ab", ["GPU-ab"] * 2)])
def test_each_process_gets_one_of_the_gpus_that_this_one_may_see(visible, taken, tmp_path, monkeypatch):
    program = tmp_path / "part.py"
    program.write_text(SAYS_ITS_GPU.format(python=sys.executable, out=(out := tmp_path / "base.jsonl")))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [row["gpu"] for row in predict_parallel([], ["0", "1"], out, 2)] == taken


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_several_processes_that_are_stopped_leave_their_answers_and_nothing_running(stop, tmp_path):
    """Each has written an answer and half of one; a parent that is killed can gather nothing."""
    out, program = tmp_path / "base.jsonl", tmp_path / "part.py"
    program.write_text(PART.format(python=sys.executable, out=out))
    program.chmod(0o755)
    how = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.DEVNULL, "start_new_session": True}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, program, out], **how)
    while len(list(tmp_path.glob("base.jsonl.*"))) < 2 and parent.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(parent.pid).children()
    os.killpg(parent.pid, stop)  # as a terminal does
    assert parent.wait(60) != 0 and len(children) == 2 and not psutil.wait_procs(children, timeout=60)[1]
    rows = [row for file in sorted(tmp_path.glob("base.jsonl*")) for row in read_jsonl(file, torn=True)]
    assert [row["id"] for row in rows] == ["0", "1"]
    assert stop == signal.SIGKILL or [file.name for file in tmp_path.glob("base.jsonl*")] == ["base.jsonl"]


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_a_stop_is_one_line_that_says_how_to_go_on(error, asked, monkeypatch, capsys):
    def stopped(_):
        raise error

    monkeypatch.setattr("cookbook.evaluation.__main__.predict_file", stopped)
    assert main(asked) == 130
    assert capsys.readouterr().err == "stopped; what was answered is kept: the same command goes on\n"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--contract": "", "--model": "models/tiny-base"}, "carries no contract.yaml; name one with --contract"),
        ({"--data": "nowhere"}, "no such file, folder or dataset"),
        ({"--split": "test"}, "has no split test; it has train"),
    ],
)
def test_what_cannot_be_used_is_one_line(asked, changed, said, capsys):
    assert main([*asked, *(word for pair in changed.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpus 0", "--gpus: 0: takes a finite number from 1 on"),
        ("--questions -1", "--questions: -1: takes a finite number from 1 on"),
        ("--limit 0", "--limit: 0: takes a finite number from 1 on"),
        ("--size 0", "--size: 0: takes a finite number from 1 on"),
        ("--size few", "--size: invalid number value: 'few'"),
        ("--temperature nan", "--temperature: nan: takes a finite number from 0.0 on"),
        ("--temperature -1", "--temperature: -1: takes a finite number from 0.0 on"),
        ("--temperature inf", "--temperature: inf: takes a finite number from 0.0 on"),
        ("--vllm --server http://localhost:1/v1", "--server: not allowed with argument --vllm"),
    ],
)
def test_a_number_or_pair_that_no_run_can_have_is_refused_by_its_name(asked, words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*asked, *words.split()])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_what_a_configuration_states_is_not_said_beside_it(tmp_path, capsys):
    config = ["--config", "configs/tiny_sft.toml", "--out", str(tmp_path / "base.jsonl")]
    assert main(["predict", "--model", jobs.BASE, *config, "--split", "train", "--contract", jobs.CONTRACT]) == 2
    assert "--contract, --split: does not go with --config" in capsys.readouterr().err


def test_files_named_as_steps_are_compared_in_their_order(tmp_path, capsys):
    for name, answers in {"rl": "AAA", "base": "BBB", "sft": "AAB"}.items():
        rows = [
            {"id": str(i), "group": str(i), "kind": "mcq", "reference": "A", "options": ["A", "B"], "weights": name,
             "output": f"<answer>{answer}</answer>"}
            for i, answer in enumerate(answers)
        ]  # fmt: skip
        (tmp_path / f"predictions_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", *map(str, sorted(tmp_path.glob("*.jsonl"))), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["paired"]) == ["sft_vs_base", "rl_vs_sft"]


ROW = {"id": "0", "group": "0", "kind": "binary", "reference": "A", "options": ["A", "B"],
       "output": "<answer>A</answer>"}  # fmt: skip


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": None}, "row 1 cannot be scored, its reference None is no text"),
        ({"reference": 3}, "row 1 cannot be scored, its reference 3 is no text"),
        ({"kind": None}, "row 1 cannot be scored, its kind None is no text"),
        ({"kind": 3}, "row 1 cannot be scored, its kind 3 is no text"),
        ({"options": [None]}, "row 1 cannot be scored, its option None is no text"),
        ({"options": [["A"]]}, "row 1 cannot be scored, its option ['A'] is no text"),
        ({"group": ["x"]}, "row 1 cannot be scored, its group is no text"),
        ({"kind": "ordinal"}, "could not convert string to float: 'A'"),
        ({"kind": "nope"}, "no metric for the kind 'nope'"),
    ],
)
def test_a_row_that_cannot_be_scored_is_named_with_its_file(change, said, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(json.dumps(ROW | change) + "\n")
    assert main(["score", str(tmp_path / "p.jsonl")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/p.jsonl: {said}" in told and told.count("\n") == 1
