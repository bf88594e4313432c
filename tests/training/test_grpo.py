"""GRPO's choices by hand, and what a run does beside training: held-out accuracy, probes, the best export, alarms."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import cycle

import pytest
import torch

from cookbook import checkpoint
from cookbook.config import Config, ConfigError
from cookbook.data.encoder import Encoder
from cookbook.evaluation.predict import predict
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import ROOT, Run
from cookbook.training import grpo, objective, validation
from cookbook.training.alarms import TrainingStopped, replay
from cookbook.training.objective import Objective, advantages, completion_weights, divisor, policy_loss
from cookbook.training.rewards import PARTS, RewardError, count_tokens, overlong
from cookbook.training.validation import best_step, generations_over_time

RL = Config.load("configs/tiny_rl.toml").edit({"train.train_batch_per_replica": 16, "train.train_policy.mini_batch": 8,
                                               "rollout.n_generation": 4, "train.max_num_steps": 3,
                                               "validation.enable": False})  # fmt: skip
P = "train.train_policy"
ONE = torch.ones(1, 1)


# ---- formulas ---------------------------------------------------------------------------------------------------


def test_dr_grpo_leaves_the_division_out():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    assert torch.allclose(advantages(rewards, unbiased=True)[0], torch.tensor([0.75, -0.25, -0.25, -0.25]))
    assert advantages(rewards, unbiased=True)[1].tolist() == [0, 0, 0, 0]
    assert torch.allclose(advantages(rewards, correction=0)[0] * math.sqrt(3 / 4), advantages(rewards)[0], atol=1e-5)


@pytest.mark.parametrize("reward", [0.1, 1.1, 0.3, 1e6])
def test_equal_rewards_give_exact_zeros(reward):
    assert advantages(torch.full((3, 7), reward)).abs().max() == 0


def loss(ratio, advantage, **choices):
    old = torch.zeros(1, 1)
    return policy_loss(math.log(ratio) * ONE, old, math.log(ratio) * ONE, advantage * ONE, ONE, 0.2, 0.28, 0.0,
                       **choices)[0].item()  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.0, 2, -2.0), (1.5, 2, -2.56), (1.25, 2, -2.5), (0.5, 2, -1.0), (0.5, -2, 1.6), (1.5, -2, 3.0), (5.0, -2, 6.0)],
)
def test_the_clip_has_two_ends_and_a_bound(ratio, advantage, expected):
    """1 + high where better, 1 − low where worse, and at most `bound` times a worse one."""
    assert loss(ratio, advantage) == pytest.approx(expected)
    assert loss(5.0, -2, bound=10.0) == pytest.approx(10.0)


def test_one_ratio_a_completion_is_the_geometric_mean_of_its_tokens():
    logp, mask = torch.tensor([[0.3, -0.1, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    got, _ = policy_loss(logp, 0 * logp, logp, torch.ones(1, 1), mask, 0.2, 0.2, 0.0, whole=True)
    assert got.item() == pytest.approx(-2 * math.exp(0.1))


def test_far_apart_policies_give_numbers():
    for far in (1e4, -1e4):
        got, kl = policy_loss(far * ONE, 0 * ONE, -far * ONE, -ONE, ONE, 0.2, 0.2, 1.0)
        assert math.isfinite(got) and math.isfinite(kl)


def test_what_the_loss_is_divided_by():
    lengths = torch.tensor([1, 3, 4])
    ones = [[1.0], [1.0], [1.0]]
    for kind, constant, weights, by in [
        ("token-mean", None, ones, 8),
        ("seq-mean-token-sum", None, ones, 3),
        ("seq-mean-token-mean", 10, ones, 30),
        ("seq-mean-token-mean", None, [[1.0], [1 / 3], [1 / 4]], 3),
        ("token-mean", 10, ones, 8),
    ]:
        choices = Objective(loss_type=kind, unbiased_loss_max_tokens=constant)
        assert torch.allclose(completion_weights(choices, lengths), torch.tensor(weights)), kind
        assert divisor(choices, lengths) == by, kind
    assert divisor(Objective(), torch.tensor([0])) == 1


def test_the_defaults_are_the_engines():
    bare = Config.parse('[train]\noutput_dir = "x"\n[train.train_policy]\ntype = "grpo"\n')
    assert Objective.of(bare) == Objective()
    stated = RL.edit({f"{P}.unbiased_advantage": True, f"{P}.epsilon_high": 0.28, f"{P}.variant": "dapo"})
    assert Objective.of(stated).epsilon_high == 0.28 and Objective.of(stated).unbiased_advantage


@pytest.mark.parametrize("name", objective.WITHOUT)
def test_a_choice_that_only_the_engine_has_is_refused(name, samples):
    off = objective.WITHOUT[name]
    other = True if off is False else 4 if name == "batch_size_per_optimize" else 1
    with pytest.raises(ConfigError, match=rf"\d+: train.train_policy.{name} = .* is not in the local engine"):
        grpo.plan_steps(RL.edit({f"{P}.{name}": other}), samples)


def test_a_reward_that_is_not_there_is_refused(samples):
    with pytest.raises(ConfigError, match="names boxed_math, which is none of single_choice"):
        grpo.plan_steps(RL.edit({f"{P}.reward_function": {"boxed_math": 1.0}}), samples)


# ---- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, contract, samples):
    """Returns a function that trains the tiny base and gives back its run."""

    def start(name="run", changes=None, seed=0, rate=3e-4, data=samples, **more):
        model, processor = checkpoint.load("models/tiny-base", torch.float32)
        run = Run(tmp_path / name, seed=seed)
        config = RL.edit({"train.optm_lr": rate, "train.optm_warmup_steps": 0, **(changes or {})})
        grpo.grpo(config, data, Encoder(processor, contract, model.config), model, run, seed, **more)
        return run

    return start


def rows_of(run):
    lines = (run.path / "generations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_reward_that_gold_cannot_earn_stops_before_the_first_step(train, tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "format", lambda *_: 0.0)
    with pytest.raises(RewardError, match=r"the right answer earns 1 of 1\.1"):
        train()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "changes",
    [
        {f"{P}.unbiased_advantage": True, f"{P}.loss_type": "seq-mean-token-mean", f"{P}.unbiased_loss_max_tokens": 48},
        {f"{P}.variant": "gspo", f"{P}.mu_iterations": 2},
        {f"{P}.variant": "dapo", f"{P}.epsilon_high": 0.28},
        {f"{P}.loss_type": "seq-mean-token-sum", f"{P}.unbiased_kl_estimate": True},
    ],
)
def test_every_choice_trains(changes, train):
    rows = train(changes=changes | {"train.max_num_steps": 1}).metrics()
    assert math.isfinite(rows[0]["train/loss_avg"]) and rows[0]["optimizer/grad_norm"] > 0


def test_inner_updates_meet_the_clip(train):
    """With one update the ratio is 1; with several the policy has left the one that sampled."""
    once, thrice = (
        train(f"mu{mu}", {f"{P}.mu_iterations": mu, "train.max_num_steps": 1}).metrics()[0] for mu in (1, 3)
    )
    assert once["train/kl_loss_avg"] == 0 and thrice["train/kl_loss_avg"] > 0
    assert once["train/reward_mean"] == thrice["train/reward_mean"]


def test_cut_completions_can_be_left_out(train, monkeypatch):
    """At a limit that cuts all, nothing is left to learn from, and the weights stay."""
    turns = cycle((0.0, 0.5))
    monkeypatch.setitem(PARTS, "length", lambda text, *_: 1.0 if "<answer>" in text else next(turns))
    short = {"rollout.max_response_length": 2, "train.max_num_steps": 1, f"{P}.reward_function": {"length": 1.0}}
    counted, left_out = train("a", short).metrics()[0], train("b", short, mask_cut=True).metrics()[0]
    assert counted["rollout/cut_share"] == left_out["rollout/cut_share"] == 1
    assert counted["train/zero_variance_share"] == left_out["train/zero_variance_share"] == 0
    assert counted["optimizer/grad_norm"] > 0 and left_out["optimizer/grad_norm"] == 0


def test_long_completions_lose_what_the_configuration_says(train, samples, processor):
    """In the rollouts and in the probes; gold is short enough to be let through."""
    keys = {f"{P}.reward_function": {"single_choice": 1.0, "overlong": 0.5}, f"{P}.overlong_reward.buffer_length": 40}
    run = train(changes=keys | {"train.max_num_steps": 1}, validation=samples[:3], probes=3)
    kept = rows_of(run)
    for row in kept:
        lost = overlong(count_tokens(row["output"], processor.tokenizer), 48, 40)
        assert row["overlong"] == lost and row["reward"] == pytest.approx(row["single_choice"] + 0.5 * lost)
    assert {row.get("kind") for row in kept} == {"probe", None} and min(row["overlong"] for row in kept) < 0
    assert -1 <= run.metrics()[0]["train/reward_overlong"] < 0


VALIDATE = {"validation.enable": True, "validation.freq": 1, "train.ckpt.max_keep": 1}


def test_validation_changes_nothing_but_what_is_measured(train, samples):
    plain = train("plain").metrics()
    seen = train("seen", VALIDATE, validation=samples[:6], probes=2)
    assert [{k: v for k, v in row.items() if k != validation.METRIC} for row in seen.metrics()] == plain
    right = [row[validation.METRIC] for row in seen.metrics()]
    assert len(right) == 3 and all(0 <= value <= 1 for value in right)
    # without [validation] enable, only the probes are asked
    assert train("off", validation=samples[:6]).metrics() == plain


def test_the_best_export_stays(train, samples, monkeypatch):
    """The accuracy of step 1 is the highest: its export stays beside the last one, though only one is kept."""
    values = iter([0.5, 0.4, 0.5])
    monkeypatch.setattr(validation.Validation, "accuracy", lambda self, model: next(values))
    run = train(changes=VALIDATE, validation=samples[:2], probes=0)
    assert json.loads((run.path / "best.json").read_text()) == {"step": 1, "metric": "val/accuracy", "value": 0.5}
    assert sorted(p.name for p in (run.path / "safetensors").iterdir()) == ["step_1", "step_3"]
    assert best_step(run.path) == 1 and checkpoint.find(run.path).name == "step_3"


def test_an_earlier_runs_best_is_forgotten(train, samples, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.json").write_text('{"step": 99}')
    assert best_step(train(changes={"train.max_num_steps": 1}).path) is None


def test_accuracy_is_that_of_the_evaluation(encoder, stock, samples, tmp_path):
    model = batch_vision(stock)
    held = validation.Validation(RL.edit(VALIDATE), samples[:12], encoder, Run(tmp_path, seed=0), 3, 0)
    rows = predict(model, encoder, samples[:12], "base", limit=RL["rollout.max_response_length"])
    assert held.accuracy(model) == sum(row["correct"] for row in rows) / len(rows)
    assert validation.answers(model, encoder, samples[:12], 48, size=5) == [row["output"] for row in rows]


def test_the_same_prompts_over_time(train, samples):
    run = train(validation=samples[:5], probes=3)
    table = generations_over_time(run.path)
    assert [row["id"] for row in table] == [s.id for s in samples[:3]]
    assert all(set(row) == {"id", "question", "reference", "step 0", "step 1", "step 3"} for row in table)
    probes = [row for row in rows_of(run) if row.get("kind") == "probe"]
    assert len(probes) == 9 and all("single_choice" in row and "reward" in row for row in probes)
    assert len(rows_of(run)) == 9 + 3 * 4


def test_validation_needs_answers_to_compare_with(train, samples):
    with pytest.raises(ConfigError, match="needs samples with an answer"):
        train(changes=VALIDATE, validation=[replace(samples[0], answer=None)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_benchmark_times_three_ways_of_the_same_step():
    small = ["--prompts", "2", "--copies", "2", "--tokens", "6", "--steps", "1", "--rounds", "1"]
    said = subprocess.run([sys.executable, "tests/benchmarks/grpo_speed.py", *small], cwd=ROOT, capture_output=True,
                          text=True, check=True).stdout  # fmt: skip
    found = json.loads(said[said.rindex("\n{\n") :])
    assert found["seconds"].keys() == {"ours", "stock", "trl"} and min(found["seconds"].values()) > 0
    assert found["steps_timed"] == 1 and found["times_ours"].keys() == {"stock", "trl"}


# ---- a run that goes wrong --------------------------------------------------------------------------------------

WILD = {"train.max_num_steps": 12, "train.epoch": 9, "train.optm_grad_norm_clip": 100.0, f"{P}.mu_iterations": 2,
        f"{P}.kl_beta": 0.0}  # fmt: skip


def test_a_run_without_a_leash_is_stopped_with_an_export(train, tmp_path):
    with pytest.raises(TrainingStopped, match="severe") as stop:
        train(changes=WILD, rate=0.01)
    alarm, run = stop.value.alarm, tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert alarm.severe and rows[-1]["step"] == alarm.step < 12
    assert checkpoint.find(run / f"safetensors/step_{alarm.step}")
    assert f"ALARM {alarm.name}" in (run / "log.txt").read_text()
    assert json.loads((run / "manifest.json").read_text())["stopped"] == str(alarm)


def test_weights_that_are_no_numbers_are_not_exported(train, tmp_path, monkeypatch):
    real = objective.policy_loss
    monkeypatch.setattr(grpo, "policy_loss", lambda *a, **k: tuple(x * math.nan for x in real(*a, **k)))
    with pytest.raises(TrainingStopped, match=r"^nan \(severe, step 1\)"):
        train()
    assert not (tmp_path / "run" / "safetensors").exists()


@pytest.mark.parametrize(
    ("rate", "changes", "names"),
    [
        (0.0003, {"rollout.max_response_length": 2}, {"cut", "never-earned", "equal-groups"}),
        (0.002, {f"{P}.kl_beta": 0.0}, {"kl", "kl-runaway"}),
    ],
)
def test_alarms_go_off_on_real_runs_that_fail(rate, changes, names, train):
    """And the run goes on where that is wanted."""
    always = {"train.epoch": 9, "train.max_num_steps": 10, "train.optm_decay_ratio": 0.0}
    run = train(changes=always | changes, rate=rate, stop_on_alarm=False)
    assert names <= {alarm.name for alarm in replay(run.metrics())} and len(run.metrics()) == 10
    assert all(f"ALARM {name}" in (run.path / "log.txt").read_text() for name in names)
