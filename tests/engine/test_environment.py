"""The engine's environment: W&B with and without a key, and what every process needs."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_engine import CONFIGS

from cookbook.engine.environment import (
    AUTH,
    LIGHT,
    engine_environment,
    find_redis,
    is_safe,
    redis_version,
    wandb_environment,
)


@pytest.mark.parametrize("stated, key, mode, expected", [
    ([], "", "", {}),
    (["console"], "k" * 40, "", {}),
    (["wandb"], "k" * 40, "", {}),
    (["wandb"], "", "", {"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40}),
    (["wandb"], "k" * 40, "offline", {"WANDB_MODE": "offline"}),
    (["wandb"], "", "disabled", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "0" * 40}),
])  # fmt: skip
def test_wandb_is_online_with_a_key_and_offline_without(tmp_path, stated, key, mode, expected):
    config = CONFIGS["sft"].edit({"logging.logger": stated})
    environment = {"HOME": str(tmp_path), "WANDB_API_KEY": key} | ({"WANDB_MODE": mode} if mode else {})
    assert wandb_environment(config, environment) == expected


def test_a_login_of_wandb_counts_as_a_key(tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    config = CONFIGS["sft"].edit({"logging.logger": ["wandb"]})
    assert wandb_environment(config, {"HOME": str(tmp_path)}) == {}


def programs(folder, version):
    folder.mkdir()
    for name in ("redis-server", "redis-cli"):
        (folder / name).write_text(f"#!/bin/sh\necho Redis server v={version} sha=0\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.fault("security")
@pytest.mark.parametrize("version, safe", [
    ("6.2.14", False), ("6.2.20", True), ("7.0.15", False), ("7.2.10", False), ("7.2.11", True), ("7.4.6", True),
    ("8.0.3", False), ("8.2.2", True), ("8.4.0", True), ("9.0.0", True), ("x", False),
])  # fmt: skip
def test_a_redis_in_which_a_script_can_run_code_is_told(tmp_path, version, safe):
    assert is_safe(redis_version(programs(tmp_path / "bin", version))) == safe


@pytest.mark.fault("security")
def test_a_safe_redis_further_down_the_path_is_taken_and_nothing_else_of_its_folder(tmp_path, scene):
    old, new = programs(tmp_path / "old", "6.2.14"), programs(tmp_path / "new", "7.2.11")
    (tmp_path / "new" / "python").touch(mode=0o755)
    path = os.pathsep.join([old, str(Path(sys.executable).parent), new])
    assert find_redis(path) == Path(new) and find_redis(old) == Path(old)
    found = engine_environment(scene.config(), tmp_path / "run", {"PATH": path})["PATH"]
    assert redis_version(found) == (7, 2, 11) and shutil.which("python", path=found) != str(tmp_path / "new" / "python")
    assert engine_environment(scene.config(), tmp_path / "run", {"PATH": old})["PATH"] == old


@pytest.mark.fault("security")
def test_each_run_has_a_word_of_its_own_for_redis_on_one_machine(scene):
    words = [engine_environment(scene.config(), scene.run.path, {"PATH": scene.path}).get(AUTH) for _ in range(2)]
    assert len(words[0]) == 32 and words[0] != words[1]
    assert AUTH not in engine_environment(scene.config(), scene.run.path, {"PATH": scene.path}, nodes=2)


def test_the_environment_names_python_and_the_metrics_file(scene):
    found = engine_environment(scene.config(), scene.run.path, {"PATH": scene.path})
    assert found["COOKBOOK_METRICS"].endswith("engine_metrics.jsonl") and found["COOKBOOK_LOOPBACK"] == "1"
    assert found["PYTHONUNBUFFERED"] == found["COSMOS_REDIS_NO_TLS"] == "1"
    assert "COOKBOOK_LOOPBACK" not in engine_environment(scene.config(), scene.run.path, {"PATH": scene.path}, nodes=2)


@pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
@pytest.mark.parametrize("words", [[f"{Path(sys.executable).parent}/cosmos-rl"], ["-m", "cosmos_rl.launcher.torchrun"]])
def test_what_trains_nothing_imports_next_to_nothing(words):
    told = subprocess.run(
        [sys.executable, *words, "--help"],
        env=os.environ | {"PYTHONPATH": str(LIGHT), "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0 and "usage" in told.stdout, told.stderr[-2000:]
    assert not re.findall(r"[|] +(transformers|datasets|diffusers)$", told.stderr, re.M)


@pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
def test_the_engine_still_imports_all_and_its_launcher_still_waits():
    package = Path(find_spec("cosmos_rl").origin)
    assert "from . import rollout" in package.read_text()
    _, _, waited = (package.parent / "launcher/launch_all.py").read_text().rpartition("wait_for_url_ready(")
    assert "processes.extend(launch_processes(" in waited
