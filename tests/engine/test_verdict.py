"""The verdict: a good run is told from a bad one, and each failure has its name."""

import pytest
from fake_engine import FAKE, NAN, STEP, trace

from cookbook.engine.failures import FAILURES

DEAD = "\n[cosmos] 2026-11-23 00:00:00,000 - cosmos - ERROR - Process 77 failed with return code 1"


def test_a_crashed_sft_that_exits_with_0_is_a_failure_with_its_first_traceback(scene):
    error = scene.fails("data", "RuntimeError: injected dataset failure", log="sft_worker_died_exit_0.log")
    assert str(error).count("Traceback") == 1 and "ChildFailedError" not in str(error)
    assert "before the first step" in str(error)


def test_a_disk_that_was_really_full_is_named(scene):
    """The log of cosmos-rl on an H100 with checkpoints on a tmpfs of 60 MB: no line of its first error says "space"."""
    error = scene.fails("disk", "basic_ios::clear: iostream error", log="sft_disk_full.log")
    assert "max_keep" in str(error)


def test_a_reward_that_raises_is_a_failure_while_the_policy_hangs(scene):
    error = scene.fails(
        "reward",
        "RuntimeError: injected reward failure",
        training="grpo",
        log="grpo_reward_crashed_hangs.log",
        then="wait",
    )
    assert "in compute_reward" in str(error) and "worker_entry" not in str(error)


@pytest.mark.parametrize(
    "kind, say",
    [
        ("memory", trace("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.") + DEAD),
        ("disk", trace("OSError: [Errno 28] No space left on device: 'step_6'") + DEAD),
        ("nccl", trace("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356") + DEAD),
        ("checkpoint", trace("RuntimeError: Error(s) in loading state_dict for Qwen2_5_VL: size mismatch") + DEAD),
        ("config", trace("pydantic_core._pydantic_core.ValidationError: 1 validation error for Config") + DEAD),
        ("port", trace("OSError: [Errno 98] Address already in use") + DEAD),
        ("gpu", trace("RuntimeError: No GPUs available. Please check your GPU configuration.") + DEAD),
        ("redis", "/bin/sh: 1: redis-server: not found" + DEAD),
        ("attention", trace("NotImplementedError: FlashAttention is not installed.") + DEAD),
        ("hub", trace("OSError: We couldn't connect to 'https://huggingface.co' to load the files") + DEAD),
        ("length", trace("ValueError: Videos features and video tokens do not match: tokens: 2, features 16") + DEAD),
        ("killed", "E1123 00:00:00.0 1 api.py:986] failed (exitcode: -9) local_rank: 0 (pid: 7)" + DEAD),
        ("worker", trace("ZeroDivisionError: division by zero", "site-packages/cosmos_rl/policy/train.py") + DEAD),
        ("nan", "\n".join(NAN.format(n) for n in (4, 5))),
        ("memory", trace("torch.OutOfMemoryError: CUDA out of memory.")),  # and then it hangs
        ("stall", ""),
    ],
    ids=lambda value: value if value in FAILURES else "",
)  # fmt: skip
def test_every_kind_of_failure_has_its_name(scene, kind, say):
    scene.fails(kind, "of 12", until=STEP, say=say)


def test_a_controller_that_ends_at_once_shows_what_it_said(scene):
    said = (
        "config.toml:3: train.epoch: Error, not a number\n[cosmos] now - cosmos - ERROR - Process 7 exited with code 1."
    )
    scene.fails("controller", "train.epoch: Error, not a number", until="Waiting for controller", say=said, then="exit",
                code=1)  # fmt: skip


@pytest.mark.parametrize(
    "export, words", [("cut", "00000.safetensors cannot be read, was it cut off?"), ("none", "config.json is missing")]
)
def test_an_export_that_is_not_whole_is_a_failure(scene, export, words):
    scene.fails("export", words, export=export)


def test_exit_code_0_before_the_last_step_is_a_failure(scene):
    cut = scene.run.path / "short.log"
    cut.write_text((FAKE / "sft_ok.log").read_text().partition("Step: 4/12")[0] + "\n")
    scene.fails("unfinished", "at step 3 of 12", log=str(cut))
