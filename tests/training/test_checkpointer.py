"""A run that is stopped anywhere ends with the bytes of one that was not; what is not at its end passes for nothing."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from cookbook import checkpoint, jobs, pipeline
from cookbook.runs import ROOT, Run, RunError
from cookbook.training import checkpointer
from cookbook.training.checkpointer import Interrupted
from data_tools import road_vqa

pytestmark = pytest.mark.fault("local engine")

SFT = {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "train.max_num_steps": 5,
       "train.ckpt.save_freq": 2, "validation.freq": 2}  # fmt: skip
RL = SFT | {"train.train_batch_per_replica": 16, "train.train_policy.mini_batch": 16, "rollout.n_generation": 4,
            "rollout.batch_size": 4, "rollout.max_response_length": 8, "train.max_num_steps": 4}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The clips and the SFT of a job, once."""
    folder = tmp_path_factory.mktemp("runs")
    os.environ["COOKBOOK_RUNS"] = str(folder)
    try:
        road_vqa.world(folder / "job" / "data", 0, {"train": 16, "validation": 2, "test": 1})
        pipeline.train(jobs.job("job", changes=SFT | {"train.max_num_steps": 1}))
    finally:
        del os.environ["COOKBOOK_RUNS"]
    return folder


@pytest.fixture
def runs(clips, tmp_path, monkeypatch):
    """Its copy, with a state after every step."""
    import shutil

    shutil.copytree(clips, tmp_path / "runs")
    monkeypatch.setenv("COOKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(checkpointer, "SECONDS", -1.0)
    monkeypatch.setattr(checkpointer, "SHARE", 0)
    return tmp_path / "runs"


def made(step: str):
    return jobs.job("job", step, changes=SFT if step == "sft" else RL)


def traces(folder) -> dict[str, str]:
    """What must be the same, by file: metrics, generations, best step, exports and their weights."""
    files = [*folder.glob("*.jsonl"), *folder.glob("best.json"), *folder.glob("safetensors/*/*.safetensors")]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


class Killed(BaseException):
    """What no code of ours expects: it leaves the files as a kill would. Real kills are in tests/test_kills.py."""


def killed(job, at: int, where: str, fresh: bool = False) -> None:
    """Train until step `at`, before or after its metrics are written, and no further."""
    log = Run.log_metrics

    def kill(run, step, **values):
        if where == "after":
            log(run, step, **values)
        if step == at:
            raise Killed
        if where == "before":
            log(run, step, **values)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "log_metrics", kill)
        pipeline.train(job, fresh=fresh)


