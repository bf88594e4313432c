"""The supervisor: what is judged a run that cannot go on, and how the engine is asked to save and end."""

from dataclasses import replace

import pytest
from fake_engine import FAKE, HASTE, NAN, STEP

from cookbook.checkpoint.verify import what_is_missing
from cookbook.engine.log_lines import READY, RunLog
from cookbook.engine.supervisor import Patience, State, Supervisor, reason_to_end
from cookbook.runs import Run
from cookbook.training.alarms import Alarm


@pytest.fixture
def diverging(scene, monkeypatch):
    """A log of 16 of 30 steps, whose loss is a hundred times higher from step 12 on; metrics are read at once."""
    monkeypatch.setattr("cookbook.engine.supervisor.METRICS_EVERY", 0.0)
    head = (FAKE / "sft_ok.log").read_text().partition("[rank0]:[cosmos]")[0]
    lines = [NAN.format(n).replace("/12", "/30").replace("nan", "0.5" if n < 12 else "50.0") for n in range(1, 17)]
    log = scene.run.path / "diverging.log"
    log.write_text(head + "\n".join(lines) + "\n")
    return {"log": str(log), "until": "Step: 16/30"}


def test_a_severe_alarm_lets_the_engine_save_and_end(scene, diverging):
    error = scene.fails("alarm", "loss-spike (severe, step 14)", "ended by itself; last export: step_99", **diverging,
                        stops="accepted")  # fmt: skip
    assert "at step 16 of 30" in str(error)
    assert what_is_missing(scene.run.path / "safetensors" / "step_99") == ""


@pytest.mark.parametrize("answer", ["accepted, and hangs", "409", None])
def test_an_engine_that_does_not_end_by_itself_is_ended(scene, diverging, answer):
    patience = replace(HASTE, leave=1.0, stall=20)
    error = scene.fails("alarm", "loss-spike (severe, step 14)", **diverging, stops=answer, patience=patience)
    assert "ended by itself" not in str(error)
    assert ("asked to save" in (scene.run.path / "log.txt").read_text()) == (answer == "accepted, and hangs")


def test_weights_that_are_no_numbers_are_not_saved(scene, monkeypatch):
    monkeypatch.setattr("cookbook.engine.supervisor.request_stop", lambda *_: pytest.fail("asked to save"))
    scene.fails("nan", until=STEP, say="\n".join(NAN.format(n) for n in (4, 5)))


def test_a_controller_that_never_comes_up(scene):
    scene.fails("controller", "no line, no metric and no file", until="Waiting for controller", say="")


def told(*lines: str, seconds: float = 60.0) -> RunLog:
    """What these lines say, one every so many seconds."""
    log = RunLog()
    for number, line in enumerate(lines, start=1):
        log.take(line, number * seconds)
    return log


def steps(count: int, loss: float = 1.5) -> list[str]:
    return [f"- Step: {n}/9, Loss: {loss}, Iteration time: 60.0s" for n in range(1, count + 1)]


ALARM = Alarm("kl-runaway", None, "the rate is too high", "train.optm_lr", "rl", True, 7, "the KL is 2")


@pytest.mark.parametrize("log, wait, kind", [
    (told(), 600, "controller"),  # patience.start before the first step
    (told(*steps(5)), 600, "controller"),  # ten usual steps after it
    (told(READY, *steps(5)), 600, "stall"),
    (told(READY, *steps(5), seconds=1.0), 300, "stall"),  # and never less than this
    (told(READY, *steps(5), "Process 7 failed with return code 1"), 15, "worker"),
    (told("Process 7 failed with return code 1"), 15, "controller"),
    (told(*steps(1), "OSError: No space left on device", seconds=1.0), 45, "disk"),
    (told(*steps(5), "torch.OutOfMemoryError: CUDA out of memory"), 180, "memory"),  # three usual steps
], ids=str)  # fmt: skip
def test_how_long_each_bad_sign_is_borne(log, wait, kind):
    state, last = State(log, Patience()), log.moved
    assert reason_to_end(state, last + wait) is None
    assert reason_to_end(state, last + wait + 1).kind == kind


def test_what_a_step_follows_was_no_bad_sign():
    state = State(told(*steps(3), "OSError: No space left on device", "- Step: 4/9, Loss: 1.5"), Patience())
    assert reason_to_end(state, state.log.moved + 200) is None
    for loss, kind in (("nan", None), ("nan", "nan")):  # one may be a batch without a token to learn from
        state.log.take(f"- Step: 5/9, Loss: {loss}", 310)
        reason = reason_to_end(state, 311)
        assert (reason and reason.kind) == kind


def test_a_severe_alarm_ends_the_run_at_once_or_when_the_controller_took_too_long():
    log = told(*steps(3))
    assert reason_to_end(State(log, Patience(), ALARM), 181).kind == "alarm"
    agreed = State(log, Patience(), ALARM, leave_by=400.0)
    assert reason_to_end(agreed, 399) is None and reason_to_end(agreed, 401).kind == "alarm"
    assert reason_to_end(State(log, Patience(), replace(ALARM, name="nan")), 181).kind == "nan"


def test_files_that_are_written_count_as_life(tmp_path):
    now = [0.0]
    supervisor = Supervisor(Run(tmp_path, seed=0), "SFT", Patience(), 8000, clock=lambda: now[0])
    for line in steps(5):
        now[0] += 60
        supervisor.take(line)
    now[0] += 601
    assert supervisor.check().kind == "controller"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model_rank_0.pth").write_text("")  # a checkpoint takes its time
    assert supervisor.check() is None
