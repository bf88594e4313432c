"""How sure a score is: intervals, paired tests, effect sizes, and the two scores that need no model.

Why: on a few hundred questions two models differ by some points through luck alone, so no accuracy stands without its
interval, and models that answered the same questions are compared pair by pair. `interval` and `paired` take questions
as independent; where a clip carries several, `clustered_interval` and `paired_clustered` draw whole clips, and are the
ones to believe. `cookbook.evaluation.scores` and evaluation.ipynb call it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, monte_carlo_test, norm

SURE = 0.05  # a difference counts below this p-value
DRAWS = 2000  # of a bootstrap: the ends of the interval then move by some tenths of a point with the seed
VALUES = 4_000_000  # drawn at once: some 100 MB


def interval(correct: Sequence[bool]) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval (low, high) of the share of right answers, both in [0, 1].

    Wilson (1927) is honest for small samples and for shares near 0 or 1. Raises ValueError where there is no answer.
    """
    if not len(correct):
        raise ValueError("an interval needs at least one answer, found none")
    found = binomtest(sum(map(bool, correct)), len(correct)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Paired:
    """Two models on the same items: counts of items, difference of the accuracies, McNemar's p-value."""

    won: int  # wrong before, right after
    lost: int  # right before, wrong after
    both: int  # right before and after
    neither: int  # wrong before and after
    difference: float  # accuracy after minus accuracy before, in [-1, 1]
    p: float  # chance of a difference at least this large if neither model were better
    g: float | None  # Cohen's g: share of won among the decided items, minus 1/2; 0.05 small, 0.15 medium, 0.25 large
    needed: int | None  # items for a test that finds this difference 8 times in 10; None where there is none


def paired(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """Compare two models that answered the same items in the same order, by the exact McNemar test.

    Were the models equally good, each item on which they disagree would be won or lost with probability 1/2 (McNemar
    1947; exact binomial form, two-sided). Raises ValueError where the lengths differ or nothing was answered.
    """
    if len(before) != len(after):
        raise ValueError(f"paired answers are needed: found {len(before)} before and {len(after)} after")
    if not len(before):
        raise ValueError("a comparison needs at least one item, found none")
    cells = Counter((bool(b), bool(a)) for b, a in zip(before, after))
    won, lost, both, neither = (cells[pair] for pair in ((False, True), (True, False), (True, True), (False, False)))
    decided, difference = won + lost, (won - lost) / len(before)
    p = float(binomtest(won, decided).pvalue) if decided else 1.0
    g = won / decided - 0.5 if decided else None
    return Paired(won, lost, both, neither, difference, p, g, needed_items(decided / len(before), difference))


def needed_items(decided: float, difference: float) -> int | None:
    """Returns how many paired items McNemar's test needs to find a difference of two accuracies 8 times in 10.

    `decided` is the share of items on which the models disagree; None where the difference is 0. Connor (1987),
    Biometrics 43:207-211, with Fleiss's correction for an exact test (1981).
    """
    if not difference:
        return None
    a, b = norm.ppf(1 - SURE / 2), norm.ppf(0.8)
    spread = a * math.sqrt(decided) + b * math.sqrt(max(decided - difference**2, 0))
    n = (spread / difference) ** 2
    return math.ceil(n / 4 * (1 + math.sqrt(1 + 4 / (n * abs(difference)))) ** 2)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Returns the p-values of several looks, by name, each raised for the others that were taken: at most 1.

    The smallest counts as often as there are looks, the next once less, and none below the one before it: so luck alone
    brings one below SURE in 5 of 100 such sets at most (Holm 1979, Scandinavian Journal of Statistics 6:65-70).
    """
    raised, least = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.get)):
        raised[name] = least = max(least, min(1.0, p[name] * (len(p) - place)))
    return raised


def _clusters(values: Sequence[float], groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns each group's sum and size, groups in sorted order, so that the order of the rows never matters."""
    if len(values) != len(groups):
        raise ValueError(f"every answer needs its group: found {len(values)} answers and {len(groups)} groups")
    if not len(values):
        raise ValueError("an interval needs at least one answer, found none")
    _, place = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return np.bincount(place, weights=np.asarray(values, dtype=float)), np.bincount(place)


def clustered_interval(values: Sequence[float], groups: Sequence[str], draws: int = DRAWS) -> tuple[float, float]:
    """Returns the 95 % bootstrap percentile interval (low, high) of a mean, clips drawn with all their questions.

    `values` may be right or wrong, or any score. Needs some thirty groups to be honest (Cameron et al. 2008), and says
    nothing (low = high) where all values are equal or all belong to one clip: there `interval` is the one to read.
    Raises ValueError for no or unpaired answers.
    """
    clusters = _clusters(values, groups)

    def mean(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / sizes.sum(axis)

    if len(clusters[0]) == 1:  # scipy refuses to redraw one
        return float(mean(*clusters)), float(mean(*clusters))
    how = {"paired": True, "vectorized": True, "method": "percentile", "batch": max(1, VALUES // len(clusters[0]))}
    found = bootstrap(clusters, mean, n_resamples=draws, rng=np.random.default_rng(0), **how).confidence_interval
    return float(found.low), float(found.high)


def sign_flips(differences: Sequence[float], groups: Sequence[str], draws: int = DRAWS) -> float:
    """Returns the p-value of a difference, two-sided: whole clips change their sign at random.

    Were two models equal, each sign would be as likely (Fisher's randomization test, the observed draw counted in).
    scipy's own `permutation_test` shuffles pair by pair: fifty times slower, for the same figure.
    """
    sums, _ = _clusters(differences, groups)
    moved, rng = sums[sums != 0], np.random.default_rng(0)

    def flipped(size: tuple[int, int]) -> np.ndarray:
        return moved * (rng.integers(0, 2, size=size, dtype=np.int8) * 2 - 1)

    def distance(sums: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(sums.sum(axis)).round(9)  # so that equal sums tie, whatever their order

    how = {"vectorized": True, "alternative": "greater", "batch": max(1, VALUES // max(1, len(moved)))}
    return float(monte_carlo_test(moved, flipped, distance, n_resamples=draws, **how).pvalue)


@dataclass(frozen=True)
class Clustered:
    """Two models on the same items, clip by clip: the difference of the means, its interval, and a p-value."""

    difference: float  # mean after minus mean before
    ci95: tuple[float, float]  # bootstrap over clips
    p: float  # sign-flip test over clips
    clusters: int


def paired_clustered(before: Sequence[float], after: Sequence[float], groups: Sequence[str]) -> Clustered:
    """Compare two models on the same items, which come in groups; for any score, not only right or wrong.

    Raises ValueError where the lengths differ or nothing was answered.
    """
    if len(before) != len(after):
        raise ValueError(f"paired answers are needed: found {len(before)} before and {len(after)} after")
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    ci95, p = clustered_interval(difference, groups), sign_flips(difference, groups)
    return Clustered(float(difference.mean()), ci95, p, clusters=len(set(map(str, groups))))


@dataclass(frozen=True)
class NonInferior:
    """Whether a model is as good as another but for a margin, on the same items."""

    difference: float  # accuracy after minus accuracy before, in [-1, 1]
    ci95: tuple[float, float]  # Tango's score interval of it, whole clips counted
    margin: float  # the loss that would be put up with
    p: float  # chance of so good a result if the loss were the margin
    needed: int  # items, as many to a clip, that show it 8 times in 10 where the two are equally good

    @property
    def holds(self) -> bool | None:
        """True where the whole interval lies above -margin, False where it lies below, None where it does neither."""
        return True if self.ci95[0] > -self.margin else False if self.ci95[1] < -self.margin else None


def non_inferior(
    before: Sequence[bool], after: Sequence[bool], groups: Sequence[str], margin: float = 0.05
) -> NonInferior:
    """Test whether a model loses less than a margin: one-sided at 2.5 %, the lower end of the 95 % interval.

    The interval is the score interval of a paired difference (Tango 1998, Statistics in Medicine 17:891-908), which
    holds its level where few answers change. Several questions about one clip count less, by the design effect (Rao and
    Scott 1992, Biometrics 48:577-585): n and the changes are divided by it. One clip more, lost as a whole, is counted
    in for it, so that few changes cannot pass as independent. Raises ValueError as `paired` does, or for the margin.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1: found {margin}")
    pair, n = paired(before, after), len(before)
    effect = _design_effect([int(a) - int(b) for b, a in zip(before, after)], groups)
    won, lost, items = pair.won / effect, pair.lost / effect, n / effect

    def distance(loss: float) -> float:
        """Returns the score statistic of a true difference: how far off it the found one lies, in deviations."""
        b = (2 * items - won + lost) * loss - won - lost
        q = (math.sqrt(max(b * b + 8 * items * lost * loss * (1 - loss), 0.0)) - b) / (4 * items)
        spread = items * (2 * q + loss * (1 - loss))
        return (won - lost - items * loss) / math.sqrt(max(spread, 1e-12))

    z, edge = norm.ppf(1 - SURE / 2), 1 - 1e-9
    low = brentq(lambda loss: distance(loss) - z, -edge, pair.difference) if pair.difference > -edge else -1.0
    high = brentq(lambda loss: distance(loss) + z, pair.difference, edge) if pair.difference < edge else 1.0
    changed = max(pair.won + pair.lost, 1) / n
    least = z**2 * (1 - margin) / margin  # below, not even no change at all would show it
    needed = math.ceil(effect * max((z + norm.ppf(0.8)) ** 2 * changed / margin**2, least))
    return NonInferior(pair.difference, (low, high), margin, float(norm.sf(distance(-margin))), needed)


def _design_effect(differences: Sequence[int], groups: Sequence[str]) -> float:
    """Returns how many items count as one: the variance by clips over that of independent items, at least 1."""
    sums, sizes = _clusters(differences, groups)
    values, mean, extra = np.asarray(differences, dtype=float), np.mean(differences), sizes.mean()
    by_clip = ((sums - sizes * mean) ** 2).sum() + extra**2
    return float(max(1.0, by_clip / (((values - mean) ** 2).sum() + extra)))


def chance(rows: Sequence[dict]) -> float:
    """Returns the accuracy of blind guessing, the mean of 1 / options (0 without any). ValueError for no rows."""
    if not rows:
        raise ValueError("the chance level needs at least one row, found none")
    return sum(1 / len(row["options"]) for row in rows if row["options"]) / len(rows)


def majority(rows: Sequence[dict], train_rows: Sequence[dict]) -> float:
    """Returns the accuracy on `rows` of always giving the most frequent training answer of the row's task.

    A model below it has learned less than the habit. Of equally frequent answers the first in sorted order counts.
    Raises ValueError where there are no rows, or a task has no training row.
    """
    if not rows:
        raise ValueError("the majority level needs at least one row, found none")
    counts: defaultdict[str, Counter] = defaultdict(Counter)
    for row in train_rows:
        counts[row["task"]][row["reference"]] += 1
    if missing := {row["task"] for row in rows} - counts.keys():
        raise ValueError(f"no training row has the task {', '.join(sorted(missing))}; found {sorted(counts)}")
    habit = {task: min(found, key=lambda answer: (-found[answer], str(answer))) for task, found in counts.items()}
    return sum(row["reference"] == habit[row["task"]] for row in rows) / len(rows)
