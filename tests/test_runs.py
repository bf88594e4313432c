"""The run folder: what is written comes back unchanged, runs never mix, and nothing else is touched."""

import json
import logging
import re
import subprocess
from pathlib import Path

import pytest
import torch

from cookbook import runs, watch
from cookbook.runs import GENERATIONS, LOG, MANIFEST, METRICS, Run, read_jsonl, read_metrics
from cookbook.training.validation import best_step, generations_over_time


def manifest(run: Run) -> dict:
    return json.loads((run.path / MANIFEST).read_text())


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, 2 / 3, -0.0, 10**20, 7])
def test_a_metric_comes_back_to_the_last_bit(tmp_path, value):
    run = Run(tmp_path, seed=0)
    run.log_metrics(1, loss=value)
    (row,) = run.metrics()
    assert row == {"step": 1, "loss": value} and type(row["loss"]) is type(value)


def test_metrics_keep_the_order_of_their_names(tmp_path):
    run = Run(tmp_path, seed=0)
    run.log_metrics(3, **{"train/loss": 0.5, "a": 1})
    assert (tmp_path / METRICS).read_text() == '{"step": 3, "train/loss": 0.5, "a": 1}\n'


def test_a_tensor_is_logged_as_its_number(tmp_path):
    run = Run(tmp_path, seed=0)
    run.log_metrics(1, loss=torch.tensor(0.1, requires_grad=True))
    assert run.metrics() == [{"step": 1, "loss": torch.tensor(0.1).item()}]


@pytest.mark.fault("repeatability")
def test_two_runs_with_one_seed_leave_the_same_metrics_and_generations(tmp_path, monkeypatch):
    for number in (1, 2):
        monkeypatch.setattr(runs.time, "strftime", lambda form, number=number: f"day {number}")
        monkeypatch.chdir(tmp_path)
        run = Run(tmp_path / str(number), seed=5)
        torch.manual_seed(run.seed)
        for step in range(3):
            run.log_metrics(step, loss=torch.rand(()))
            run.log(f"step {step}")
        run.keep_generations([{"id": 1, "text": "<answer>A</answer>"}])
    for name in (METRICS, GENERATIONS):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() != b""
    assert (tmp_path / "1" / LOG).read_text() != (tmp_path / "2" / LOG).read_text()


def test_a_second_run_in_a_folder_replaces_the_first_and_nothing_else(tmp_path):
    first = Run(tmp_path, seed=1)
    first.write_manifest(config="old")
    first.log_metrics(1, loss=9.0)
    first.log("old")
    first.keep_generations([{"text": "old"}])
    (tmp_path / "safetensors").mkdir()
    kept = [tmp_path / "safetensors/weights", tmp_path / "config.toml", tmp_path / "predictions.jsonl"]
    for path in kept:
        path.write_text("old")

    second = Run(tmp_path, seed=2)
    assert second.metrics() == []
    second.log_metrics(1, loss=3.0)
    assert second.metrics() == [{"step": 1, "loss": 3.0}]
    assert (tmp_path / LOG).read_text() == (tmp_path / GENERATIONS).read_text() == ""
    assert manifest(second)["seed"] == 2 and "config" not in manifest(second)
    assert [path.read_text() for path in kept] == ["old"] * 3


def test_the_manifest_says_what_made_the_run_and_merges_facts(tmp_path):
    run = Run(tmp_path, seed=7)
    run.write_manifest(clips=3, contract="abc")
    run.write_manifest(clips=4, data=Path("videos"))
    facts = manifest(run)
    assert {"seed": 7, "clips": 4, "contract": "abc", "data": "videos"}.items() <= facts.items()
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "transformers", "cookbook"} <= set(facts["versions"])
    assert facts["platform"] and facts["command"] and "commit" in facts


