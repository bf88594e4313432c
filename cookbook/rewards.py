"""Rewards: small pure functions from a completion and a reference to a number in 0..1, and their weighted sum.

Why: a reward is the definition of the task. It stands beside the contract's parser and uses it, so that the prompt
asks for what the reward pays for. Names are those of cosmos-rl (`single_choice`, `format`), whose own `single_choice`
compares the exact string where ours reads "(A)" and "A." as A.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cookbook.contract import Contract
from cookbook.samples import Sample


@dataclass(frozen=True)
class Reward:
    """What a completion earned: the weighted total, and each part before its weight."""

    total: float
    parts: dict[str, float]


def single_choice(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 where the stated answer is the reference, else 0.0."""
    return float(contract.read_answer(completion, sample.options) == sample.answer)


def well_formed(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 for exactly the form that the contract's prompt asks for, else 0.0."""
    return float(contract.is_well_formed(completion))


PARTS: dict[str, Callable[[str, Sample, Contract], float]] = {"single_choice": single_choice, "format": well_formed}


def reward(completion: str, sample: Sample, weights: Mapping[str, float], contract: Contract) -> Reward:
    """Returns the reward of one completion. Raises KeyError for a part that does not exist."""
    parts = {name: PARTS[name](completion, sample, contract) for name in weights}
    return Reward(sum(weights[name] * value for name, value in parts.items()), parts)
