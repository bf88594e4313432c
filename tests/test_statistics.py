"""Intervals, the paired test and the two scores without a model, against values worked out by hand."""

import math
import random

import pytest

from cookbook.statistics import chance, interval, majority, paired


def answers(right: int, wrong: int) -> list[bool]:
    return [True] * right + [False] * wrong


def table(won: int, lost: int, both: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Answers before and after with these four counts."""
    before = [False] * won + [True] * lost + [True] * both + [False] * neither
    after = [True] * won + [False] * lost + [True] * both + [False] * neither
    return before, after


# Intervals


@pytest.mark.parametrize(
    ("right", "wrong", "low", "high"),
    [
        (8, 2, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),  # z² / (n + z²), and not the empty interval of the naive formula
        (10, 0, 0.7225, 1.0),
        (50, 50, 0.4038, 0.5962),
    ],
)
def test_wilson_interval_of_known_counts(right, wrong, low, high):
    assert interval(answers(right, wrong)) == pytest.approx((low, high), abs=5e-5)


def test_interval_is_wilsons_formula():
    z, n, share = 1.6448536, 40, 29 / 40
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert interval(answers(29, 11), level=0.9) == pytest.approx((middle - half, middle + half), abs=1e-6)


@pytest.mark.parametrize("right", [0, 1, 17, 99, 100])
def test_interval_holds_the_share_and_narrows_with_more_answers(right):
    low, high = interval(answers(right, 100 - right))
    assert 0 <= low <= right / 100 <= high <= 1
    fine_low, fine_high = interval(answers(10 * right, 1000 - 10 * right))
    assert fine_high - fine_low < high - low


def test_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one answer"):
        interval([])


# The paired test


def test_mcnemar_of_ten_won_and_two_lost():
    found = paired(*table(won=10, lost=2, both=30, neither=8))
    assert (found.won, found.lost, found.both, found.neither) == (10, 2, 30, 8)
    assert found.difference == pytest.approx(8 / 50)
    # 2 · (C(12,0) + C(12,1) + C(12,2)) / 2¹² = 158 / 4096
    assert found.p == pytest.approx(158 / 4096)


def test_p_comes_from_the_items_on_which_the_models_disagree():
    assert paired(*table(10, 2, 0, 0)).p == paired(*table(10, 2, 500, 300)).p


def test_equal_models_give_p_one():
    same = answers(5, 5)
    assert paired(same, same).p == 1.0
    assert paired(*table(4, 4, 1, 1)).p == 1.0


def test_the_reverse_comparison_swaps_signs_and_counts():
    random.seed(0)
    before, after = (random.choices([True, False], k=60) for _ in range(2))
    there, back = paired(before, after), paired(after, before)
    assert (there.won, there.lost) == (back.lost, back.won)
    assert there.difference == -back.difference
    assert there.p == back.p


def test_the_difference_is_that_of_the_accuracies():
    before, after = table(7, 3, 5, 6)
    assert paired(before, after).difference == pytest.approx((sum(after) - sum(before)) / 21)


@pytest.mark.parametrize(
    ("before", "after", "says"), [([True], [True, False], "1 before and 2 after"), ([], [], "none")]
)
def test_unpaired_answers_are_refused(before, after, says):
    with pytest.raises(ValueError, match=says):
        paired(before, after)


# Scores without a model


def rows(task: str, references: str, options: str = "ABCD") -> list[dict]:
    return [{"id": f"{task}{i}", "task": task, "reference": r, "options": list(options)}
            for i, r in enumerate(references)]  # fmt: skip


def test_chance_is_the_mean_over_the_items():
    assert chance(rows("cause", "ABC") + rows("collision", "Y", options="YN")) == (3 * 0.25 + 0.5) / 4


def test_majority_learns_on_training_rows_task_by_task():
    train = rows("cause", "AAB") + rows("collision", "NNY")
    # cause: always A, one of four right; collision: always N, two of three right
    assert majority(rows("cause", "ABBB") + rows("collision", "NYN"), train) == 3 / 7


def test_majority_does_not_depend_on_the_order_of_ties():
    items = rows("cause", "ABBB")
    assert majority(items, rows("cause", "AB")) == majority(items, rows("cause", "BA")) == 1 / 4


def test_baselines_name_what_they_lack():
    with pytest.raises(ValueError, match="rules"):
        majority(rows("rules", "Y"), rows("cause", "A"))
    with pytest.raises(ValueError, match="cause0"):
        chance(rows("cause", "A", options=""))
    for refused in (lambda: chance([]), lambda: majority([], rows("cause", "A"))):
        with pytest.raises(ValueError, match="at least one row"):
            refused()
