"""How a run ended: a good one is told from a bad one, each failure has its name; and the same by the log alone."""

import re

import pytest
from fake_engine import FAKE, NAN, STEP, trace

from cookbook.engine.diagnose import diagnose, main
from cookbook.engine.failures import FAILURES

GOOD = (FAKE / "sft_ok.log").read_text(encoding="utf-8")
DEAD = "\n[cosmos] 2026-11-23 00:00:00,000 - cosmos - ERROR - Process 77 failed with return code 1"


def test_a_log_in_pythons_own_format_is_read_too(tmp_path):
    """So it looks where a loader file calls logging.basicConfig; seen on an H100."""
    other = re.sub(r"\[cosmos\] \S+ \S+ - cosmos - ([A-Z]+) - ", r"\1:cosmos:", GOOD)
    assert "INFO:cosmos:Step: 12/12" in other and "[cosmos]" not in other
    (tmp_path / "engine.log").write_text(other)
    assert diagnose(tmp_path / "engine.log") is None


@pytest.mark.parametrize("name", ["sft_ok.log", "sft_resume_ok.log", "grpo_colocated_ok.log"])
def test_a_good_run_has_nothing_to_tell(name):
    assert diagnose(FAKE / name) is None


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("sft_worker_died_exit_0.log", "data", "RuntimeError: injected dataset failure"),
        ("grpo_reward_crashed_hangs.log", "reward", "RuntimeError: injected reward failure"),
        ("sft_disk_full.log", "disk", "basic_ios::clear: iostream error"),
    ],
)
def test_the_first_traceback_of_a_recorded_failure_is_told_with_what_helps(name, kind, words):
    error = diagnose(FAKE / name)
    assert error.kind == kind and words in str(error) and f"What helps ({kind})" in str(error)
    assert str(error).count("Traceback") == 1


@pytest.mark.parametrize(
    "text, kind, words",
    [
        (GOOD.partition("Step: 4/12")[0], "unfinished", "at step 3 of 12"),
        (GOOD.replace("safetensors/step_12", "safetensors/step_11"), "export", "never exported"),
        (GOOD.replace("Step: 12/12, Loss: 1.6", "Step: 12/12, Loss: nan, Old: 1.6"), "nan", "loss is nan"),
        ("/bin/sh: 1: redis-server: not found\n", "redis", "before the first step"),
        ("", "unfinished", "before the first step"),
    ],
)
def test_a_log_that_lacks_its_end_is_no_good_run(tmp_path, text, kind, words):
    assert text != GOOD
    (tmp_path / "engine.log").write_text(text)
    error = diagnose(tmp_path / "engine.log")
    assert error.kind == kind and words in str(error)


def test_the_seconds_before_each_line_of_our_launcher_are_no_part_of_it(tmp_path):
    (tmp_path / "engine.log").write_text("".join(f"   12.50 {line}\n" for line in GOOD.splitlines()))
    assert diagnose(tmp_path / "engine.log") is None


def test_the_command_line_tells_and_fails(capsys, tmp_path):
    assert main([str(FAKE / "sft_ok.log")]) == 0 and "exported" in capsys.readouterr().out
    assert main([str(FAKE / "sft_disk_full.log")]) == 1 and "What helps (disk)" in capsys.readouterr().out
    assert main([str(tmp_path / "none.log")]) == 2 and "none.log: No such file" in capsys.readouterr().err


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
