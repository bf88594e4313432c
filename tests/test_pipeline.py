"""The job's steps: one folder a job, nothing of an earlier run passes for this one's."""

import pytest

from cookbook import pipeline
from cookbook.config import Config


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Jobs go to a temporary folder."""
    monkeypatch.setattr(pipeline, "RUNS", tmp_path)
    monkeypatch.setattr("cookbook.runs.RUNS", tmp_path)
    return tmp_path


def test_a_job_refuses_the_clips_of_another_seed(runs):
    pipeline.road_data("job", 0, {"train": 2, "validation": 1, "test": 1})
    assert pipeline.road_data("job", 0) == runs / "job" / "data"
    with pytest.raises(ValueError, match="seed 0, not 1"):
        pipeline.road_data("job", 1)


def test_the_share_of_reasoned_targets_is_kept_and_answers_stay_right(runs):
    pipeline.road_data("job", 0, {"train": 100, "validation": 1, "test": 1})
    careful, mixed = pipeline.samples("job", "train"), pipeline.samples("job", "train", reasoned=0.45)
    bare = sum("<think></think>" in s.target for s in mixed) / len(mixed)
    assert bare == pytest.approx(0.55, abs=0.08)
    assert [s.answer for s in careful] == [s.answer for s in mixed]
    assert not any("<think></think>" in s.target for s in careful)
    assert len({s.group for s in pipeline.samples("job", "train", clips=7)}) == 7


def test_a_shorter_run_replaces_the_exports_of_a_longer_one(runs):
    pipeline.road_data("job", 0, {"train": 8, "validation": 1, "test": 1})
    config = Config.load("configs/tiny_sft.toml").edit(
        {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "validation.enable": False}
    )
    long = pipeline.train_sft(config.edit({"train.max_num_steps": 2}), "job")
    short = pipeline.train_sft(config.edit({"train.max_num_steps": 1}), "job")
    assert (long.name, short.name) == ("step_2", "step_1")
    assert not long.exists()
