"""Intervals, the paired test and the two scores without a model, against values worked out by hand."""

import math
import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from cookbook.evaluation import statistics
from cookbook.evaluation.statistics import (
    chance,
    clustered_interval,
    holm,
    interval,
    majority,
    needed_items,
    paired,
    paired_clustered,
    sign_flips,
)


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
    z, n, share = 1.9599640, 40, 29 / 40
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert interval(answers(29, 11)) == pytest.approx((middle - half, middle + half), abs=1e-6)


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
    assert chance(rows("cause", "A", options="") + rows("cause", "A", options="AB")) == 0.25
    for refused in (lambda: chance([]), lambda: majority([], rows("cause", "A"))):
        with pytest.raises(ValueError, match="at least one row"):
            refused()


# Effect and size


def test_effect_size_and_the_items_that_would_be_needed():
    found = paired(*table(won=15, lost=5, both=50, neither=30))
    assert found.g == 15 / 20 - 0.5
    # Connor: ((1.960·√0.2 + 0.8416·√(0.2 − 0.01)) / 0.1)² = (1.2434 / 0.1)² = 154.6
    # corrected: 154.6 / 4 · (1 + √(1 + 4 / 15.46))² = 174.02
    assert found.needed == needed_items(0.2, 0.1) == 175
    same = paired(*table(0, 0, 5, 5))
    assert same.g is None and same.needed is None
    assert needed_items(0.2, 0.05) > 3.5 * needed_items(0.2, 0.1)


def test_the_needed_items_have_the_promised_power():
    n, rng = needed_items(0.3, 0.15), np.random.default_rng(0)
    won, lost, _ = rng.multinomial(n, [0.225, 0.075, 0.7], size=2000).T
    counts = Counter((int(a), int(a + b)) for a, b in zip(won, lost) if a + b)
    found = sum(times for (a, both), times in counts.items() if binomtest(a, both).pvalue < 0.05)
    assert 0.8 <= found / counts.total() < 0.85


# Clips with several questions


def test_a_cluster_of_one_is_an_ordinary_bootstrap():
    right = [True] * 60 + [False] * 40
    low, high = clustered_interval(right, range(100))
    want = interval(right)
    assert low == pytest.approx(want[0], abs=0.02) and high == pytest.approx(want[1], abs=0.02)


def test_questions_about_one_clip_widen_the_interval():
    right = [i < 12 for i in range(20) for _ in range(5)]  # five questions a clip, all right or all wrong
    low, high = clustered_interval(right, [i for i in range(20) for _ in range(5)])
    narrow = interval(right)
    assert high - low > 1.7 * (narrow[1] - narrow[0])  # √5 without the ends' correction


def test_order_never_changes_a_clustered_figure():
    rng = np.random.default_rng(1)
    before, after, groups = rng.random(60) < 0.5, rng.random(60) < 0.7, [f"clip{i // 3}" for i in range(60)]
    mixed = rng.permutation(60)
    there = paired_clustered(before, after, groups)
    back = paired_clustered(before[mixed], after[mixed], [groups[i] for i in mixed])
    assert there == back
    assert clustered_interval(after, groups) == clustered_interval(after[mixed], [groups[i] for i in mixed])
    assert there.clusters == 20 and there.difference == pytest.approx(after.mean() - before.mean())


def test_the_sign_flip_test_of_five_clips_by_hand():
    # all five clips won: of 32 sign patterns two are as extreme, so p is near 1/16
    assert sign_flips([1] * 5, range(5), draws=20000) == pytest.approx(2 / 32, abs=0.01)
    found = paired_clustered([0] * 5, [1] * 5, range(5))
    assert found.p == pytest.approx(2 / 32, abs=0.02) and found.difference == 1
    assert paired_clustered([1] * 5, [1] * 5, range(5)).p == 1.0


def test_a_comparison_is_the_interval_and_the_flips_of_the_differences():
    rng, groups = np.random.default_rng(3), [f"clip{i // 2}" for i in range(30)]
    before, after = rng.random(30), rng.random(30)  # any score, not only right or wrong
    found = paired_clustered(before, after, groups)
    assert found.ci95 == clustered_interval(after - before, groups) and found.clusters == 15
    assert found.p == sign_flips(after - before, groups)
    sums = [(after - before)[[2 * i, 2 * i + 1]].sum() for i in range(15)]
    signs = 2 * (np.arange(2**15)[:, None] >> np.arange(15) & 1) - 1  # every pattern there is
    exact = (abs(signs @ sums) >= abs(sum(sums)) - 1e-9).mean()
    assert found.p == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("values", [[1], [0, 1, 1], [0.25]])
