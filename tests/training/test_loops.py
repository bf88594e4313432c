"""The two loops: formulas by hand, errors before work, and two runs with one seed that are the same."""

import hashlib
import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from cookbook import checkpoint
from cookbook.config import Config, ConfigError
from cookbook.data.encoder import Encoder
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import Run
from cookbook.training import grpo, objective, sft
from cookbook.training.alarms import TrainingStopped
from cookbook.training.optimizer import Optimizer, batches, rate_factor
from cookbook.training.rewards import reward

SFT = Config.load("configs/tiny_sft.toml").edit(
    {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 4}
)
RL = Config.load("configs/tiny_rl.toml").edit({"train.train_batch_per_replica": 16, "train.train_policy.mini_batch": 8,
                                               "rollout.n_generation": 4, "train.max_num_steps": 2})  # fmt: skip


# ---- formulas ---------------------------------------------------------------------------------------------------


def test_advantages_compare_with_the_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    got = objective.advantages(rewards)
    half = 0.5 / math.sqrt(1 / 3)  # the standard deviation of 1, 0, 0, 1 with n − 1
    assert torch.allclose(got[0], torch.tensor([half, -half, -half, half]), atol=1e-4)
    assert got[1].tolist() == [0, 0, 0, 0]


def test_policy_loss_by_hand():
    one = torch.ones(1, 1)
    logp, old, reference = -1.0 * one, -1.5 * one, -1.2 * one
    ratio, d = math.exp(0.5), -0.2
    kl = math.exp(d) - d - 1
    loss, got_kl = objective.policy_loss(logp, old, reference, 2 * one, one, 0.2, 0.2, 0.1)
    assert loss.item() == pytest.approx(0.1 * kl - 1.2 * 2)  # a gain beyond 1 + high earns no more
    assert got_kl.item() == pytest.approx(kl)
    loss, _ = objective.policy_loss(logp, old, reference, -2 * one, one, 0.2, 0.2, 0.1)
    assert loss.item() == pytest.approx(0.1 * kl + ratio * 2)  # but a worse completion is pushed down in full
    loss, _ = objective.policy_loss(logp, old, reference, one, 0 * one, 0.2, 0.2, 0.1)
    assert loss.item() == 0.0


def test_kl_is_zero_where_equal_and_never_negative():
    torch.manual_seed(0)
    a, b = torch.randn(50, 3), torch.randn(50, 3)
    ones = torch.ones_like(a)
    assert objective.policy_loss(a, a, a, ones, ones, 0.2, 0.2, 1.0)[1].item() == 0.0
    assert objective.policy_loss(a, a, b, ones, ones, 0.2, 0.2, 1.0)[1].item() > 0


def test_learning_rate_warms_up_and_decays():
    factors = [rate_factor(i, 100, SFT) for i in range(100)]
    assert factors[0] == 0.0 and factors[9] == factors[10] == 1.0
    assert 0.1 < factors[-1] < 0.11
    assert all(a >= b for a, b in pairwise(factors[9:]))


def test_rewards_pay_parts_and_weights(samples, contract):
    sample = samples[0]
    weights = {"single_choice": 1.0, "format": 0.1}
    assert reward(sample.target, sample, weights, contract).total == pytest.approx(1.1)
    assert reward(f"<answer>{sample.answer}</answer>", sample, weights, contract).parts == {
        "single_choice": 1.0,
        "format": 0.0,
    }
    assert reward("", sample, weights, contract).total == 0.0


