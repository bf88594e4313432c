"""Rewards: small pure functions from a completion and its sample to a number in 0..1, and their weighted sum.

Why: a reward is the definition of the task. It reads answers with the contract's parser, so that the prompt asks for
what the reward pays for, and both engines call the same functions. `single_choice` and `format` are cosmos-rl's names,
and differ from its own where `tests/training/test_rewards.py` has a table: "(A)" and "A." state A here, and a bare
"A" without tags states nothing.

    reward(completion, sample, {"single_choice": 1.0, "format": 0.1}, contract).parts
    require_gold(samples, weights, contract)    # RewardError where a right answer cannot earn full marks
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cookbook.config import Config, ConfigError, Issue
from cookbook.data.answers import choose
from cookbook.data.contract import Contract
from cookbook.data.quantities import common_words, iou, number, span, words_of
from cookbook.data.samples import Sample

WEIGHTS, OVERLONG = "train.train_policy.reward_function", "overlong"
TOLERANCE = 0.05  # of the reference, where the sample's `extra` states no absolute "tolerance"
OVERLONG_KEYS = "train.train_policy.overlong_reward"
LONGEST = 512  # words, where no written answer says how long one is
NEAR = {0: 1.0, 1: 0.5}  # by distance on the scale; Cosmos cookbook, recipe "video rewards"
YES_NO = {"yes": True, "true": True, "no": False, "false": False}
SLACK = 1e-6  # a sum of floats is not exact
Weights = Mapping[str, float]  # by the names of PARTS, and OVERLONG


class RewardError(ValueError):
    """A reward that cannot work with these samples; the message names the part and the samples."""


@dataclass(frozen=True)
class Reward:
    """What a completion earned: the weighted total, and each part before its weight."""

    total: float
    parts: dict[str, float]


def single_choice(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 where the stated answer is the reference, else 0.0."""
    stated = contract.read(completion, sample)
    return float(stated is not None and stated == sample.answer)


