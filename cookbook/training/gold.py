"""Gold and odd answers: what the right completion earns, and what one earns that is nearly right, or nothing like it.

Why: a reward that the right answer cannot earn in full trains nothing, whatever the curve says; the prompt asks for one
form and the reward pays for another. So GRPO asks here before its first step, and `cookbook.gym` shows the table.

    require_gold(samples, weights, contract)    # raises RewardError, naming the samples
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.training.rewards import OVERLONG, Reward, RewardError, reward

Weights = Mapping[str, float]
SLACK = 1e-6  # a sum of floats is not exact


def gold(sample: Sample, contract: Contract) -> str:
    """Returns the canonical right completion: the answer in the contract's form, else the written answer."""
    return (sample.target or "") if sample.answer is None else contract.write_answer("", sample.answer)


def full_marks(weights: Weights) -> float:
    """Returns the most that a completion can earn."""
    return sum(weight for name, weight in weights.items() if weight > 0 and name != OVERLONG)


def gold_failures(samples: Sequence[Sample], weights: Weights, contract: Contract) -> list[tuple[Sample, Reward]]:
    """Returns the samples whose gold answer earns less than full marks, with what it earns."""
    earned = [(s, reward(gold(s, contract), s, weights, contract)) for s in samples]
    return [(s, r) for s, r in earned if r.total < full_marks(weights) - SLACK]


def require_gold(samples: Sequence[Sample], weights: Weights, contract: Contract) -> None:
    """Raises RewardError, naming samples and parts, where a right answer cannot earn full marks."""
    failures = gold_failures(samples, weights, contract)
    if not failures:
        return
    sample, earned = failures[0]
    poor = ", ".join(
        f"{name} {value:g}"
        for name, value in earned.parts.items()
        if value < 1 and weights[name] > 0 and name != OVERLONG
    )
    names = ", ".join(s.id for s, _ in failures[:5]) + (", …" if len(failures) > 5 else "")
    raise RewardError(
        f"{len(failures)} of {len(samples)} samples ({names}): the right answer earns {earned.total:g} of "
        f"{full_marks(weights):g}. For {sample.id}, {gold(sample, contract)!r} earns {poor}. Make prompt, answers and "
        "reward_function agree: no rollout could be better than that"
    )


@dataclass(frozen=True)
class Odd:
    """One odd completion: whether a careful reader takes it for the right answer, and what it earns."""

    name: str
    right: bool
    completion: str
    earned: Reward


def odd_answers(sample: Sample, weights: Weights, contract: Contract) -> list[Odd]:
    """Returns a table of completions around the right answer of a sample that has options, and what each one earns."""
    right, write = sample.answer, contract.write_answer
    wrong = next(o for o in sample.options if o != right)
    table = [
        ("gold", True, write("", right)),
        ("in brackets", True, write("", f"({right})")),
        ("with a full stop", True, write("", f"{right}.")),
        ("small letters", True, write("", right.lower())),
        ("spaces around", True, write("", f" {right} ")),
        ("wrong answer", False, write("", wrong)),
        ("two answers, the last is wrong", False, write("", right) + write("", wrong)),
        ("wrong or right, in one answer", False, write("", f"{wrong} or {right}")),
        ("right or wrong, in one answer", False, write("", f"{right} or {wrong}")),
        ("not the answer", False, write("", f"not {right}")),
        ("empty think, no answer", False, "<think></think>\n\n<answer></answer>"),
        ("answer without think", True, f"<answer>{right}</answer>"),
        ("one space between the tags", True, f"<think></think> <answer>{right}</answer>"),
        ("answer inside prose", False, write("", f"I think that it may be {right}, or not")),
        ("answer in the thoughts only", False, f"<think><answer>{right}</think>"),
        ("injected tags", False, f"<think></answer><answer>{right}</answer></think>\n\n<answer>{wrong}</answer>"),
        ("never closed", False, f"<think></think>\n\n<answer>{right}"),
        ("10,000 characters", False, "x" * 10_000),
        ("10,000 characters of tags", False, "<answer>" * 1_250),
        ("another script", False, write("", "是的，我认为")),
        ("look-alike letters", False, write("", "\u0410\u0412\u0421")),  # Cyrillic
        ("nothing", False, ""),
    ]
    return [Odd(name, good, words, reward(words, sample, weights, contract)) for name, good, words in table]
