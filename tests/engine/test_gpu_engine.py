"""cosmos-rl itself on a GPU: it learns what the local engine learns, ends with the truth, and resumes. `make test-gpu`.

Every test starts the engine, which takes more than a minute. With pytest-xdist they run side by side:

    python -m pytest -m gpu -n 4 tests/engine/test_gpu_engine.py
"""

import contextlib
import json
import os
import shutil
import threading
import time

import psutil
import pytest
import torch

from cookbook import checkpoint, jobs, pipeline
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.engine.environment import is_free
from cookbook.engine.failures import EngineError
from cookbook.engine.launch import launch
from cookbook.runs import ROOT, Run, read_metrics
from cookbook.training.rewards import OVERLONG_KEYS, WEIGHTS, count_tokens, overlong
from cookbook.training.validation import answers
from data_tools import road_vqa

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
PORT, REDIS = 8100 + 100 * WORKER, 12900 + 100 * WORKER
SMALL = {"train": 40, "validation": 8, "test": 8}
STOPPED_IN = 60  # seconds from the failure to our error, and to a machine without a process of ours


@pytest.fixture
def runs(runs):
    """The same, with the clips of a small job."""
    road_vqa.world(runs / "job" / "data", 0, SMALL)
    return runs


def bound(kind: str, gpus: int = 1, base: str = jobs.BASE, **changes) -> tuple[Config, Run]:
    """A configuration of a tiny model that is bound to the small job, and its run folder."""
    config = jobs.job("job", kind, changes={"redis": str(REDIS), pipeline.START: base}).config
    run = Run(f"job/{kind}", seed=0)
    return pipeline.on_gpus(config, gpus).edit({"train.output_dir": str(run.path), **changes}), run


def start(config: Config, run: Run, loader=jobs.LOADER, **more):
    """Run the engine on this worker's own port."""
    return launch(config, loader, run, port=PORT, **more)


