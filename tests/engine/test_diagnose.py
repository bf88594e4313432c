"""The diagnosis of a log: how the run ended, by the log alone, as the launcher would have said it."""

import re

import pytest

from cookbook.engine.diagnose import diagnose, main
from cookbook.runs import ROOT

LOGS = ROOT / "tests/assets" / "engine"
GOOD = (LOGS / "sft_ok.log").read_text(encoding="utf-8")


def test_a_log_in_pythons_own_format_is_read_too(tmp_path):
    """So it looks where a loader file calls logging.basicConfig; seen on an H100."""
    other = re.sub(r"\[cosmos\] \S+ \S+ - cosmos - ([A-Z]+) - ", r"\1:cosmos:", GOOD)
    assert "INFO:cosmos:Step: 12/12" in other and "[cosmos]" not in other
    (tmp_path / "engine.log").write_text(other)
    assert diagnose(tmp_path / "engine.log") is None


@pytest.mark.parametrize("name", ["sft_ok.log", "sft_resume_ok.log", "grpo_colocated_ok.log"])
def test_a_good_run_has_nothing_to_tell(name):
    assert diagnose(LOGS / name) is None


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("sft_worker_died_exit_0.log", "data", "RuntimeError: injected dataset failure"),
        ("grpo_reward_crashed_hangs.log", "reward", "RuntimeError: injected reward failure"),
        ("sft_disk_full.log", "disk", "basic_ios::clear: iostream error"),
    ],
)
def test_the_first_traceback_of_a_recorded_failure_is_told_with_what_helps(name, kind, words):
    error = diagnose(LOGS / name)
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
    assert main([str(LOGS / "sft_ok.log")]) == 0 and "exported" in capsys.readouterr().out
    assert main([str(LOGS / "sft_disk_full.log")]) == 1 and "What helps (disk)" in capsys.readouterr().out
    assert main([str(tmp_path / "none.log")]) == 2 and "none.log" in capsys.readouterr().err
