"""What a training leaves: metrics merged by step, completions numbered by step and worked out into figures."""

import json
from dataclasses import replace

import pytest
import torch

from cookbook.display import plots
from cookbook.engine import records
from cookbook.engine.reward_calls import EngineReward, reference_text
from cookbook.runs import ROOT, read_metrics

ASSETS = ROOT / "tests/assets/engine"


def test_recorded_metrics_merge_by_step_and_draw(tmp_path):
    sft = records.read_engine_metrics(ASSETS / "metrics_sft.jsonl")
    assert [row["step"] for row in sft] == list(range(1, 13))
    assert {row["step"] for row in sft if "val/avg_loss" in row} == {6, 12}
    assert all({"train/loss_avg", "optimizer/grad_norm", "optimizer/lr"} <= row.keys() for row in sft)
    lines = plots.sft_curve(sft).axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [12, 2]
    assert lines[1].get_ydata()[1] == pytest.approx(1.5497, 1e-4)
    rl = records.read_engine_metrics(ASSETS / "metrics_grpo.jsonl")
    assert [row["step"] for row in rl] == list(range(1, 9)) and "optimizer/grad_norm" in rl[0]
    titles = {ax.get_title("left"): bool(ax.lines) for ax in plots.rl_curves(rl).axes}
    drawn = {"reward", "KL to the SFT model", "entropy (nats per token)", "completion length (tokens)", "policy loss"}
    assert {title for title, has in titles.items() if has} == drawn


def test_reports_are_appended_as_numbers_and_never_stop_a_training(tmp_path, monkeypatch):
    path = tmp_path / "engine.jsonl"
    monkeypatch.delenv("COOKBOOK_METRICS", raising=False)
    records.log_metrics({"a": 1}, 1)
    assert not path.exists()
    monkeypatch.setenv("COOKBOOK_METRICS", str(path))
    records.log_metrics({"train/grad_norm": torch.tensor(2.5), "train/learning_rate": 1e-6, "name": "x", "on": True,
                         "many": torch.ones(2), "n": 3}, 1)  # fmt: skip
    records.log_metrics({"train/loss_avg": 0.5}, 2)
    records.log_metrics({"val/avg_loss": 0.7}, 2)
    records.log_metrics({"train/loss_avg": 0.4}, 2)  # reported again, by a resumed run
    rows = read_metrics(path)
    assert rows[0] == {"step": 1, "optimizer/grad_norm": 2.5, "optimizer/lr": 1e-6, "n": 3} and len(rows) == 4  # no GPU
    assert records.read_engine_metrics(path)[1] == {"step": 2, "train/loss_avg": 0.4, "val/avg_loss": 0.7}
    records.log_metrics({"val/reward_avg": 0.6}, 3, held_out="val/accuracy")
    assert read_metrics(path)[-1] == {"step": 3, "val/accuracy": 0.6}
    monkeypatch.setenv("COOKBOOK_METRICS", str(tmp_path / "no" / "folder"))
    records.log_metrics({"a": 1}, 1)
    records.log_metrics(None, "x")


def test_the_reward_keeps_each_completion_where_it_is_asked_to(tmp_path, monkeypatch, samples, contract):
    kept = tmp_path / "generations.jsonl"
    monkeypatch.setenv(records.COMPLETIONS_TO, str(kept))
    pays = EngineReward({"single_choice": 1.0, "format": 0.1}, contract)
    pays(samples[0].target, reference_text(samples[0]))
    replace(pays, keeps=False)(samples[0].target, reference_text(samples[0]))  # validation
    (row,) = map(json.loads, kept.read_text().splitlines())
    assert row["id"] == samples[0].id and row["output"] == samples[0].target
    assert (row["reward"], row["single_choice"], row["format"]) == (pytest.approx(1.1), 1.0, 1.0)


def test_without_a_file_nothing_is_kept(monkeypatch):
    monkeypatch.delenv(records.COMPLETIONS_TO, raising=False)
    records.append_row(records.COMPLETIONS_TO, {"id": "a"})
    monkeypatch.setenv(records.COMPLETIONS_TO, "/no/such/folder/x.jsonl")
    records.append_row(records.COMPLETIONS_TO, {"id": "a"})  # a training must not end here


def test_steps_and_figures_follow_from_the_order(tmp_path):
    """Two prompts with two completions a step; one prompt of the first step earns the same twice."""
    path, metrics = tmp_path / "generations.jsonl", tmp_path / "metrics.jsonl"
    earned = [("a", 1.0), ("b", 0.0), ("a", 1.0), ("b", 1.0), ("c", 0.0), ("c", 1.0), ("d", 0.0), ("d", 1.0)]
    rows = [{"id": i, "output": "", "reference": "A", "reward": r, "single_choice": r} for i, r in earned]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics.write_text("".join(json.dumps({"step": step, "n": 7}) + "\n" for step in (1, 2, 3)))
    records.add_completions(tmp_path, 4)
    assert read_metrics(tmp_path) == [
        {"step": 1, "n": 7, "train/reward_single_choice": 0.75, "train/zero_variance_share": 0.5},
        {"step": 2, "n": 7, "train/reward_single_choice": 0.5, "train/zero_variance_share": 0.0},
        {"step": 3, "n": 7},  # nothing was rewarded
    ]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1] * 4 + [2] * 4
    path.write_text("")
    before = metrics.read_text()
    records.add_completions(tmp_path, 4)
    assert metrics.read_text() == before and path.read_text() == ""
