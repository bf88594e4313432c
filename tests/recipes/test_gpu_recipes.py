"""The recipes on cosmos-rl, with the tiny base: each loader file feeds the real engine, which steps and exports.

tests/recipes/test_engine.py runs the same jobs on the local engine. Every test starts the engine; side by side:

    python -m pytest -m gpu -n 5 tests/recipes/test_gpu_recipes.py
"""

import math
import os

import pytest
import torch
from small_recipes import RL, SFT, job

from cookbook import checkpoint, pipeline
from cookbook.runs import read_metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
REDIS = 13900 + 100 * WORKER  # clear of those of test_gpu_engine.py


@pytest.mark.parametrize("recipe", SFT)
def test_sft_steps_with_a_finite_loss_and_exports(recipe, runs):
    config, loader = job(recipe, runs)
    export = pipeline.train(pipeline.prepare(config.edit({"redis": str(REDIS)}), "job", loader), "cosmos-rl", 1)
    losses = [row["train/loss_avg"] for row in read_metrics(runs / "job/sft") if "train/loss_avg" in row]
    assert len(losses) == 2 and all(map(math.isfinite, losses)) and losses[0] > 0
    assert export.name == "step_2"
    checkpoint.load(export)


@pytest.mark.parametrize("recipe", RL)
def test_grpo_steps_with_a_finite_reward_and_exports(recipe, runs):
    config, loader = job(recipe, runs)
    ready = pipeline.prepare(config.edit({"redis": str(REDIS)}), "job", loader)
    export = pipeline.train(ready, "cosmos-rl", 1, stop_on_alarm=False)
    rows = read_metrics(runs / "job/rl")
    assert [row["step"] for row in rows] == [1] and math.isfinite(rows[0]["train/reward_mean"])
    assert len((runs / "job/rl/generations.jsonl").read_text().splitlines()) >= 32
    assert export.name == "step_1"
    checkpoint.load(export)
