"""Start files for several machines: bash that parses, with flags that the launcher has."""

import subprocess
from pathlib import Path

import pytest

from cookbook.engine.__main__ import START_FILES, main, write_start_files
from cookbook.runs import ROOT


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


def test_one_machine_needs_no_start_files_and_is_told_so_in_one_line(tmp_path, capsys):
    words = ["--config", "configs/sft_8gpu.toml", "--run", "mine/sft", "data_tools/llava_sft.py"]
    assert main([*words, "--write-nodes", str(tmp_path / "start")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--nodes 2" in line and not (tmp_path / "start").exists()
    assert main([*words, "--write-nodes", str(tmp_path / "start"), "--nodes", "2"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "start" / name) for name in START_FILES]