def test_one_clip_and_equal_clips_have_an_interval_of_nothing(values):
    mean = sum(values) / len(values)
    assert clustered_interval(values, ["a"] * len(values)) == (mean, mean)
    assert clustered_interval([1.0] * 8, list("aabbccdd")) == (1.0, 1.0)
    assert sign_flips(values, ["a"] * len(values)) == 1.0


def test_many_clips_are_drawn_in_parts_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(4)
    values, groups = rng.random(200), range(200)
    whole = clustered_interval(values, groups)
    monkeypatch.setattr(statistics, "VALUES", 200 * 64)
    assert clustered_interval(values, groups) == whole
    assert 0 < sign_flips(values - 0.5, groups) < 1


def test_clustered_figures_name_what_they_lack():
    for refused, says in (
        (lambda: clustered_interval([], []), "at least one"),
        (lambda: clustered_interval([1], ["a", "b"]), "1 answers and 2 groups"),
        (lambda: paired_clustered([1], [1, 0], ["a"]), "1 before and 2 after"),
    ):
        with pytest.raises(ValueError, match=says):
            refused()


# Does 95 % mean 95 %? Two thousand data sets of which the truth is known.


@pytest.mark.parametrize(("n", "share"), [(60, 0.4), (120, 0.75), (300, 0.6), (300, 0.9)])
def test_wilson_covers_the_truth_as_often_as_it_says(n, share):
    right = np.random.default_rng(n).binomial(n, share, size=2000)
    ends = {k: interval([True] * k + [False] * (n - k)) for k in set(right.tolist())}
    covered = np.mean([ends[k][0] <= share <= ends[k][1] for k in right.tolist()])
    assert 0.93 <= covered <= 0.97


def correlated(rng, clips: int, questions: int, share: float) -> np.ndarray:
    """Right answers (clips, questions): each clip has its own difficulty, so its answers go together."""
    return rng.random((clips, questions)) < rng.beta(2 * share, 2 * (1 - share), size=(clips, 1))


def test_the_clustered_interval_covers_the_truth_and_wilson_does_not():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(60), 5)
    wilson = cache(lambda n: interval(answers(n, 300 - n)))
    hits = {"clustered": 0, "wilson": 0}
    for _ in range(2000):
        right = correlated(rng, 60, 5, 0.6).ravel()
        for name, (low, high) in {
            "clustered": clustered_interval(right, groups, draws=400), "wilson": wilson(int(right.sum()))
        }.items():  # fmt: skip
            hits[name] += low <= 0.6 <= high
    assert 0.93 <= hits["clustered"] / 2000 <= 0.97
    assert hits["wilson"] / 2000 < 0.90


def test_the_interval_of_a_difference_covers_the_true_one():
    rng, groups, covered = np.random.default_rng(1), np.repeat(np.arange(60), 4), 0
    for _ in range(2000):
        ease = rng.beta(1.2, 0.8, size=(60, 1))
        before, after = rng.random((60, 4)) < ease * 0.8, rng.random((60, 4)) < ease
        low, high = clustered_interval(after.ravel() * 1.0 - before.ravel(), groups, draws=200)
        covered += low <= 0.2 * 0.6 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_the_paired_tests_keep_their_level_where_the_models_are_equal():
    rng, groups = np.random.default_rng(2), np.repeat(np.arange(50), 4)
    alone, together = 0, 0
    for _ in range(2000):
        ease = rng.beta(1, 1, size=(200, 1))
        before, after = (rng.random((200, 1)) < ease).ravel(), (rng.random((200, 1)) < ease).ravel()
        alone += paired(before, after).p < 0.05
        # whole clips are won or lost at once
        first, second = correlated(rng, 50, 4, 0.5), correlated(rng, 50, 4, 0.5)
        together += sign_flips(second.ravel() * 1.0 - first.ravel(), groups, draws=400) < 0.05
    assert 0.02 < alone / 2000 <= 0.055  # the exact test stays below its level
    assert 0.035 <= together / 2000 <= 0.065


# Several looks


def test_holm_raises_by_what_else_was_looked_at_and_keeps_the_order():
    # by hand: 4 x 0.01, 3 x 0.02, then 2 x 0.02, which may not lie below the one before it, and 1 x 0.5
    raised = holm({"d": 0.5, "a": 0.01, "b": 0.02, "c": 0.02})
    assert raised == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    assert holm({"a": 0.03}) == {"a": 0.03} and holm({}) == {} and holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_of_six_equal_models_holm_calls_one_sure_by_luck_no_oftener_than_promised():
    rng = np.random.default_rng(0)
    looks = rng.uniform(size=(4000, 6))
    by_luck = np.mean([min(holm(dict(enumerate(row))).values()) < 0.05 for row in looks])
    assert by_luck < 0.06 < 0.25 < np.mean(looks.min(1) < 0.05)


