"""The engine's environment: W&B with and without a key, and what every process needs."""

import pytest
from fake_engine import CONFIGS

from cookbook.engine.environment import engine_environment, wandb_environment


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


def test_the_environment_names_python_and_the_metrics_file(scene):
    found = engine_environment(scene.config(), scene.run.path, {"PATH": scene.path})
    assert found["COOKBOOK_METRICS"].endswith("engine_metrics.jsonl") and found["COOKBOOK_LOOPBACK"] == "1"
    assert found["PYTHONUNBUFFERED"] == found["COSMOS_REDIS_NO_TLS"] == "1"
    assert "COOKBOOK_LOOPBACK" not in engine_environment(scene.config(), scene.run.path, {"PATH": scene.path}, nodes=2)