def test_an_epoch_has_every_sample_once(samples):
    size, count = 8, len(samples) // 8 * 8
    epochs = batches(samples, size, 2, seed=0)
    for start in (0, len(epochs) // 2):
        seen = [s.id for batch in epochs[start : start + len(epochs) // 2] for s in batch]
        assert len(seen) == len(set(seen)) == count
    assert [s.id for s in epochs[0]] != [s.id for s in batches(samples, size, 2, seed=1)[0]]


def test_token_losses_are_those_of_the_stock_model(stock, encoder, samples):
    batch = encoder.training_batch(samples[:3])
    assert sft.token_losses(stock, batch).mean().item() == pytest.approx(stock(**batch).loss.item(), abs=1e-5)


# ---- errors before work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "config", "changes", "words"),
    [
        (sft, SFT, {"train.train_policy.mini_batch": 3}, "must be a multiple of it"),
        (sft, SFT, {"train.train_batch_per_replica": 6400}, "fill at least one step"),
        (sft, SFT, {"policy.parallelism.dp_shard_size": 2}, "asks for 2 GPUs"),
        (sft, RL, {}, 'must be "sft"'),
        (grpo, SFT, {}, 'must be "grpo"'),
        (grpo, RL, {"rollout.n_generation": 3}, "rollout.n_generation: is 3"),
        (grpo, RL, {"rollout.n_generation": 1}, "at least 2"),
        (grpo, RL, {"train.train_policy.mini_batch": 2}, "cuts groups"),
        (
            grpo,
            RL,
            {"train.train_batch_per_replica": 6400, "train.train_policy.mini_batch": 6400},
            "fill at least one step",
        ),
    ],
)
def test_a_set_up_that_cannot_work_is_refused(plan, config, changes, words, samples):
    with pytest.raises(ConfigError, match=words):
        plan.plan_steps(config.edit(changes), samples)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"config\.json"):
        checkpoint.load(tmp_path)


# ---- runs -------------------------------------------------------------------------------------------------------


def fingerprint(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def train_twice(tmp_path, train):
    """Returns (metrics.jsonl, export) of two runs with one seed and of a third with another."""
    out = []
    for i, seed in enumerate((0, 0, 1)):
        run = Run(tmp_path / str(i), seed=seed)
        folder = train(run, seed)
        out.append(((run.path / "metrics.jsonl").read_text(), fingerprint(folder)))
    return out


def fresh(contract, dtype=torch.float32):
    model, processor = checkpoint.load("models/tiny-base", dtype)
    return model, Encoder(processor, contract, model.config)


def test_sft_learns_repeats_and_exports_what_loads(tmp_path, contract, samples):
    def train(run, seed):
        config = SFT.edit({"train.train_policy.dataloader_seed": seed, "train.max_num_steps": 6})
        model, encoder = fresh(contract)
        return sft.sft(config, samples, samples[:8], encoder, model, run)

    (metrics, weights), again, other = train_twice(tmp_path, train)
    assert (metrics, weights) == again
    assert metrics != other[0] and weights != other[1]
    losses = [row["train/loss_avg"] for row in Run.metrics(type("R", (), {"path": tmp_path / "0"}))]
    assert losses[-1] < 0.8 * losses[0]
    assert {"00000.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json",
            "preprocessor_config.json"} <= weights.keys()  # fmt: skip
    model, _ = checkpoint.load(tmp_path / "0")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in fresh(contract)[0].parameters())


DIVERGING = {"train.optm_grad_norm_clip": 1e9, "train.optm_warmup_steps": 0, "train.optm_decay_ratio": 0.0,
             "train.epoch": 9, "train.max_num_steps": 30}  # fmt: skip


def test_sft_that_diverges_is_stopped_with_an_export(tmp_path, contract, samples, monkeypatch):
    """After twelve good steps the rate is a thousand times higher."""
    real = Optimizer.step

    def step(self):
        self.config = self.config.edit({"train.optm_lr": 1.0}) if self.done == 12 else self.config
        return real(self)

    monkeypatch.setattr(Optimizer, "step", step)
    model, encoder = fresh(contract)
    run = Run(tmp_path / "wild", seed=0)
    with pytest.raises(TrainingStopped, match=r"^loss-spike \(severe") as stop:
        sft.sft(SFT.edit(DIVERGING | {"train.optm_lr": 1e-3}), samples, [], encoder, model, run)
    rows = run.metrics()
    assert rows[-1]["step"] == stop.value.alarm.step == 16
    assert checkpoint.find(run.path / "safetensors/step_16")
    assert json.loads((run.path / "manifest.json").read_text())["stopped"] == str(stop.value)


@pytest.mark.parametrize("goes_on", [False, True])
def test_sft_stops_at_a_loss_that_is_no_number_and_exports_nothing(goes_on, tmp_path, contract, samples, monkeypatch):
    real = sft.token_losses
    monkeypatch.setattr(sft, "token_losses", lambda *a: real(*a) * math.nan)
    model, encoder = fresh(contract)
    run, config = Run(tmp_path / "nan", seed=0), SFT.edit({"train.max_num_steps": 2, "validation.enable": False})
    if goes_on:
        config = config.edit({"train.ckpt.enable_checkpoint": False})
        assert sft.sft(config, samples, [], encoder, model, run, stop_on_alarm=False) is None
        assert len(run.metrics()) == 2 and "ALARM nan" in (run.path / "log.txt").read_text()
        return
    with pytest.raises(TrainingStopped, match=r"^nan \(severe, step 1\)"):
        sft.sft(config, samples, [], encoder, model, run)
    assert not (run.path / "safetensors").exists()


def test_grpo_repeats_and_logs_what_to_watch(tmp_path, contract, samples):
    def train(run, seed):
        model, encoder = fresh(contract)
        return grpo.grpo(RL, samples, encoder, model, run, seed)

    (metrics, weights), again, other = train_twice(tmp_path, train)
    assert (metrics, weights) == again
    assert metrics != other[0]
    for key in (
        "train/reward_mean",
        "train/reward_std",
        "train/reward_format",
        "train/zero_variance_share",
        "train/kl_loss_avg",
        "train/entropy",
        "rollout/completion_length_mean",
        "rollout/cut_share",
    ):
        assert f'"{key}"' in metrics
    assert (tmp_path / "0" / "generations.jsonl").read_text().count("\n") == 2 * 4


def test_grpo_makes_the_rewarded_answer_likelier(contract, samples, tmp_path):
    """With a reward that pays for one letter, that letter is said more often."""
    model, encoder = fresh(contract)
    mcq = [replace(s, answer="C") for s in samples if len(s.options) == 4][:8]
    config = RL.edit({"train.epoch": 6, "train.max_num_steps": 8, "train.optm_lr": 5e-4, "train.optm_warmup_steps": 1,
                      "rollout.n_generation": 8, "train.train_batch_per_replica": 32,
                      "train.train_policy.mini_batch": 32})  # fmt: skip
    run = Run(tmp_path / "c", seed=0)
    grpo.grpo(config, mcq, encoder, batch_vision(model), run, 0, stop_on_alarm=False)  # it goes far, as it is paid for
    earned = [row["train/reward_single_choice"] for row in run.metrics()]
    assert sum(earned[-2:]) > sum(earned[:2]) + 0.3
