"""What always giving the same answer earns, and how near a model has come to that."""

import pytest

from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text
from cookbook.habits import constant_rewards, habit
from cookbook.runs import ROOT


def test_a_habit_is_the_most_frequent_answer_and_its_share():
    assert habit([{"answer": "4"}] * 20) == ("4", 1.0) and habit([{"answer": None}]) == (None, 1.0)


def test_what_a_constant_answer_earns():
    contract = Contract.load(ROOT / "configs/prompts/video_rewards_tiny.yaml")
    samples = [
        Sample(f"s{i}", f"s{i}", (message("user", text("?")),), s, tuple("12345")) for i, s in enumerate("44435")
    ]
    earned = constant_rewards(samples, {"ordinal": 1.0}, contract)
    assert earned == pytest.approx({"1": 0.0, "2": 0.1, "3": 0.5, "4": 0.8, "5": 0.5})
    with pytest.raises(ValueError, match="same options"):
        constant_rewards([*samples, Sample("x", "x", samples[0].messages, "A", ("A", "B"))], {"ordinal": 1.0}, contract)