def well_formed(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 for exactly the form that the contract's prompt asks for, else 0.0."""
    return float(contract.is_well_formed(completion))


def binary(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 where answer and reference both say yes, or both no; "true" and "false" count as such."""
    said, right = _both(_yes, completion, sample, contract)
    return float(said is not None and said == right)


def ordinal(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0, 0.5 or 0.0 for a distance of 0, 1 or more: places in the options, or whole numbers without them."""
    if sample.options:
        stated = contract.read(completion, sample)
        if stated is None or sample.answer not in sample.options:
            return 0.0
        return NEAR.get(abs(sample.options.index(stated) - sample.options.index(sample.answer)), 0.0)
    said, right = _both(number, completion, sample, contract)
    return 0.0 if None in (said, right) else NEAR.get(abs(said - right), 0.0)


def numeric(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 where the answer states one number, and that within the tolerance of the reference."""
    said, right = _both(number, completion, sample, contract)
    return float(
        None not in (said, right) and abs(said - right) <= sample.extra.get("tolerance", TOLERANCE * abs(right))
    )


def span_iou(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns seconds in both stated span and reference / seconds in either; 0.0 where `quantities.span` reads none."""
    return iou(*_both(span, completion, sample, contract))


def rouge_l(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns ROUGE-L F1 of answer and reference: their longest common subsequence of words (Lin 2004).

    Of both no more than 4 * LONGEST words are compared; those behind them count as not shared.
    """
    said, right = _both(words_of, completion, sample, contract)
    common = common_words(said[: 4 * LONGEST], right[: 4 * LONGEST])
    return 2 * common / (len(said) + len(right)) if common else 0.0


def length(completion: str, sample: Sample, contract: Contract) -> float:
    """Returns 1.0 up to twice the words of the written answer, or LONGEST, and then less: 0.0 at twice that.

    A penalty for long completions, written as something to earn; `overlong` is one in tokens.
    """
    limit = max(2 * len(sample.target.split()), 32) if sample.target else LONGEST
    return min(1.0, max(0.0, 2 - len(completion.split()) / limit))


PARTS: dict[str, Callable[[str, Sample, Contract], float]] = {
    "single_choice": single_choice,
    "format": well_formed,
    "binary": binary,
    "ordinal": ordinal,
    "numeric": numeric,
    "span_iou": span_iou,
    "rouge_l": rouge_l,
    "length": length,
}
ENGINE_PARTS = ("direct_math", "boxed_math", "single_choice", "gsm8k", "format", OVERLONG)  # of cosmos-rl 0.4.7


def overlong(tokens: int, limit: int, buffer: int, factor: float = 1.0) -> float:
    """Returns what a completion loses for its tokens: nothing up to `limit - buffer`, then ever more, −factor at most.

    DAPO's soft overlong punishment (Yu et al. 2025, arXiv:2503.14476, eq. 13). The one part that is no pay, and that
    the words do not tell: who names it gives the table `train.train_policy.overlong_reward` a `buffer_length`.
    """
    return factor * max(-1.0, min(0.0, (limit - buffer - tokens) / buffer))


def reward(completion: str, sample: Sample, weights: Weights, contract: Contract, lost: float = 0.0) -> Reward:
    """Returns the reward of one completion. Raises KeyError for a part that does not exist.

    `lost` is the part `overlong`, where the weights name it.
    """
    parts = {name: lost if name == OVERLONG else PARTS[name](completion, sample, contract) for name in weights}
    return Reward(sum(weights[name] * value for name, value in parts.items()), parts)


def penalty(completion: str, config: Config, tokenizer) -> float:
    """Returns `overlong` of a completion by the configuration's keys, 0.0 where its weights do not name it."""
    if OVERLONG not in reward_weights(config):
        return 0.0
    return overlong(
        count_tokens(completion, tokenizer), config["rollout.max_response_length"],
        config[f"{OVERLONG_KEYS}.buffer_length"], config[f"{OVERLONG_KEYS}.penalty_factor"],
    )  # fmt: skip


def count_tokens(completion: str, tokenizer) -> int:
    """Returns the tokens of the words, without the end token, as cosmos-rl counts them."""
    return len(tokenizer.encode(completion, add_special_tokens=False))


def check_parts(config: Config, engine: bool = False) -> Iterator[Issue]:
    """Yields parts that are not here, weights that pay nothing, and an `overlong` that punishes every completion.

    With `engine`, cosmos-rl's own parts count too: it takes all of them from one side or the other.
    """
    weights, key = reward_weights(config), f"{OVERLONG_KEYS}.buffer_length"
    unknown, limit = weights.keys() - PARTS.keys() - {OVERLONG}, config["rollout.max_response_length"]
    if unknown and not (engine and weights.keys() <= {*ENGINE_PARTS}):
        words = f"names {', '.join(sorted(unknown))}, which is none of {', '.join([*PARTS, OVERLONG])}"
        helps = "write the part in cookbook/training/rewards.py, or run cosmos-rl where it has it"
        yield Issue(config.line(WEIGHTS), WEIGHTS, f"{words}; {helps}")
    if full_marks(weights) <= 0 or config.stated.get(WEIGHTS) in ("", []):
        yield Issue(config.line(WEIGHTS), WEIGHTS, "pays for nothing; give a part a weight above 0")
    if OVERLONG in weights and not 0 < config[key] < limit:
        words = f"is {config[key]}, which does not lie between 0 and rollout.max_response_length = {limit}"
        yield Issue(config.line(key), key, f"{words}; completions lose reward on the last buffer_length tokens")


def require_parts(config: Config) -> None:
    """Raises ConfigError for what `check_parts` finds."""
    if wrong := next(check_parts(config), None):
        raise ConfigError(f"{config.name}:{wrong}")


def reward_weights(config: Config) -> dict[str, float]:
    """Returns name → weight of the key `train.train_policy.reward_function`, which may be a name, a list or a table."""
    stated = config.table(WEIGHTS) or config[WEIGHTS] or ["single_choice"]  # the engine's default
    names = [stated] if isinstance(stated, str) else stated
    return dict(stated) if isinstance(stated, dict) else dict.fromkeys(names, 1.0)


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
    paid = ((name, value) for name, value in earned.parts.items() if weights[name] > 0 and name != OVERLONG)
    poor = ", ".join(f"{name} {value:g}" for name, value in paid if value < 1)
    names = ", ".join(s.id for s, _ in failures[:5]) + (", …" if len(failures) > 5 else "")
    raise RewardError(
        f"{len(failures)} of {len(samples)} samples ({names}): the right answer earns {earned.total:g} of "
        f"{full_marks(weights):g}. For {sample.id}, {gold(sample, contract)!r} earns {poor}. Make prompt, answers and "
        "reward_function agree: no rollout could be better than that"
    )


def are_ours(config: Config) -> bool:
    """Returns whether a configuration is for GRPO and names only parts that are here."""
    return config.kind == "grpo" and reward_weights(config).keys() <= {*PARTS, OVERLONG}


def _both(read: Callable[[str], Any], completion: str, sample: Sample, contract: Contract) -> tuple[Any, Any]:
    """Returns what `read` finds in the stated answer, and in the sample's: the right one, else that of the target."""
    right = contract.read_answer(sample.target or "") if sample.answer is None else sample.answer
    return read(contract.read_answer(completion) or ""), read(right or "")


def _yes(words: str) -> bool | None:
    """Returns whether the words say yes (or true); None where they say neither, or both."""
    said = {YES_NO[word] for pair in (("yes", "no"), ("true", "false")) if (word := choose(words, pair))}
    return said.pop() if len(said) == 1 else None
