"""The tips as measured facts: runs that differ in one thing, and figures that follow from what was logged."""

import pytest
from benchmarks import tips

from cookbook.config import Config
from data_tools import road_vqa

RESULT = {"loss": 0.1, "largest_norm": 2.0, "spikes": 0, "accuracy": 0.5, "tokens": 9.0, "answer_seconds": 1.0,
          "step_seconds": 0.5}  # fmt: skip


def found(**accuracy):
    """Results of all arms; `accuracy` by the arm's name, with _ for what is between the words."""
    names = {label: label.replace(", ", "_").replace(" ", "_") for label in tips.ARMS}
    return {label: RESULT | {"accuracy": accuracy.get(name, 0.5)} for label, name in names.items()}


def test_arms_differ_from_the_right_rate_in_one_thing():
    usual = tips.ARMS["right"]
    config = Config.load("configs/tiny_sft.toml").edit(usual.changes)
    for label, arm in tips.ARMS.items():
        base = label.split(",")[0]
        changed = {key for key in arm.changes if arm.changes[key] != config[key]} - (
            {tips.RATE} if base != "right" else set()
        )
        assert len(changed) + (arm.share != usual.share) + (arm.reasons != usual.reasons) == ("," in label), label


def test_a_bare_target_states_the_right_answer_and_no_reasoning(samples, contract):
    for sample in samples[:20]:
        target = tips.bare(sample, contract).target
        assert target.startswith("<think></think>") and contract.is_well_formed(target)
        assert contract.read_answer(target, sample.options) == sample.answer
        assert tips.bare(sample, contract).prompt == sample.prompt


def test_spikes_and_norms_are_those_of_the_log():
    losses = [1.0, 0.9, 0.8, 0.8, 0.7, 0.7, 2.0, 0.6, 0.5, 0.5]
    rows = [{"train/loss_avg": loss, "optimizer/grad_norm": i} for i, loss in enumerate(losses)]
    got = tips.learned(rows)
    assert got["spikes"] == 1 and got["largest_norm"] == 9
    assert got["loss"] == pytest.approx(sum(losses[-5:]) / 5)


def test_saving_often_costs_time_and_saving_seldom_costs_the_crash():
    costs = tips.saving(save=1.0, step=0.5)
    shares, lost = zip(*costs.values())
    assert list(shares) == sorted(shares, reverse=True) and list(lost) == sorted(lost)
    assert costs[1] == pytest.approx((1 / 1.5, 0.25))


def test_a_subset_that_misleads_is_told():
    same = found(low=0.3, right=0.8, high=0.2, low_quarter=0.4, right_quarter=0.6, high_quarter=0.3)
    other = same | {"low, quarter": RESULT | {"accuracy": 0.9}}
    told = [tips.rows(each, 0.1) for each in (same, other)]
    said = [{rows["same best rate by a quarter"], rows["same order"]} for rows in told]
    assert said == [{"True"}, {"False"}]
    assert set(tips.ARMS) < set(told[0]) and told[0]["right"].startswith("0.80, 9 tokens")


def test_an_arm_leaves_its_figures(runs, monkeypatch):
    monkeypatch.setitem(road_vqa.CLIPS, "train", 32)
    monkeypatch.setitem(road_vqa.CLIPS, "validation", 2)
    monkeypatch.setitem(road_vqa.CLIPS, "test", 4)
    got = tips.train("tips", "right, no reasoning", seed=0, steps=2, questions=8)
    assert got.keys() == RESULT.keys() and 0 <= got["accuracy"] <= 1 and got["loss"] > 0