def left_over() -> list[str]:
    """What still runs of an engine on this worker's ports."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if "cosmos" in words and (f" {PORT}" in words or f":{PORT}" in words):
                found.append(words)
    return found + [f"port {port} is taken" for port in (PORT, REDIS) if not is_free(port)]


def losses(run: Run) -> list[float]:
    return [row["train/loss_avg"] for row in read_metrics(run.path) if "train/loss_avg" in row]


# ---- it learns --------------------------------------------------------------------------------------------------


def one_step() -> dict:
    """What makes a training one step over the whole set."""
    size = len(jobs.job("job", changes={"custom.clips": -1}).splits["train"]) // 4 * 4
    return {
        "train.train_batch_per_replica": size,
        "train.train_policy.mini_batch": size // 2,
        "train.max_num_steps": 1,
        "validation.enable": False,
        "custom.clips": -1,
        "custom.reasoned": 1.0,
        "custom.subset": f"[:{size}]",
    }


@pytest.mark.parametrize(
    ("base", "engine", "within"),
    [
        (jobs.BASE, {"train.force_use_hf": True}, 1e-3),
        (jobs.BASE, {}, 2e-2),  # native attention is in bfloat16
        (jobs.BASE, {"train.sequence_packing": True, "train.compile": True}, 2e-2),
        ("models/tiny-qwen3", {}, 1e-3),
        ("models/tiny-qwen3", {"train.compile": True}, 1e-3),
    ],
)
def test_the_first_loss_is_that_of_the_local_engine(runs, base, engine, within):
    """One step over the whole set, so that the order of the samples does not matter; float32 in both."""
    changes = one_step()
    config, run = bound("sft", base=base, **changes, **engine)
    start(config, run)
    pipeline.train(jobs.job("job", changes=changes, base=base))  # its folder is the same: the engine's is read before
    engine_loss = float(
        next(line for line in (run.path / "engine.log").read_text().splitlines() if "Step: 1/" in line)
        .split("Loss: ")[1]
        .split(",")[0]
    )
    assert losses(run)[0] == pytest.approx(engine_loss, abs=within)


def test_grpo_runs_to_its_end_and_is_recorded(runs):
    weights, buffer = {"single_choice": 1.0, "overlong": 0.5}, 40
    changes = {WEIGHTS: weights, f"{OVERLONG_KEYS}.buffer_length": buffer, "train.max_num_steps": 3}
    config, run = bound("rl", **changes)
    export = start(config, run)
    rows = read_metrics(run.path)
    assert export.name == "step_3" and [row["step"] for row in rows] == [1, 2, 3]
    assert {"train/reward_mean", "train/kl_loss_avg", "train/reward_single_choice"} <= rows[-1].keys()
    kept = [json.loads(line) for line in (run.path / "generations.jsonl").read_text().splitlines()]
    assert len(kept) >= 3 * 128
    limit, (_, processor) = config["rollout.max_response_length"], checkpoint.load(export)
    for row in kept:
        lost = overlong(count_tokens(row["output"], processor.tokenizer), limit, buffer)
        assert row["overlong"] == lost and row["reward"] == pytest.approx(row["single_choice"] + 0.5 * lost)
    assert min(row["overlong"] for row in kept) < 0
    assert not left_over()


def test_grpo_measures_held_out_prompts_as_the_local_engine_does(runs):
    config, run = bound("rl", **{"train.max_num_steps": 4, "validation.enable": True, "validation.freq": 2})
    export = start(config, run)
    measured = {row["step"]: row["val/accuracy"] for row in read_metrics(run.path) if "val/accuracy" in row}
    assert set(measured) == {2, 4}
    job = jobs.job("job")
    samples = job.splits["validation"]
    model, encoder = pipeline.open_model(export, job.contract)
    texts = answers(model, encoder, samples, config["rollout.max_response_length"])
    right = sum(encoder.contract.read_answer(text, s.options) == s.answer for text, s in zip(texts, samples))
    assert measured[4] == pytest.approx(right / len(samples), abs=1.5 / len(samples))


# ---- two GPUs ---------------------------------------------------------------------------------------------------


@two_gpus
def test_two_gpus_share_a_step_of_sft(runs):
    """Half of the set on each: the loss of the step is that of one GPU with the whole set."""
    found = {}
    for gpus in (1, 2):
        changes = one_step() | {"train.force_use_hf": True}
        size = changes["train.train_batch_per_replica"]
        shares = {"train.train_batch_per_replica": size // gpus, "train.train_policy.mini_batch": size // 4}
        config, run = bound("sft", gpus, **changes | shares)
        export = start(config, run, replace=True)
        found[gpus] = losses(run)[0]
        checkpoint.load(export)
    assert found[2] == pytest.approx(found[1], abs=5e-2)  # the mean of two halves, each over its own tokens
    assert not left_over()


@two_gpus
@pytest.mark.parametrize("mode", ["colocated", "disaggregated"])
def test_grpo_on_two_gpus_runs_to_its_end(runs, mode):
    """Colocated, both halves are sharded over both; disaggregated, the policy has one and the rollouts the other."""
    config, run = bound("rl", 2 if mode == "colocated" else 1, **{"train.max_num_steps": 3, "mode": mode})
    export = start(config, run)
    assert export.name == "step_3" and [row["step"] for row in read_metrics(run.path)][-1] == 3
    checkpoint.load(export)
    assert not left_over()


@two_gpus
def test_grpo_runs_with_the_rollouts_of_vllm(runs):
    """The policy has one GPU and vLLM the other, with weights that the policy sends it."""
    pytest.importorskip("vllm")
    changes = {"mode": "disaggregated", "rollout.backend": "vllm", "rollout.gpu_memory_utilization": 0.5}
    config, run = bound("rl", 1, **{"train.max_num_steps": 3, **changes})
    start(config, run)
    assert [row["step"] for row in read_metrics(run.path)][-1] == 3
    assert not left_over()


# ---- it ends with the truth -------------------------------------------------------------------------------------

LOADERS = {
    "reward": """
def broken(completion, reference=None, **_):
    raise ZeroDivisionError("this reward divides by nothing")
from data_tools.road_vqa import load
from data_tools.loading.engine import serve
if __name__ == "__main__":
    serve(load, [broken])
""",
    "data": """
from data_tools.loading import engine
from data_tools.road_vqa import load
take = engine.EngineDataset.__getitem__
def broken(self, index):
    if index == 7:
        raise ZeroDivisionError("this sample divides by nothing")
    return take(self, index)
engine.EngineDataset.__getitem__ = broken
if __name__ == "__main__":
    engine.serve(load)
