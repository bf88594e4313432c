"""What the model wrote on cosmos-rl: kept by the reward, numbered by step, worked out into figures."""

import json
from dataclasses import replace

import pytest

from cookbook.config import Config
from cookbook.engine import generations, launch, metrics
from cookbook.runs import ROOT
from cookbook.training.rewards import EngineReward, reference_text


def test_the_reward_keeps_each_completion_where_it_is_asked_to(tmp_path, monkeypatch, samples, contract):
    kept = tmp_path / "generations.jsonl"
    monkeypatch.setenv(generations.FILE, str(kept))
    pays = EngineReward({"single_choice": 1.0, "format": 0.1}, contract)
    pays(samples[0].target, reference_text(samples[0]))
    replace(pays, keeps=False)(samples[0].target, reference_text(samples[0]))  # validation
    (row,) = map(json.loads, kept.read_text().splitlines())
    assert row["id"] == samples[0].id and row["output"] == samples[0].target
    assert (row["reward"], row["single_choice"], row["format"]) == (pytest.approx(1.1), 1.0, 1.0)


def test_without_a_file_nothing_is_kept(monkeypatch):
    monkeypatch.delenv(generations.FILE, raising=False)
    generations.keep({"id": "a"})
    monkeypatch.setenv(generations.FILE, "/no/such/folder/x.jsonl")
    generations.keep({"id": "a"})  # a training must not end here


def test_steps_and_figures_follow_from_the_order(tmp_path):
    """Two prompts with two completions a step; one prompt of the first step earns the same twice."""
    path = tmp_path / "generations.jsonl"
    earned = [("a", 1.0), ("b", 0.0), ("a", 1.0), ("b", 1.0), ("c", 0.0), ("c", 1.0), ("d", 0.0), ("d", 1.0)]
    rows = [{"id": i, "output": "", "reference": "A", "reward": r, "single_choice": r} for i, r in earned]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = generations.by_step(generations.number(path, 4))
    assert found[1] == {"train/reward_single_choice": 0.75, "train/zero_variance_share": 0.5}
    assert found[2] == {"train/reward_single_choice": 0.5, "train/zero_variance_share": 0.0}
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1] * 4 + [2] * 4
    assert generations.by_step(generations.number(tmp_path / "none.jsonl", 4)) == {}


def test_a_folder_of_two_parts_is_not_taken_for_a_name_on_the_hub(tmp_path):
    """The engine counts the parts: utils/util.py:111 of cosmos-rl 0.4.7."""
    config = Config.load("configs/tiny_sft.toml")
    assert config["policy.model_name_or_path"] == "models/tiny-base"
    local = launch.as_launched(config, tmp_path)["policy.model_name_or_path"]
    assert local == "./models/tiny-base" and (ROOT / local).is_dir()
    absolute = config.edit({"policy.model_name_or_path": str(tmp_path)})
    assert launch.as_launched(absolute, tmp_path)["policy.model_name_or_path"] == str(tmp_path)
    hub = config.edit({"policy.model_name_or_path": "nvidia/Cosmos-Reason1-7B"})
    assert launch.as_launched(hub, tmp_path)["policy.model_name_or_path"] == "nvidia/Cosmos-Reason1-7B"
    resolve = pytest.importorskip("cosmos_rl.utils.util").resolve_model_path
    assert resolve(f"{local}:none.json").endswith("models/tiny-base/none.json")


def test_memory_is_reported_only_where_a_gpu_is_used():
    assert metrics.memory() == {}
