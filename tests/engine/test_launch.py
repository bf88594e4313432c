"""The launcher: what it runs, where results go, and what it refuses before anything starts.

The engine is tests/assets/engine/cosmos-rl, which replays recorded logs with the real one's processes and manners.
"""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from fake_engine import CONFIGS, FAKE, HASTE, LOADER, Scene

from cookbook.checkpoint import CheckpointError
from cookbook.config import Config
from cookbook.engine.environment import find_redis, is_free
from cookbook.engine.failures import EngineError
from cookbook.engine.launch import as_launched, command, launch, make_room
from cookbook.engine.supervisor import Patience
from cookbook.runs import ROOT, Run, read_metrics


def test_a_good_sft_run_returns_its_last_export(scene):
    assert scene.launch() == scene.run.path / "safetensors" / "step_12"
    assert [row["step"] for row in read_metrics(scene.run.path)] == list(range(1, 13))
    stamped = (scene.run.path / "engine.log").read_text().splitlines()
    assert float(stamped[-1].split()[0]) >= float(stamped[0].split()[0]) >= 0
    facts = json.loads((scene.run.path / "manifest.json").read_text())
    assert facts["outcome"] == "finished" and "cosmos-rl --config" in facts["engine_command"]
    assert facts["seconds"]["train"] >= 0  # as a local run has it
    log = (scene.run.path / "log.txt").read_text()
    assert f"cosmos-rl --config {scene.run.path}/config.toml --port {scene.port} {LOADER}" in log
    assert "Validation loss: 2.87" in log and "safetensors/step_12" in log


def test_a_good_grpo_run_returns_its_last_export(scene):
    assert scene.launch("grpo", log="grpo_colocated_ok.log").name == "step_8"
    assert len(read_metrics(scene.run.path)) == 8


def test_without_checkpoints_there_is_no_export_to_return(scene):
    config = scene.config().edit({"train.ckpt.enable_checkpoint": False})
    assert launch(config, LOADER, scene.run, port=scene.port, env=scene.environment(export="none")) is None


def test_a_resumed_run_takes_up_where_it_was(scene, tmp_path):
    checkpoint = scene.run.path / "checkpoints" / "step_6" / "policy"
    checkpoint.mkdir(parents=True)
    (checkpoint / "cosmos_config").write_text("")
    (scene.run.path / "engine.log").write_text("    1.00 of the first half\n")
    env = scene.environment(log="sft_resume_ok.log")
    export = launch(scene.config(), LOADER, scene.run, port=scene.port, env=env, resume=checkpoint)
    assert export.name == "step_12"
    assert Config.load(scene.run.path / "config.toml")["train.resume"] == str(checkpoint)
    assert "first half" in (scene.run.path / "engine.1.log").read_text()


