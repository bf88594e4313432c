"""Whether a control falls to guessing, judged over all looks at the main job: two bases, three seeds, four controls.

Why: the interval of an accuracy misses its level by luck in one look of forty, so every second set of 24 would fail
though nothing leaks. Here each look is a one-sided test of "no better than guessing" by whole clips (the sums of a
clip's questions, each against the level of its own task: Student's t, since some hundred sums are near normal), at
0.05 / 24, so that all of them together are wrong in at most 5 of 100 sets (Bonferroni). Not to be above guessing is
not enough: a control must also have lost what the model has with its clip, by the same test of the difference; a
model that ignores its clips loses nothing. What stays above guessing by 8 points on 420 questions of 120 clips is
found 3 times in 4, by 10 points 9 times in 10 (`tests/test_control_falls.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from scipy.stats import ttest_1samp

from cookbook.evaluation.findings import guessing

BASES, SEEDS = ("models/tiny-base", "models/tiny-qwen3"), (0, 1, 2)
WITHOUT_CLIP, WITHOUT_ORDER = ("blind", "other clips"), ("shuffled frames", "single frame")
LOOKS = len(BASES) * len(SEEDS) * len(WITHOUT_CLIP + WITHOUT_ORDER)
LEVEL = 0.05 / LOOKS


def _above_zero(values: Iterable[tuple[str, float]]) -> float:
    """Returns p, one-sided, of a sum of (clip, value) that is no larger than 0 but by luck."""
    sums = defaultdict(float)
    for clip, value in values:
        sums[clip] += value
    p = float(ttest_1samp([*sums.values()], 0, alternative="greater").pvalue)
    return 1.0 if isnan(p) else p  # nothing differs


def above_guessing(asked: Sequence[Mapping], tasks: Mapping[str, Mapping]) -> float:
    """Returns p of answers so often right where guessing is all that is left; `tasks` has the levels of each."""
    return _above_zero((row["group"], row["correct"] - guessing(tasks[row["task"]])) for row in asked)


def lost(own: Sequence[Mapping], asked: Sequence[Mapping]) -> float:
    """Returns p of the fall from the answers with the own clip to those to the same questions without."""
    with_clip = {row["id"]: row["correct"] for row in own}
    return _above_zero((row["group"], float(with_clip[row["id"]]) - row["correct"]) for row in asked)