def test_the_commit_is_this_checkouts_or_none(tmp_path, monkeypatch):
    commit = runs._commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(runs, "ROOT", tmp_path / "unpacked")
    for command in ("init", "-c user.name=N -c user.email=e commit --allow-empty -m other"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    assert runs._commit() is None  # the repository around it is another one
    (tmp_path / "unpacked/.git").write_text("broken")
    assert runs._commit() is None


def test_a_notebook_that_was_run_makes_the_checkout_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    files = [tmp_path / name for name in ("notebooks/sft.ipynb", "notebooks/recipes/mine.ipynb", "cookbook/sft.py")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("old")
    for command in ("init", "add .", "-c user.name=N -c user.email=e commit -m first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    commit = runs._commit()
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    for file in files[:2]:
        file.write_text("with new outputs")
    assert runs._commit() == commit
    files[2].write_text("other code")
    assert runs._commit() == f"{commit}-dirty"


def test_a_relative_path_counts_from_runs_wherever_the_process_stands(tmp_path, monkeypatch):
    monkeypatch.setenv(runs.FOLDER, str(tmp_path / "runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = Run("tutorial/sft", seed=0)
    run.log_metrics(1, loss=1.0)
    assert run.path == tmp_path / "runs/tutorial/sft"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert read_metrics("tutorial/sft") == read_metrics(run.path / METRICS) == run.metrics()


def test_reading_a_run_does_not_start_it_again(tmp_path):
    Run(tmp_path, seed=0).log_metrics(1, loss=1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    read_metrics(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_and_broken_metrics_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl: no metrics"):
        read_metrics(tmp_path / "nothing")
    run = Run(tmp_path, seed=0)
    run.log_metrics(1, loss=1.0)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 2, "lo')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not a line of JSON"):
        run.metrics()


def test_log_lines_have_the_time_and_reach_programs_that_show_logging(tmp_path, caplog):
    run = Run(tmp_path / "sft", seed=0)
    with caplog.at_level(logging.INFO, logger="cookbook"):
        run.log("saved é")
    (line,) = (run.path / LOG).read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  saved é", line)
    assert caplog.messages == ["sft: saved é"]


def test_generations_are_kept_as_they_were_written(tmp_path):
    run = Run(tmp_path, seed=0)
    rows = [{"id": "A", "text": "<think>\u2028 é\n</think>"}, {"id": "B", "reward": 0.5}]
    run.keep_generations(rows[:1])
    run.keep_generations(rows[1:])
    assert read_jsonl(tmp_path / GENERATIONS) == rows
    assert "é" in (tmp_path / GENERATIONS).read_text(encoding="utf-8")  # people read this file too
    (tmp_path / GENERATIONS).write_bytes('{"a": 1}\n\n{"text": "é"}'.encode()[:-3])
    assert read_jsonl(tmp_path / GENERATIONS, torn=True) == [{"a": 1}]
    with pytest.raises(ValueError, match=r"decode"):
        read_jsonl(tmp_path / GENERATIONS)


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("bad", [b'{"st', b"[1]", b"null", b"", b"\xff\xfe{", b"[" * 100_000, b'{"a": 1}', b"{}{}"])
def test_a_damaged_small_file_is_one_line_with_its_place_and_what_helps(tmp_path, bad):
    (tmp_path / "best.json").write_bytes(bad)
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"step": 1}\n' + (bad or b"0") + b"\n")
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": "one"}\n')
    for read, place in (
        (lambda: runs.read_json(tmp_path / "best.json", ("step",)), "best.json: "),
        (lambda: runs.read_jsonl(tmp_path / "rows.jsonl", needs=("step",)), "rows.jsonl:2: "),
        (lambda: runs.read_metrics(tmp_path), "metrics.jsonl: row 1: "),
    ):
        with pytest.raises(ValueError) as caught:
            read()
        said = str(caught.value)
        assert place in said and "run" in said.split(place)[1] and "\n" not in said


@pytest.mark.fault("inputs")
def test_the_readers_of_a_run_name_a_damaged_file(tmp_path, capsys):
    (tmp_path / "best.json").write_text('{"st')
    (tmp_path / "generations.jsonl").write_text('{"kind": "probe", "id": "a"}\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"best\.json: not JSON; was it cut off"):
        best_step(tmp_path)
    with pytest.raises(ValueError, match=r"generations\.jsonl: row 1 has no question"):
        generations_over_time(tmp_path)
    assert watch.main([str(tmp_path)]) == 2
    assert "metrics.jsonl:2: not a line of JSON" in capsys.readouterr().err


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    "row", ['{"step": true}', '{"step": [1]}', '{"step": 1, "train/loss_avg": 1' + "0" * 400 + "}"]
)
def test_watching_nonsense_is_one_line(tmp_path, capsys, row):
    (tmp_path / "metrics.jsonl").write_text(f"{row}\n" * 60)
    assert watch.main([str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert not shown.out and shown.err.count("\n") == 1 and str(tmp_path) in shown.err and "cut" in shown.err


@pytest.mark.fault("local engine")
def test_a_folder_that_no_run_can_have_is_named_with_what_helps(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "lock" / runs.LOCK).mkdir(parents=True)
    for name in ("file", "link", "lock"):
        with pytest.raises(runs.RunError, match=f"{name}: no run can be written there .*; move away what is there"):  # noqa: SIM117
            with runs.locked(tmp_path / name):
                pass


@pytest.mark.fault("local engine")
def test_a_full_disk_is_named_and_gets_back_what_the_new_file_took(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"old")

    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    def as_torch_says_it(file):
        try:
            full(file)
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    for content in (full, as_torch_says_it):
        with pytest.raises(runs.RunError, match=r"state\.pt: cannot be written .*No space left on device.*make room"):
            runs.write_whole(tmp_path / "state.pt", content)
        assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("state.pt", b"old")]