def test_a_full_disk_is_found_before_the_start(scene, monkeypatch):
    usage = __import__("shutil").disk_usage("/")._replace(free=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(EngineError, match="disk"):
        scene.launch()


def test_redis_missing_is_said_before_the_start(scene):
    with pytest.raises(EngineError, match="redis-server and redis-cli not found"):
        launch(scene.config(), LOADER, scene.run, env={"PATH": str(FAKE)})


def test_ports_that_are_taken_are_replaced(scene, caplog):
    with socket.socket() as one, socket.socket() as two:
        for taken, port in ((one, scene.port), (two, scene.redis)):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        assert scene.launch().name == "step_12"
        text = (scene.run.path / "config.toml").read_text()
    assert f'redis = "{scene.redis}"' not in text
    assert f"port {scene.port} is in use; the controller gets" in caplog.text
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", scene.port))
        taken.listen()
        with pytest.raises(EngineError, match="the other nodes expect"):
            launch(scene.config(), LOADER, scene.run, port=scene.port, env=scene.environment(), nodes=2)


def test_the_engine_gets_results_in_the_run_folder_steps_in_the_log_and_a_name_for_wandb():
    config = CONFIGS["sft"].edit({"logging.logger": ["wandb"], "train.timestamp": None})
    got = as_launched(config, ROOT / "runs" / "mine" / "sft")
    assert got["train.output_dir"] == "runs/mine/sft" and got["train.timestamp"]
    assert set(got["logging.logger"]) == {"console", "wandb"} and got["logging.wandb_run_id"] == "runs-mine-sft"


def test_a_folder_of_two_parts_is_not_taken_for_a_name_on_the_hub(tmp_path):
    """The engine counts the parts: utils/util.py:111 of cosmos-rl 0.4.7."""
    config = Config.load("configs/tiny_sft.toml")
    assert config["policy.model_name_or_path"] == "models/tiny-base"
    local = as_launched(config, tmp_path)["policy.model_name_or_path"]
    assert local == "./models/tiny-base" and (ROOT / local).is_dir()
    absolute = config.edit({"policy.model_name_or_path": str(tmp_path)})
    assert as_launched(absolute, tmp_path)["policy.model_name_or_path"] == str(tmp_path)
    hub = config.edit({"policy.model_name_or_path": "nvidia/Cosmos-Reason1-7B"})
    assert as_launched(hub, tmp_path)["policy.model_name_or_path"] == "nvidia/Cosmos-Reason1-7B"
    resolve = pytest.importorskip("cosmos_rl.utils.util").resolve_model_path
    assert resolve(f"{local}:none.json").endswith("models/tiny-base/none.json")


def test_results_of_an_earlier_run_are_not_deleted_unasked(tmp_path):
    export, state = (tmp_path / name / "step_900" for name in ("safetensors", "checkpoints"))
    export.mkdir(parents=True)
    state.mkdir(parents=True)
    with pytest.raises(EngineError, match="earlier run"):
        make_room(tmp_path, None, False)
    assert export.exists() and state.exists()
    make_room(tmp_path, None, True)
    assert export.exists() and not state.exists()


@pytest.mark.fault("local engine")
def test_an_earlier_export_goes_when_the_new_one_stands_and_not_before(tmp_path):
    export = tmp_path / "run/safetensors/step_900"
    export.mkdir(parents=True)
    scene = Scene(tmp_path)
    replace = {"port": scene.port, "replace": True}
    with pytest.raises(EngineError):
        launch(scene.config(), LOADER, scene.run, **replace, env=scene.environment(export="none"))
    assert export.exists()
    launch(scene.config(), LOADER, scene.run, **replace, env=scene.environment())
    assert sorted(folder.name for folder in export.parent.iterdir()) == ["step_12", "step_6"]


def test_a_missing_engine_is_named():
    with pytest.raises(EngineError, match="cosmos-rl not found"):
        command(Path("x.toml"), LOADER, 8000, "/nowhere")


@pytest.mark.fault("security")
@pytest.mark.slow
@pytest.mark.parametrize("odd", ["a b", "a*", "a[b]", "a\nb"])
def test_a_path_that_the_engines_scripts_take_apart_is_refused(tmp_path, odd):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cosmos-rl").touch(mode=0o755)
    with pytest.raises(EngineError, match=r"take a path apart.*\n.*without blanks"):
        command(tmp_path / odd / "config.toml", LOADER, 8000, str(tmp_path / "bin"))


@pytest.mark.fault("local engine")
def test_a_start_that_is_not_whole_or_brings_code_is_refused_before_the_engine_starts(scene, tmp_path):
    start = shutil.copytree(ROOT / "models/tiny-base", tmp_path / "start")
    told = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(told | {"auto_map": {"AutoModel": "evil.Model"}}))
    config = scene.config().edit({"policy.model_name_or_path": str(start)})
    with pytest.raises(CheckpointError, match="auto_map"):
        launch(config, LOADER, scene.run, port=scene.port, patience=HASTE, env=scene.environment())
    assert not (scene.run.path / "engine.log").exists()


def test_the_true_launcher_comes_up_and_its_dead_worker_is_noticed(tmp_path):
    """Without a GPU the policy dies when it joins its process group, and the launcher waits for ever."""
    try:
        find_redis()
    except EngineError as error:
        pytest.skip(str(error))
    pytest.importorskip("cosmos_rl.launcher", exc_type=ImportError)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tmp_path), os.environ["PATH"]])
    run = Run(tmp_path / "run", seed=0)
    with pytest.raises(EngineError) as caught:
        launch(CONFIGS["sft"], "tests/assets/engine/loader.py", run, env={"PATH": path}, patience=Patience(dead=5))
    log = (run.path / "engine.log").read_text()
    assert "Redis server started" in log and "Controller is ready" in log
    assert caught.value.kind in ("gpu", "nccl", "worker")
    assert "Traceback" in str(caught.value)
    port = int(Config.load(run.path / "config.toml")["redis"])
    assert is_free(port) and is_free(int(json.loads((run.path / "manifest.json").read_text())["port"]))
