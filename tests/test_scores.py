"""Scores count what the rows say, and models are compared on the same items or not at all."""

import random
from dataclasses import asdict

import pytest

from cookbook.scores import compare, score
from cookbook.statistics import interval, paired


def row(i: int, correct: bool, task: str = "collision", well_formed: bool = True, **other) -> dict:
    """One prediction; the reference alternates."""
    options = ["Yes", "No"] if task == "collision" else ["A", "B", "C", "D"]
    item = {"id": f"clip_{i}/{task}", "group": f"clip_{i}", "task": task, "question": f"{task}?"}
    item |= {"options": options, "reference": options[i % 2]}
    return {**item, "correct": correct, "well_formed": well_formed, **other}


def rows(pattern: str, task: str = "collision") -> list[dict]:
    """Predictions from a picture of them: + right, - wrong, x wrong because it is not in the format."""
    return [row(i, mark == "+", task, well_formed=mark != "x") for i, mark in enumerate(pattern)]


TRAIN = [{"task": "collision", "reference": "No"}, {"task": "cause", "reference": "A"}]


def test_score_of_a_small_case():
    found = score(rows("++-x") + rows("+-", "cause"))
    assert found["n"] == 6
    assert found["accuracy"] == 3 / 6
    assert found["format_rate"] == 5 / 6
    assert found["ci95"] == list(interval([True] * 3 + [False] * 3))
    assert found["tasks"] == {
        "cause": {"n": 2, "accuracy": 1 / 2, "ci95": list(interval([True, False]))},
        "collision": {"n": 4, "accuracy": 2 / 4, "ci95": list(interval([True, True, False, False]))},
    }


def test_order_never_changes_a_score():
    items = rows("++-x+-+") + rows("+--+", "cause")
    shuffled = random.Random(0).sample(items, len(items))
    assert shuffled != items
    assert score(shuffled) == score(items)


def test_the_accuracy_is_the_mean_of_the_tasks_weighted_by_their_items():
    found = score(rows("++-x+-+") + rows("+--+", "cause"))
    parts = found["tasks"].values()
    assert sum(part["n"] for part in parts) == found["n"]
    right = sum(part["n"] * part["accuracy"] for part in parts)
    assert right == pytest.approx(found["n"] * found["accuracy"])


def test_compare_pairs_neighbours_in_the_order_given():
    patterns = {"base": "--+-", "sft": "+-+-", "rl": "+++-"}
    found = compare({name: rows(pattern) for name, pattern in patterns.items()}, TRAIN)
    assert list(found["models"]) == ["base", "sft", "rl"]
    assert found["models"]["sft"] == score(rows("+-+-"))
    assert list(found["paired"]) == ["sft_vs_base", "rl_vs_sft"]
    right = {name: [mark == "+" for mark in pattern] for name, pattern in patterns.items()}
    assert found["paired"]["rl_vs_sft"] == asdict(paired(right["sft"], right["rl"]))
    assert (found["paired"]["rl_vs_sft"]["won"], found["paired"]["rl_vs_sft"]["lost"]) == (1, 0)


def test_compare_gives_the_levels_without_a_model_for_all_and_by_task():
    found = compare({"base": rows("----") + rows("---", "cause")}, TRAIN)
    assert (found["n"], found["paired"]) == (7, {})
    assert found["chance"] == pytest.approx((4 / 2 + 3 / 4) / 7)
    # references alternate: "No" is right on 2 of 4 collisions, "A" on 2 of 3 causes
    assert found["majority"] == pytest.approx(4 / 7)
    assert found["tasks"] == {
        "cause": {"n": 3, "chance": 1 / 4, "majority": pytest.approx(2 / 3)},
        "collision": {"n": 4, "chance": 1 / 2, "majority": 1 / 2},
    }


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (rows("++")[::-1], "base and rl did not answer the same items: in row 1 the id is 'clip_0"),
        (rows("+"), "only base has row 2, 'clip_1/collision'"),
        (rows("+++"), "only rl has row 3, 'clip_2/collision'"),
        ([row(0, True), row(1, True, question="changed?")], "in row 2 the question is 'collision.' for base"),
        ([row(0, True, reference="No"), row(1, True)], "the reference is 'Yes' for base and 'No' for rl"),
    ],
)
def test_models_that_answered_different_items_are_refused(other, says):
    with pytest.raises(ValueError, match=says):
        compare({"base": rows("++"), "sft": rows("+-"), "rl": other}, TRAIN)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="no predictions"):
        score([])
    with pytest.raises(ValueError, match="no models"):
        compare({}, TRAIN)
    with pytest.raises(ValueError, match="at least one row"):
        compare({"base": []}, TRAIN)
