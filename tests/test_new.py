"""`cookbook.new` says what it does, and what it imports first is light: each process that reads clips imports it."""

import subprocess
import sys

import pytest

from cookbook import new
from cookbook.data.samples import DataError
from cookbook.runs import ROOT


def test_the_processes_that_read_clips_do_not_wait_for_torch():
    heavy = "import sys, cookbook.new; print(sys.modules.keys() & {'torch', 'transformers', 'scipy', 'pandas'})"
    result = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_it_says_what_it_reads_before_it_does(monkeypatch, tmp_path, capsys):
    def write_job(*_, **__):
        assert "reading my_clips" in capsys.readouterr().err
        (tmp_path / "README.md").write_text("# mine")
        return tmp_path

    monkeypatch.setattr(new, "write_job", write_job)
    assert new.main(["mine", "--data", "my_clips"]) == 0 and capsys.readouterr().out == "# mine\n"


@pytest.mark.parametrize(("sft", "rl"), [
    ("configs/tiny_sft.toml", "configs/tiny_rl.toml"),
    ("configs/sft_1gpu_lora.toml", "configs/rl_1gpu_lora.toml"),
    ("configs/reason2/8b_lora_1gpu.toml", "configs/reason2/8b_rl_lora_1gpu.toml"),
    ("configs/reason2/8b_sft_4gpu.toml", "configs/reason2/8b_rl_4gpu.toml"),
])  # fmt: skip
def test_a_file_brings_the_other_steps_of_its_scale(sft, rl):
    assert new.pair(sft, "") == new.pair("", rl) == new.pair(sft, rl) == {"sft": sft, "rl": rl}
    assert new.pair(sft, "mine.toml") == {"sft": sft, "rl": "mine.toml"}


@pytest.mark.parametrize(("asked", "add"), [
    (("configs/sft_1gpu_lora_24gb.toml", ""), "add --rl-config FILE"),
    (("", "configs/reason2/2b_rl_lora_9gpu.toml"), "add --config FILE"),
    (("", "", "nvidia/Cosmos-Reason2-8B"), "add --config, such as configs/reason2/8b_lora_1gpu.toml"),
])  # fmt: skip
def test_scales_are_not_mixed(asked, add):
    with pytest.raises(DataError, match=add):
        new.pair(*asked)