""",
}


@pytest.mark.parametrize("what", LOADERS)
def test_an_error_of_ours_is_the_one_that_is_told(runs, what):
    kind = {"reward": "rl", "data": "sft"}[what]
    config, run = bound(kind)
    loader = runs / f"{what}_raises.py"
    loader.write_text(LOADERS[what])
    with pytest.raises(EngineError, match="divides by nothing") as caught:
        start(config, run, loader)
    assert caught.value.kind in (what, "worker")
    assert not left_over()


def test_a_loss_that_is_no_number_ends_the_run(runs):
    config, run = bound(
        "sft", **{"train.optm_lr": 1e12, "train.optm_warmup_steps": 0, "train.optm_grad_norm_clip": 0.0}
    )
    with pytest.raises(EngineError) as caught:
        start(config, run)
    assert caught.value.kind == "nan"
    assert not left_over()


def test_a_severe_alarm_lets_the_engine_save_and_end(runs):
    """A rate fifty times too high destroys the policy; the run ends itself, long before its last step."""
    changes = {"train.optm_lr": 5e-3, "train.optm_warmup_steps": 0, "train.max_num_steps": 100, "train.epoch": 50}
    config, run = bound("rl", **changes, **{"validation.enable": False})
    with pytest.raises(EngineError) as caught:
        start(config, run)
    last = max(row["step"] for row in read_metrics(run.path))
    print(f"ended after step {last}: {caught.value}")
    assert caught.value.kind == "alarm" and "cosmos-rl ended by itself" in str(caught.value)
    assert "agreed" in (run.path / "log.txt").read_text() and last < 50
    exports = sorted((run.path / "safetensors").iterdir())
    assert exports and f"last export: {exports[-1].name}" in str(caught.value)
    assert not left_over()


@pytest.mark.parametrize("who", ["worker", "controller", "launcher"])
def test_a_process_that_is_killed_in_the_middle_ends_the_run(runs, who):
    config, run = bound("sft", **{"train.epoch": 2000})
    killed = []
    threading.Thread(target=lambda: killed.append(kill(who, run)), daemon=True).start()
    with pytest.raises(EngineError) as caught:
        start(config, run)
    assert killed and time.monotonic() - killed[0] < STOPPED_IN, "it took too long"
    print(f"{who} killed: {time.monotonic() - killed[0]:.0f} s to the error, kind {caught.value.kind}")
    assert not left_over()


def kill(who: str, run: Run) -> float:
    """Wait for the third step, then kill −9 a process of the run. Returns when that was."""
    log = run.path / "engine.log"
    while not log.is_file() or "Step: 3/" not in log.read_text():
        time.sleep(0.5)
    role = {"worker": "Policy", "controller": "Controller"}.get(who)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words, environment = " ".join(process.cmdline()), process.environ()
            if environment.get("COOKBOOK_METRICS") != str(run.path / "engine_metrics.jsonl"):
                continue
            is_launcher = "cosmos-rl" in words or "launch_all" in words
            if (
                (is_launcher and "guardian" not in words)
                if role is None
                else (environment.get("COSMOS_ROLE") == role and "road_vqa.py" in words and "torchrun" not in words)
            ):
                process.kill()
    return time.monotonic()


def test_a_full_disk_is_named(runs):
    """Needs a small tmpfs: COOKBOOK_SMALL_DISK names a folder on one."""
    small = os.environ.get("COOKBOOK_SMALL_DISK")
    if not small:
        pytest.skip("COOKBOOK_SMALL_DISK names no folder: mount -t tmpfs -o size=30m tmpfs /mnt/small")
    config, run = bound("sft", **{"train.ckpt.save_freq": 1, "train.ckpt.max_keep": -1})
    for name in ("safetensors", "checkpoints"):
        (run.path / name).symlink_to(f"{small}/{name}")
        os.makedirs(f"{small}/{name}", exist_ok=True)
    with pytest.raises(EngineError) as caught:
        start(config, run)
    assert caught.value.kind == "disk"
    assert not left_over()


# ---- it resumes -------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_twice_ends_like_one_that_was_not(runs):
    changes = {"train.ckpt.save_freq": 2, "train.ckpt.save_mode": "sync", "train.max_num_steps": 8, "train.epoch": 4,
               "train.ckpt.max_keep": -1, "custom.clips": -1, "validation.enable": False}  # fmt: skip
    config, run = bound("sft", **changes)
    start(config, run)
    whole = losses(run)
    shutil.rmtree(run.path)
    run = Run("job/sft", seed=0)
    resume = None
    for step in (3, 5, None):
        if step:
            threading.Thread(target=stop_at, args=[run, step], daemon=True).start()
            with pytest.raises(EngineError):
                start(config, run, resume=resume)
            resume = checkpoint.last_complete(run.path)
        else:
            start(config, run, resume=resume)
    assert losses(run) == pytest.approx(whole, rel=1e-5)


def stop_at(run: Run, step: int) -> None:
    """Kill the worker when it has reported this step."""
    log = run.path / "engine.log"
    while not log.is_file() or f"Step: {step}/" not in log.read_text():
        time.sleep(0.05)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            mine = environment.get("COOKBOOK_METRICS") == str(run.path / "engine_metrics.jsonl")
            if mine and environment.get("COSMOS_ROLE") == "Policy" and "RANK" in environment:
                process.kill()


def test_the_contract_goes_with_the_export(runs):
    job = jobs.job("job", changes={"train.max_num_steps": 1, "redis": str(REDIS)})
    export = pipeline.train(job, engine="cosmos-rl", gpus=1)
    assert job.contract.hash == Contract.load(export / checkpoint.CONTRACT).hash
    assert ROOT not in export.parents
