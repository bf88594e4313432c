"""Alarms: each one goes off on rows that fail its way, and none on three good runs.

The good runs are `python -m cookbook.tutorial --seed 0`, 1 and 2 of LOG.md (2026-11-23, a new base), made again at
commit 239788e: largest KL of a step 0.096, 0.050, 0.070.
"""

import json
import math
import random

import pytest

from cookbook.config import schema
from cookbook.engine.records import read_engine_metrics
from cookbook.runs import ROOT, Run, read_metrics
from cookbook.training import alarms
from cookbook.training.alarms import Alarm, TrainingStopped, Watcher, replay, stalled, standing
from cookbook.watch import main, watch

ASSETS = ROOT / "tests/assets"
GOOD = [ASSETS / f"rl_good_seed{seed}.jsonl" for seed in (0, 1, 2)]


def rl(steps=60, seed=0, **changes):
    """Returns rows like those of a good run; `changes` are metric names and functions of the step."""
    rng = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        row = {
            "train/reward_mean": 0.6 + 0.4 * step / steps + rng.gauss(0, 0.05),
            "train/reward_single_choice": min(1, 0.5 + 0.4 * step / steps),
            "train/reward_format": 0.97 + rng.uniform(-0.03, 0.03),
            "train/zero_variance_share": rng.uniform(0.2, 0.6),
            "train/kl_loss_avg": rng.uniform(0, 0.06),
            "train/entropy": 0.3 - 0.15 * step / steps,
            "train/loss_avg": rng.gauss(0, 0.05),
            "rollout/completion_length_mean": 18 + rng.gauss(0, 2),
            "rollout/cut_share": rng.uniform(0, 0.02),
            "optimizer/grad_norm": rng.uniform(0.1, 0.6),
            "optimizer/lr": 1e-4,
        }
        rows.append({"step": step, **row, **{k: v(step) for k, v in changes.items()}})
    return rows


def sft(steps=60, **changes):
    """Returns rows like those of a good SFT run, validated every tenth step."""
    rng = random.Random(0)
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "train/loss_avg": 2 * math.exp(-step / 15) + rng.uniform(0.1, 0.15),
               "optimizer/grad_norm": rng.uniform(0.5, 1.5), "optimizer/lr": 1e-4}  # fmt: skip
        row |= {"val/avg_loss": 2 * math.exp(-step / 15) + 0.2} if step % 10 == 0 else {}
        rows.append(row | {k: v(step) for k, v in changes.items() if k in row})
    return rows


FALLING = {"val/accuracy": lambda step: 0.9 - 0.005 * step}
WRONG = {
    "nan": rl(**{"train/loss_avg": lambda step: math.nan if step > 7 else 0.1}),
    "kl": rl(**{"train/kl_loss_avg": lambda step: 0.004 * step}),
    "kl-runaway": rl(**{"train/kl_loss_avg": lambda step: 0.05 * step}),
    "equal-groups": rl(**{"train/zero_variance_share": lambda step: min(1.0, 0.02 * step)}),
    "never-earned": rl(**{"train/reward_single_choice": lambda step: 0.0}),
    "reward-flat": rl(**{"train/reward_mean": lambda step: 0.6 + 0.1 * (-1) ** step,
                         "train/reward_single_choice": lambda step: 0.5}),
    "reward-lost": rl(**{"train/reward_mean": lambda step: 0.6 if step < 10 else 0.0}),
    "entropy-collapse": rl(**{"train/entropy": lambda step: 0.3 * math.exp(-step / 10)}),
    "shorter": rl(**{"rollout/completion_length_mean": lambda step: 20 - 0.3 * step}),
    "cut": rl(**{"rollout/cut_share": lambda step: 0.01 * step}),
    "format-lost": rl(**{"train/reward_format": lambda step: max(0.0, 1 - 0.02 * step)}),
    "gradients": rl(**{"optimizer/grad_norm": lambda step: 0.3 if step < 40 else 30.0}),
    "reward-not-accuracy": rl(**FALLING),
    "overfitting": sft(**{"val/avg_loss": lambda step: 0.3 + abs(step - 30) / 100}),
    "loss-spike": sft(**{"train/loss_avg": lambda step: 5 * math.exp(-step / 8) if step < 40 else 1.5}),
    "loss-flat": sft(**{"train/loss_avg": lambda step: 2.0 + 0.1 * (-1) ** step}),
}  # fmt: skip

