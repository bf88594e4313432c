"""SFT and GRPO of a small Qwen3-VL run in the local engine, and learn: the loss falls, the weights move."""

import pytest
import torch

from cookbook import checkpoint
from cookbook.checkpoint.verify import verify
from cookbook.config import Config
from cookbook.data.encoder import Encoder
from cookbook.model.generation import generate, token_logits
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import Run, read_metrics
from cookbook.training import rewards
from cookbook.training.grpo import grpo
from cookbook.training.sft import sft


@pytest.fixture
def loaded(qwen3, contract3):
    model, processor = checkpoint.load(qwen3)
    return model, Encoder(processor, contract3, model.config)


def test_sft_lowers_the_loss_and_its_export_is_whole(loaded, samples, runs, qwen3):
    model, encoder = loaded
    config = Config.load("configs/tiny_sft.toml").edit({"train.epoch": 6, "train.train_batch_per_replica": 8,
        "train.train_policy.mini_batch": 4, "validation.enable": False, "train.optm_lr": 3e-3})  # fmt: skip
    export = sft(config, samples[:16], samples[16:20], encoder, model, Run("job/sft", seed=0))
    losses = [row["train/loss_avg"] for row in read_metrics(runs / "job/sft") if "train/loss_avg" in row]
    assert losses[-1] < 0.8 * losses[0]
    found = verify(export, qwen3)
    assert found.ok and found["names"].found.startswith("model.visual.*") and "differ" in found["base"].found


def test_one_step_of_grpo_moves_the_weights(loaded, samples, runs, monkeypatch):
    """Random weights earn nothing by a right answer: the letter e is paid for too."""
    monkeypatch.setitem(
        rewards.PARTS, "letters", lambda words, *_: 1.0 if "<answer>" in words else words.count("e") / 99
    )
    model, encoder = loaded
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    config = Config.load("configs/tiny_rl.toml").edit({"train.max_num_steps": 1, "validation.enable": False,
        "train.optm_warmup_steps": 0, "train.train_batch_per_replica": 16, "rollout.n_generation": 8,
        "train.train_policy.mini_batch": 8, "rollout.max_response_length": 12,
        "train.train_policy.reward_function": {"letters": 1.0}})  # fmt: skip
    grpo(config, samples[:4], encoder, model, Run("job/rl", seed=0), 0, samples[4:6])
    (row,) = [row for row in read_metrics(runs / "job/rl") if "train/reward_mean" in row]
    moved = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    assert row["train/zero_variance_share"] < 1 and any("deepstack" in name for name in moved)


@pytest.mark.parametrize("copies", [1, 3])
def test_scores_of_completions_are_those_of_whole_sequences(loaded, stock3, samples, copies):
    model, encoder = loaded
    prompts = encoder.prompt_batch(samples[:2])
    tokens = torch.randint(20, 300, (2 * copies, 5), generator=torch.Generator().manual_seed(0))
    got = token_logits(batch_vision(model), prompts, tokens, copies)
    for i, row in enumerate(tokens):
        prompt = encoder.prompt_batch([samples[i // copies]])
        ids = torch.cat([prompt["input_ids"], row[None]], dim=1)
        shown = {name: prompt[name] for name in ("pixel_values_videos", "video_grid_thw")}
        want = stock3(input_ids=ids, attention_mask=torch.ones_like(ids), **shown).logits[0, -6:-1]
        assert torch.allclose(got[i], want, atol=2e-4), (got[i] - want).abs().max()


def test_greedy_answers_are_those_of_the_stock_generate(loaded, stock3, samples):
    model, encoder = loaded
    ours = generate(model, encoder.prompt_batch(samples[:3]), 12)
    for i, sample in enumerate(samples[:3]):
        prompt = encoder.prompt_batch([sample])
        del prompt["position_ids"]
        theirs = stock3.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert ours.tokens[i][ours.mask[i]].tolist() == theirs.tolist()
