"""Habits: what always giving the same answer earns, and how near a model has come to that.

Why: where most labels are one score, a policy that looks at nothing is paid well, and RL finds it. Seen before a run,
as the reward of each constant answer, and after it, as the share of the most frequent one.

    constant_rewards(samples, {"ordinal": 1.0}, contract)    # {"1": 0.07, …, "4": 0.74, …}
    habit(rows)                                              # ("4", 0.79)
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.training.rewards import reward


def constant_rewards(samples: Sequence[Sample], weights: Mapping[str, float], contract: Contract) -> dict[str, float]:
    """Returns the mean reward of each constant answer. Raises ValueError where samples differ in their options."""
    options = {sample.options for sample in samples}
    if len(options) != 1 or not (common := next(iter(options))):
        raise ValueError("a constant answer needs samples with the same options")
    earned = {}
    for option in common:
        totals = [reward(contract.write_answer("", option), s, weights, contract).total for s in samples]
        earned[option] = sum(totals) / len(totals)
    return earned


def habit(rows: Sequence[Mapping]) -> tuple[str | None, float]:
    """Returns (most frequent answer, its share of all rows); None counts as an answer: what could not be read."""
    if not rows:
        raise ValueError("no predictions to look at")
    answer, count = Counter(row["answer"] for row in rows).most_common(1)[0]
    return answer, count / len(rows)
