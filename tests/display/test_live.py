"""Curves of a training under way: drawn in place where somebody watches, seldom enough to cost nothing, else not."""

from itertools import pairwise

import pytest

from cookbook.display import live
from cookbook.display.live import EVERY, PANELS, SHARE, Curves, live_curves
from cookbook.runs import Run


class Handle:
    """The place in the output: what was put there, newest last."""

    def __init__(self):
        self.shown = []
        Handle.last = self

    def display(self, data, raw):
        self.shown.append(data)

    update = display


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def handle(monkeypatch):
    Handle.last = None
    monkeypatch.setattr(live, "DisplayHandle", Handle)


def as_in(monkeypatch, mode: str) -> None:
    monkeypatch.setattr(live, "choose_mode", lambda: mode)


@pytest.mark.parametrize("mode", ["lines", "quiet", "terminal"])
def test_where_nobody_watches_nothing_is_drawn(tmp_path, monkeypatch, capsys, mode):
    as_in(monkeypatch, mode)
    monkeypatch.setattr(live, "figure", lambda *_: pytest.fail("drawn"))
    run = Run(tmp_path, seed=0)
    with live_curves(run, "sft"):
        run.log_metrics(1, **{"train/loss_avg": 2.0})
    assert Handle.last is None and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", PANELS)
def test_one_place_is_taken_and_ends_with_all_steps(tmp_path, monkeypatch, kind):
    as_in(monkeypatch, "live")
    run, keys = Run(tmp_path, seed=0), [key for curves in PANELS[kind].values() for key in curves]
    with live_curves(run, kind):
        assert "image/png" not in Handle.last.shown[-1]  # the place, above the bar
        for step in (1, 2, 3):
            run.log_metrics(step, **dict.fromkeys(keys, 1.0 / step))
    assert Handle.last.shown[-1]["text/plain"].endswith("to step 3")
    assert Handle.last.shown[-1]["image/png"].startswith("iVBOR")  # PNG in base64


def test_a_run_that_an_alarm_ends_is_drawn_to_its_end(tmp_path, monkeypatch):
    as_in(monkeypatch, "live")
    run = Run(tmp_path, seed=0)
    with pytest.raises(RuntimeError, match="alarm"), live_curves(run, "sft"):
        run.log_metrics(7, **{"train/loss_avg": float("nan")})
        raise RuntimeError("alarm")
    assert Handle.last.shown[-1]["text/plain"].endswith("to step 7")


@pytest.mark.parametrize("cost", [0.01, 0.1, 5.0])
def test_drawing_takes_its_share_of_the_time_at_most(tmp_path, monkeypatch, cost):
    clock, run = Clock(), Run(tmp_path, seed=0)
    run.log_metrics(1, **{"train/loss_avg": 2.0})
    curves, drawn = Curves(run, PANELS["sft"], clock), []

    def draw():
        clock.now += cost
        drawn.append(clock.now)

    monkeypatch.setattr(curves, "draw", draw)
    for _ in range(20_000):
        clock.now += 0.1
        curves.update()
    assert 1 <= len(drawn) <= clock.now / max(EVERY, SHARE * cost) + 1
    assert all(later - sooner >= EVERY for sooner, later in pairwise(drawn))


def test_a_picture_that_cannot_be_drawn_ends_no_training(tmp_path, monkeypatch):
    def fails(*_):
        raise OverflowError("too many points")

    as_in(monkeypatch, "live")
    monkeypatch.setattr(live, "figure", fails)
    run = Run(tmp_path, seed=0)
    with live_curves(run, "sft"):
        run.log_metrics(1, **{"train/loss_avg": 2.0})
    assert len(Handle.last.shown) == 1  # the place alone


def test_the_panels_show_what_was_logged():
    rows = [{"step": s, "train/reward_mean": 0.1 * s, "train/kl_loss_avg": 0.01 * s} for s in (1, 2, 3)]
    rows[1]["val/accuracy"] = 0.5
    reward, kl = live.figure(rows, PANELS["rl"]).axes
    assert [line.get_xdata().tolist() for line in reward.lines] == [[1, 2, 3], [2]]
    assert kl.lines[0].get_ydata().tolist() == [0.01, 0.02, 0.03]
    (loss,) = live.figure([], PANELS["sft"]).axes
    assert not loss.lines