ALSO = {"kl-runaway": "kl", "reward-lost": "reward-flat", "format-lost": "never-earned"}  # which includes the other


# ---- what goes off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRONG)
def test_an_alarm_goes_off_on_what_fails_its_way(name):
    found = {alarm.name: alarm for alarm in replay(WRONG[name])}
    assert name in found
    alarm = found[name]
    assert (1 <= alarm.step <= 60 and any(c.isdigit() for c in alarm.message)) or name == "nan"
    # what else goes off is of the same kind
    assert set(found) <= {name, ALSO.get(name)}


def test_every_rule_has_a_run_that_fails_its_way():
    assert {rule.name for rule in alarms.RULES} == WRONG.keys()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_nothing_goes_off_on_a_good_run(path):
    rows = read_metrics(path)
    assert len(rows) == 30 and max(row["train/kl_loss_avg"] for row in rows) > 0.04
    assert replay(rows) == []


@pytest.mark.parametrize("seed", range(20))
def test_nothing_goes_off_on_runs_like_them(seed):
    assert replay(rl(seed=seed)) == [] and replay(sft()) == []


def test_a_peak_of_the_kl_is_no_distance():
    rows = rl(**{"train/kl_loss_avg": lambda step: 5.0 if step % 7 == 0 else 0.04})
    assert replay(rows) == []


def test_a_kl_that_was_not_measured_is_no_kl():
    """Where no group differs there is no update, and the KL is logged as 0: it must not quieten the alarm."""
    rows = rl(**{"train/kl_loss_avg": lambda step: 0.3 if step % 2 else 0.0,
                 "train/zero_variance_share": lambda step: 0.4 if step % 2 else 1.0})  # fmt: skip
    assert "kl" in {alarm.name for alarm in replay(rows)}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_no_number_is_severe_at_once(value):
    found = standing([{"step": 1, "train/loss_avg": 0.1, "optimizer/grad_norm": value}])
    assert [(a.name, a.severe, a.step) for a in found] == [("nan", True, 1)] and "grad_norm" in found[0].message


def test_a_reward_near_its_top_may_be_flat():
    rows = rl(**{"train/reward_mean": lambda step: 1.0 + 0.05 * (-1) ** step,
                 "train/reward_single_choice": lambda step: 0.95})  # fmt: skip
    assert replay(rows) == []


def test_rows_that_lack_metrics_and_short_runs_say_nothing():
    assert replay([]) == [] == standing([])
    assert replay([{"step": i} for i in range(1, 50)]) == []
    for name, rows in WRONG.items():
        assert name == "nan" or replay(rows[:3]) == []


