"""The criterion of the main job's controls on made-up answers: quiet on luck, loud for a leak and for blindness."""

import numpy as np
import pytest
from control_falls import LEVEL, LOOKS, above_guessing, lost

from cookbook.evaluation.statistics import interval

CLIPS, EACH = 120, 4
TASKS = {"all": {"chance": 0.5, "majority": 0.45}}


def answers(rng, accuracy: float, alike: float = 0.2) -> list[dict]:
    """Answers to four questions a clip; `alike` is the share that repeats what the clip's first answer was worth."""
    right = rng.random((CLIPS, EACH)) < accuracy
    right = np.where(rng.random((CLIPS, EACH)) < alike, right[:, :1], right)
    return [{"id": f"{c}-{q}", "group": str(c), "task": "all", "correct": bool(right[c, q])}
            for c in range(CLIPS) for q in range(EACH)]  # fmt: skip


def test_luck_alone_fails_few_sets_of_looks_where_an_interval_fails_many():
    rng, sets, failed, missed = np.random.default_rng(0), 150, 0, 0
    for _ in range(sets):
        looks = [answers(rng, 0.5) for _ in range(LOOKS)]
        failed += any(above_guessing(rows, TASKS) < LEVEL for rows in looks)
        missed += any(interval([row["correct"] for row in rows])[0] > 0.5 for rows in looks)
    assert failed / sets < 0.09 and missed / sets > 0.2


@pytest.mark.parametrize(("accuracy", "share"), [(0.58, 0.7), (0.60, 0.9), (0.65, 1.0)])
def test_a_leak_is_found(accuracy, share):
    rng = np.random.default_rng(1)
    found = [above_guessing(answers(rng, accuracy, alike=0), TASKS) < LEVEL for _ in range(60)]
    assert np.mean(found) >= share


def test_the_figure_that_lay_on_the_edge_is_no_leak():
    rows = answers(np.random.default_rng(2), 0.0)[:424]
    for i in np.random.default_rng(3).permutation(424)[:233]:  # .55 of 424 questions, as measured
        rows[i]["correct"] = True
    assert above_guessing(rows, TASKS) > LEVEL and interval([row["correct"] for row in rows])[0] > 0.5


@pytest.mark.parametrize("accuracy", [0.5, 0.88])
def test_a_model_that_ignores_its_clips_loses_nothing(accuracy):
    rng = np.random.default_rng(4)
    own = answers(rng, accuracy)
    assert lost(own, own) == 1.0
    pairs = [(answers(rng, accuracy), answers(rng, accuracy)) for _ in range(60)]
    assert np.mean([lost(*pair) < LEVEL for pair in pairs]) < 0.05
    assert all(lost(answers(rng, 0.88), answers(rng, 0.5)) < LEVEL for _ in range(20))