# ---- as good but for a margin ---------------------------------------------------------------------------------------


def drawn(rng, clips, size, lost, won, together):
    """Returns (before, after, groups): questions of clips, lost and won with these chances, each or clip by clip."""
    change = rng.choice([-1, 1, 0], p=[lost, won, 1 - lost - won], size=(clips, 1 if together else size))
    change = np.broadcast_to(change, (clips, size)).ravel()
    return change < 0, change > 0, [str(i // size) for i in range(clips * size)]


@pytest.mark.parametrize("truth", [-0.3, -0.05, 0.0, 0.2])
def test_the_score_statistic_of_a_difference_is_tangos(truth):
    """Tango's closed form against the likelihood itself, maximised by a search under the same difference."""
    won, lost, n = 7, 12, 80
    before, after = [False] * won + [True] * lost + [True] * 61, [True] * won + [False] * lost + [True] * 61
    lost_share = np.linspace(max(0, -truth) + 1e-6, (1 - truth) / 2 - 1e-6, 2_000_001)
    likelihood = won * np.log(lost_share + truth) + lost * np.log(lost_share) + 61 * np.log(1 - 2 * lost_share - truth)
    q = lost_share[likelihood.argmax()]
    z = (won - lost - n * truth) / math.sqrt(n * (2 * q + truth - truth**2))
    if truth < 0:
        found = statistics.non_inferior(before, after, list(map(str, range(n))), -truth)
        assert found.p == pytest.approx(norm.sf(z), abs=1e-4)
    low, high = statistics.non_inferior(before, after, list(map(str, range(n)))).ci95
    assert (low < truth < high) == (abs(z) < 1.96)


@pytest.mark.parametrize(
    ("clips", "size", "together", "power"), [(200, 1, False, 0.8), (100, 4, False, 0.9), (100, 4, True, 0.3)]
)
def test_a_model_that_loses_the_margin_passes_one_time_in_forty_and_an_equal_one_mostly(clips, size, together, power):
    rng, runs = np.random.default_rng(0), 400
    passed = {
        truth: np.mean([
            statistics.non_inferior(*drawn(rng, clips, size, lost, won, together), margin=0.05).holds is True
            for _ in range(runs)
        ])
        for truth, lost, won in (("loses it", 0.065, 0.015), ("equal", 0.01, 0.01))
    }  # fmt: skip
    assert passed["loses it"] <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)
    assert passed["equal"] >= power


def test_few_questions_or_few_clips_show_nothing_even_without_a_change():
    same = [True] * 60
    assert statistics.non_inferior(same, same, list(map(str, range(60)))).holds is None  # 3.84 / 63.84 = 6 points
    assert statistics.non_inferior(same * 2, same * 2, list(map(str, range(120)))).holds is True
    assert statistics.non_inferior(same * 2, same * 2, [str(i // 4) for i in range(120)]).holds is None
    assert statistics.non_inferior([True] * 100, [True] * 40 + [False] * 60, list(map(str, range(100)))).holds is False
    for before, after in (([True], [False]), ([False] * 40, [True] * 40)):
        found = statistics.non_inferior(before, after, ["a"] * len(before)).ci95
        assert -1 <= found[0] <= found[1] <= 1
    n = statistics.non_inferior(same, same, list(map(str, range(60)))).needed  # just enough where nothing changes
    unchanged = {m: statistics.non_inferior([True] * m, [True] * m, list(map(str, range(m)))) for m in (n - 1, n)}
    assert [found.holds for found in unchanged.values()] == [None, True]
    with pytest.raises(ValueError, match="between 0 and 1: found 5"):
        statistics.non_inferior(same, same, same, margin=5)


def test_the_number_of_questions_it_names_is_enough():
    rng = np.random.default_rng(1)
    first = drawn(rng, 60, 1, 0.05, 0.05, False)
    needed = statistics.non_inferior(*first).needed
    found = [statistics.non_inferior(*drawn(rng, needed, 1, 0.05, 0.05, False)).holds for _ in range(200)]
    changed = sum(first[0]) + sum(first[1])
    assert np.mean([one is True for one in found]) >= (0.75 if changed >= 6 else 0.5)