@pytest.mark.parametrize("name", ["metrics_grpo.jsonl", "metrics_sft.jsonl"])
def test_the_engines_metrics_are_read_under_the_same_names(name):
    rows = read_engine_metrics(ASSETS / "engine" / name)
    keys = {key for row in rows for key in row}
    wanted = {alarms.REWARD, alarms.KL, alarms.ENTROPY, alarms.LENGTH} if "grpo" in name else {alarms.VAL_LOSS}
    assert wanted | {alarms.LOSS, alarms.NORM} <= keys
    assert not any(alarm.severe for alarm in replay(rows))
    for row in rows[len(rows) // 2 :]:
        row[alarms.LOSS] = math.nan
    assert "nan" in {alarm.name for alarm in replay(rows)}


def test_a_stall_is_ten_usual_steps_and_five_minutes():
    times = [10.0 * i for i in range(20)]
    assert stalled(times, times[-1] + 299) is None and stalled(times[:1], 1e9) is None
    found = stalled(times, times[-1] + 301)
    assert found.severe and "301 s" in found.message and "10.0 s" in found.message
    slow = [100.0 * i for i in range(20)]
    assert stalled(slow, slow[-1] + 999) is None and stalled(slow, slow[-1] + 1001)


# ---- what it says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", alarms.RULES, ids=lambda rule: rule.name)
def test_knob_and_paragraph_exist(rule):
    assert any(schema.find_key(rule.knob, kind) is not None for kind in ("grpo", "sft"))
    notebook, anchor = rule.read.split("#")
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    heads = [line for c in cells if c["cell_type"] == "markdown" for line in "".join(c["source"]).split("\n")]
    assert any(head.lstrip("# ") == anchor.replace("-", " ") for head in heads if head.startswith("#"))
    assert rule.cause and not rule.cause.endswith(".")


def test_an_alarm_reads_as_one_line():
    alarm = Alarm("kl", None, "No leash", "train.train_policy.kl_beta", step=7, message="the KL is 0.2")
    assert str(alarm).startswith(
        "kl (warning, step 7): the KL is 0.2. No leash. Try train.train_policy.kl_beta; see notebook"
    )


# ---- while it runs ----------------------------------------------------------------------------------------------


def test_the_watcher_logs_each_alarm_once_and_hands_over_the_severe(tmp_path):
    run = Run(tmp_path / "run", seed=0)
    watcher = Watcher(run)
    answers = [watcher.see(row["step"], {k: v for k, v in row.items() if k != "step"}) for row in WRONG["kl-runaway"]]
    severe = [alarm for alarm in answers if alarm]
    assert [alarm.name for alarm in severe] == ["kl-runaway"]
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [line.split("ALARM ")[1].split(" (")[0] for line in lines] == ["kl", "kl-runaway"]
    assert str(TrainingStopped(severe[0])) == str(severe[0])


def test_the_command_line_tells_and_fails_for_a_severe_one(tmp_path, capsys):
    for name, code, told in (("kl", 0, "kl (warning"), ("nan", 1, "nan (severe, step 8)")):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in WRONG[name]))
        assert main([str(tmp_path / f"{name}.jsonl")]) == code and told in capsys.readouterr().out
        assert watch(tmp_path / f"{name}.jsonl") == replay(WRONG[name])
    assert main([str(GOOD[0])]) == 0 and capsys.readouterr().out.splitlines()[0] == "no alarm"


SO_FAR = "no alarm so far, at step 3; the run is not at its end ({})"


def written(tmp_path, rows, outcome, last="\n"):
    run = Run(tmp_path / "run", seed=0)
    for row in rows:
        run.log_metrics(**row)
    if last != "\n":
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write(last)
    run.write_manifest(outcome=outcome)
    return run.path


@pytest.mark.fault("local engine")
@pytest.mark.parametrize(
    "rows, outcome, last, told",
    [
        (WRONG["kl"][:3], "running", "\n", SO_FAR.format("running")),
        (WRONG["kl"][:3], "stopped", '{"step": 4, "tra', SO_FAR.format("stopped")),
        (WRONG["kl"][:3], "finished", "\n", "no alarm"),
        ([], "running", "\n", "no step has been logged"),
    ],
)  # fmt: skip
def test_a_run_that_is_not_at_its_end_is_told_in_one_line(tmp_path, capsys, rows, outcome, last, told):
    assert main([str(written(tmp_path, rows, outcome, last))]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == told and ("cannot be told of 3 steps" in said[1] if rows else not said[1:])


def test_a_run_that_an_alarm_ended_is_told_to_be_not_at_its_end(tmp_path, capsys):
    assert main([str(written(tmp_path, WRONG["nan"], "stopped"))]) == 1
    said = capsys.readouterr().out
    assert "nan (severe" in said and f"the run is not at its end (stopped), at step {len(WRONG['nan'])}" in said


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("last", ["{\n", "[1]\n", '{"loss": 1}\n', "nonsense\n"])
def test_a_file_that_is_no_metrics_is_one_line_with_its_place(tmp_path, capsys, last):
    assert main([str(written(tmp_path, WRONG["kl"][:3], "running", last))]) == 2
    shown = capsys.readouterr()
    assert not shown.out and len(shown.err.splitlines()) == 1 and "metrics.jsonl:4: " in shown.err


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("what", ["nowhere", "empty", "no manifest"])
def test_what_is_no_run_is_one_line(tmp_path, capsys, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no manifest").mkdir()
    (tmp_path / "no manifest" / "manifest.json").write_text("{")
    assert main([str(tmp_path / what)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