@pytest.mark.fault("repeatability")
@pytest.mark.parametrize("step", ["sft", "rl"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(runs, step):
    pipeline.train(made(step))
    whole = traces(runs / "job" / step)
    pipeline.train(made(step), fresh=True)
    assert traces(runs / "job" / step) == whole and len(whole) > 3
    killed(made(step), 2, "before", fresh=True)
    killed(made(step), 4, "after")
    pipeline.train(made(step))
    assert traces(runs / "job" / step) == whole
    facts = json.loads((runs / "job" / step / "manifest.json").read_text())
    assert facts["outcome"] == "finished" and not (runs / "job" / step / "state.pt").exists()
    assert (
        len([line for line in (runs / "job" / step / "log.txt").read_text().splitlines() if "goes on after" in line])
        == 2
    )


def test_a_signal_waits_for_the_step_and_says_how_to_go_on(runs, monkeypatch, capsys):
    pipeline.train(made("sft"))
    whole, log = traces(runs / "job/sft"), Run.log_metrics

    def stop(run, step, **values):
        log(run, step, **values)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "log_metrics", stop)
    with pytest.raises(
        Interrupted, match=r"stopped after step 3 of 5 of .*job/sft; the same again goes on from there"
    ) as e:
        pipeline.train(made("sft"), fresh=True)
    assert e.value._render_traceback_() == [str(e.value)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(Run, "log_metrics", log)
    pipeline.train(made("sft"))
    assert traces(runs / "job/sft") == whole
    assert "goes on after step 3 of 5" in capsys.readouterr().out


def test_a_stopped_run_is_refused_with_other_settings_and_starts_over_where_asked(runs):
    killed(made("sft"), 3, "after")
    other = jobs.job("job", changes=SFT | {"train.optm_lr": 0.5})
    with pytest.raises(
        RunError, match=r"other settings \(train.optm_lr: 0.0\d+ there, 0.5 here\); go on with its settings"
    ):
        pipeline.train(other)
    pipeline.train(jobs.job("job", changes=SFT | {"train.optm_lr": 1e-4}), fresh=True)
    assert [row["step"] for row in Run("job/sft", seed=0, go_on=True).metrics()] == [1, 2, 3, 4, 5]


def test_a_half_run_passes_for_no_finished_one_unless_its_export_is_named(runs):
    killed(made("sft"), 3, "after")
    for use in (lambda: made("rl"), lambda: pipeline.models(made("sft")), lambda: checkpoint.load(runs / "job/sft")):
        with pytest.raises(checkpoint.CheckpointError, match=r"did not come to its end \(running\); run it again"):
            use()
    checkpoint.load(runs / "job/sft/safetensors/step_2")


def test_an_earlier_export_stays_until_a_new_one_stands(runs, capsys):
    before = checkpoint.find(runs / "job/sft")
    assert before.name == "step_1"
    killed(made("sft"), 1, "after")
    assert before.is_dir()
    pipeline.train(made("sft"), fresh=True)
    assert "this replaces the run of " in capsys.readouterr().out
    assert sorted(f.name for f in (runs / "job/sft/safetensors").iterdir()) == ["step_4", "step_5"]


@pytest.mark.fault("repeatability")
def test_what_stands_of_the_same_settings_and_code_is_taken_and_else_trained_again(runs, monkeypatch, capsys):
    export, trained = pipeline.train(made("sft")), []
    log = Run.log_metrics
    monkeypatch.setattr(
        Run, "log_metrics", lambda run, step, **values: trained.append(step) or log(run, step, **values)
    )
    assert pipeline.train(made("sft")) == export and not trained
    assert "job/sft: stands, of these settings and this code; fresh trains again" in capsys.readouterr().out
    monkeypatch.setattr("cookbook.runs.code_hash", lambda: "other")
    pipeline.train(made("sft"))
    assert trained == [1, 2, 3, 4, 5]


def test_one_process_at_a_time_trains_into_a_folder_and_a_dead_one_holds_nothing(runs):
    code = """if True:
        import sys, time
        from pathlib import Path
        from cookbook.runs import locked
        with locked(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(300)
    """
    words = [sys.executable, "-c", code, str(runs / "job/sft")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        told = rf"job/sft: is being written by process {other.pid}, since \d\d:\d\d:\d\d; wait for it"
        with pytest.raises(RunError, match=told):
            pipeline.train(made("sft"))
        other.kill()
    pipeline.train(made("sft"))


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../b", "", "a\nb", "a\x00b"])
def test_a_job_stays_inside_runs(runs, name):
    with pytest.raises(RunError, match="is no name for a job"):
        jobs.job(name)


def test_a_run_that_an_alarm_ended_is_not_trained_over_behind_ones_back(runs, monkeypatch):
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: pytest.fail("trained"))
    place = runs / "job/sft"
    Run("job/sft", seed=0, go_on=True).write_manifest(outcome="stopped")
    assert jobs.trained("job") == str(place)
    with pytest.raises(checkpoint.CheckpointError, match=r"did not come to its end \(stopped\)"):
        pipeline.models(made("sft"))


def test_a_state_that_is_damaged_is_named_and_what_else_the_run_has_left_stays(runs):
    killed(made("sft"), 3, "after")
    place, export = runs / "job/sft", traces(runs / "job/sft/safetensors/step_2")
    state, metrics = (place / "state.pt").read_bytes(), (place / "metrics.jsonl").read_bytes()
    for name, content in {"state.pt": state[:9000], "metrics.jsonl": metrics[:9]}.items():
        (place / name).write_bytes(content)
        with pytest.raises(
            RunError, match=r"sft/state\.pt: a stopped run cannot go on from it .*start over \(-p fresh"
        ):
            pipeline.train(made("sft"))
        assert (place / name).read_bytes() == content and traces(place / "safetensors/step_2") == export
        (place / "state.pt").write_bytes(state)
    (place / "metrics.jsonl").write_bytes(metrics)
    assert pipeline.train(made("sft")).name == "step_5"


def test_a_run_that_left_no_export_is_named_where_models_are_compared(runs, caplog):
    Run("job/rl", seed=0).write_manifest(outcome="running")
    assert set(pipeline.models(made("sft"))) == {"base", "sft"}
    assert "job/rl: left out, its training did not come to an export (running)" in caplog.text
