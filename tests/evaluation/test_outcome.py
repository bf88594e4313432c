"""What a training came to: by one rule, which agrees with the alarms and claims nothing of a few steps."""

import pytest

from cookbook.evaluation.outcome import doubts, outcome, training_verdicts
from cookbook.runs import ROOT, read_metrics
from cookbook.training.alarms import replay
from cookbook.watch import main


def rewarded(first: float, last: float, steps: int = 12, right: float = 0.5) -> list[dict]:
    """Rows of RL whose reward goes straight from one value to the other, up and down beside it."""
    rewards = [first + (last - first) * i / max(1, steps - 1) + 0.03 * (-1) ** i for i in range(steps)]
    return [{"step": i, "train/reward_mean": r, "train/reward_single_choice": right} for i, r in enumerate(rewards, 1)]


def trained(first: float, last: float, steps: int = 40, **validation: float) -> list[dict]:
    """Rows of SFT whose loss goes straight from one value to the other; validation: by step, as s20=0.5."""
    rows = [{"step": i, "train/loss_avg": first + (last - first) * (i - 1) / (steps - 1)} for i in range(1, steps + 1)]
    for step, loss in validation.items():
        rows[int(step[1:]) - 1]["val/avg_loss"] = loss
    return rows


@pytest.mark.parametrize(
    ("rows", "holds", "words"),
    [
        (rewarded(0.6, 0.9), True, "the reward rose: 0.6"),
        (rewarded(0.6, 0.6), False, "the reward rose: 0.6"),
        (rewarded(0.6, 0.64), None, "the reward rose: 0.6"),  # hardly more than its steps scatter
        (rewarded(0.9, 0.6), False, "the reward rose: 0.8"),
        (rewarded(0.95, 0.95, right=0.9), None, "the reward rose: 0.9"),  # right from the start
        (rewarded(0.6, 0.9, right=0.9), True, "the reward rose"),
        (rewarded(0.6, 0.9, steps=5), None, "cannot be told of 5 steps"),
        (trained(5.0, 0.1), True, "the training loss fell"),
        (trained(5.0, 5.0), False, "the training loss fell"),
        (trained(5.0, 0.1, s20=0.3, s40=0.4), False, "the validation loss fell: 0.30 at first, 0.40 at last"),
        (trained(5.0, 5.0, s20=0.5, s40=0.4), True, "the validation loss fell"),
        (trained(5.0, 0.1)[:1], None, "cannot be told of 1 steps"),
        ([], None, "cannot be told of 0 steps"),
    ],
)  # fmt: skip
def test_a_run_is_judged_by_what_it_is_for(rows, holds, words):
    found = outcome(rows)
    assert found.holds == holds and words in found.words
    assert found.holds or found.do


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_good_run_is_not_called_a_bad_one(seed):
    found = training_verdicts(read_metrics(ROOT / f"tests/assets/rl_good_seed{seed}.jsonl"))
    assert len(found) == 2 and found[0].holds is not False and found[1].holds


def test_where_an_alarm_goes_off_for_want_of_progress_the_outcome_agrees():
    constant = [row | {"train/reward_mean": 0.5} for row in rewarded(0.6, 0.6, steps=60)]
    flat = (rewarded(0.6, 0.6, steps=60), "reward-flat"), (constant, "reward-flat"), (trained(2.0, 2.0), "loss-flat")
    for rows, alarm in flat:
        progress, *alarms = training_verdicts(rows)
        assert not progress.holds and any(alarm in found.words for found in alarms)
        assert all(not found.holds and found.why and found.do for found in alarms)


def test_what_limits_an_answer_is_said_of_each_run():
    wild = [row | {"train/kl_loss_avg": 5.0} for row in rewarded(0.6, 0.6)]
    trainings = {"sft": trained(5.0, 0.1), "rl": wild, "other": []}
    alarms = {run: replay(rows) for run, rows in trainings.items()}
    ended, alarm, progress = doubts(trainings, {"sft": "finished", "rl": "stopped", "other": ""}, alarms)
    assert ended == "RL is not at its end (stopped)."
    assert alarm == "RL set off an alarm: kl (from step 5 on) and kl-runaway (severe, from step 5 on)."
    assert progress == f"It does not hold of RL that {outcome(wild).words}."


def test_the_command_says_it_too(tmp_path, capsys):
    rows = rewarded(0.6, 0.6)
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    assert main([str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("no alarm\nNOT held the reward rose") and str(outcome(rows)) in said
