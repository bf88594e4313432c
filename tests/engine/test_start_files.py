"""Start files for several machines: bash that parses, with flags that the launcher has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cookbook.engine.__main__ import START_FILES, main, write_start_files
from cookbook.runs import ROOT, RunError


def test_start_files_for_several_machines_are_bash_and_use_flags_that_exist(tmp_path):
    config, loader = Path("configs/sft_8gpu.toml"), Path("data_tools/llava_sft.py")
    files = write_start_files(tmp_path, config, loader, "a b/sft", 2, 8000)
    for file in files:
        subprocess.run(["bash", "-n", file], check=True)
        assert "@" not in file.read_text()
    assert "--run 'a b/sft' --nodes 2 --port 8000" in (tmp_path / "head.sh").read_text()
    words = set((tmp_path / "worker.sh").read_text().replace("+", " ").split())
    flags = {word for word in words if word.startswith("--")}
    launcher = ROOT / ".venv"
    found = next(launcher.glob("lib/python3.*/site-packages/cosmos_rl/launcher/launch_all.py"), None)
    if found is None:
        pytest.skip("cosmos-rl is not installed")
    assert flags and all(f'"{flag}"' in found.read_text() for flag in flags)


@pytest.mark.fault("security")
@pytest.mark.parametrize("name", ["$(touch x)", "a;touch x", "a`touch x`", "a'b\"c", "a|b&c>d", "@run@", "~", "*"])
def test_what_a_shell_would_run_in_a_name_is_a_word(tmp_path, name):
    files = write_start_files(tmp_path / name, Path(f"{name}/c.toml"), Path(f"{name}/l.py"), name, 2, 8000)
    for file in files:
        subprocess.run(["bash", "-n", file], check=True)
    words = shlex.split((tmp_path / name / "head.sh").read_text(), comments=True)
    assert words[words.index("--run") + 1] == name and f"{name}/l.py" in words
    (job,) = [line for line in (tmp_path / name / "job.slurm").read_text().splitlines() if "--job-name" in line]
    assert re.fullmatch(r"#SBATCH --job-name=[\w.-]+", job)


@pytest.mark.fault("security")
@pytest.mark.parametrize("odd", ["a\nb", "a\rb", "a\x1b[2Jb", "a\u2028b"])
@pytest.mark.parametrize("which", ["run", "config", "loader", "folder"])
def test_a_name_that_no_script_can_hold_is_refused(tmp_path, which, odd):
    words = {"folder": tmp_path, "config": Path("c.toml"), "loader": Path("l.py"), "run": "mine"}
    words[which] = type(words[which])(odd) if which != "folder" else tmp_path / odd
    with pytest.raises(RunError, match="letters that can be typed"):
        write_start_files(*words.values(), 2, 8000)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("security")
def test_without_a_gpu_it_refuses_at_once_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--config", "configs/sft.toml", "--run", "mine/sft", "data_tools/llava_sft.py"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no GPU is visible" in line


def test_one_machine_needs_no_start_files_and_is_told_so_in_one_line(tmp_path, capsys):
    words = ["--config", "configs/sft_8gpu.toml", "--run", "mine/sft", "data_tools/llava_sft.py"]
    assert main([*words, "--write-nodes", str(tmp_path / "start")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--nodes 2" in line and not (tmp_path / "start").exists()
    assert main([*words, "--write-nodes", str(tmp_path / "start"), "--nodes", "2"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "start" / name) for name in START_FILES]
