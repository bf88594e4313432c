"""The main job on cosmos-rl ends as on the local engine: data, SFT, RL, and every held-out question. `make test-gpu`.

Eight minutes, side by side, and what they found: python -m pytest -m gpu -n 3 -rP tests/test_gpu_main_job.py
"""

import os

import pytest
import torch

from cookbook import jobs, pipeline
from cookbook.engine import launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
PORT, REDIS = 9100 + 100 * WORKER, 14900 + 100 * WORKER  # clear of those of the engine's tests
READ = {f"train.train_policy.dataloader_{key}": 4 for key in ("num_workers", "prefetch_factor")}  # else one by one
FAST = {"train.sequence_packing": True, "train.compile": True}
# the least of three seeds after SFT and after RL on the local engine (LOG.md, 2026-11-29 and 2026-11-30)
LOCAL = {"models/tiny-base": (0.655, 0.876), "models/tiny-qwen3": (0.610, 0.819)}
WITHIN = 0.05


@pytest.mark.parametrize(
    ("base", "keys"), [("models/tiny-base", {}), ("models/tiny-base", FAST), ("models/tiny-qwen3", {})]
)
def test_the_main_job_ends_as_on_the_local_engine(runs, monkeypatch, base, keys):
    monkeypatch.setattr(launch, "PORT", PORT)
    sft = {"train.epoch": 4, "custom.clips": -1} | READ | keys
    for step, longer in (("sft", sft), ("rl", {"train.max_num_steps": 30})):
        job = jobs.job("job", step, changes=longer | {"redis": str(REDIS)}, base=base)
        pipeline.train(job, engine="cosmos-rl", gpus=1)
    comparison, _ = pipeline.evaluate(job)
    right = {name: found["accuracy"] for name, found in comparison["models"].items()}
    print(f"{base}, {' '.join(keys) or 'as shipped'}: {right} of {comparison['n']}")
    for step, least in zip(("sft", "rl"), LOCAL[base]):
        assert right[step] >= least - WITHIN, right
    assert comparison["paired"]["rl_vs_sft"]["p"] < 0.05
