"""All-weight training keeps weights of 32 bits: in 16 bits the updates of a fine-tuning are rounded away, unseen."""

import copy

import pytest
import torch

from cookbook.config import Config, lint
from cookbook.training.optimizer import Optimizer

RATE, STEPS = 1e-6, 3
CONFIG = Config.load("configs/tiny_sft.toml").edit({"train.optm_lr": RATE, "train.optm_warmup_steps": 0})


@pytest.mark.parametrize(
    ("master", "computed", "least", "most"),
    [
        (torch.float32, torch.float32, 0.99, 1),
        (torch.float32, torch.bfloat16, 0.99, 1),  # what the shipped files say: master_dtype, param_dtype
        (torch.bfloat16, torch.bfloat16, 0, 0.05),
    ],
)
def test_a_small_rate_moves_weights_of_32_bits_only(stock, encoder, samples, master, computed, least, most):
    """The share of the weights that three steps at 1e-6 have moved; the gradients are there in all three."""
    model = copy.deepcopy(stock).to(master)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer, batch = Optimizer(model, CONFIG, STEPS), encoder.training_batch(samples[:1])
    for _ in range(STEPS):
        with torch.autocast("cpu", computed, enabled=master != computed):
            model(**batch).loss.backward()
        seen = [p.grad != 0 for p in model.parameters()]
        optimizer.step()
    moved = sum(((p != b) & s).sum() for p, b, s in zip(model.parameters(), before, seen)) / sum(s.sum() for s in seen)
    assert least <= moved <= most


def test_the_lint_knows():
    for name in ("sft.toml", "sft_1gpu_lora.toml"):
        config = Config.load(f"configs/{name}")
        assert not lint(config)
        (found,) = lint(config.edit({"train.master_dtype": "bfloat16"}))
        assert found.key == "train.master_dtype" and "write float32" in found.message
