"""Our rewards as cosmos-rl calls them: with one text of the sample, and its own configuration and tokenizer.

Why: both engines must pay the same, so the functions are those of `cookbook.training.rewards`. The engine hands a
reward nothing of a sample but one text: it is JSON of all that a reward reads. Each completion is kept for the run's
generations.jsonl, because the engine keeps none. Used by the loader files, through `data_tools.loading.engine.serve`.
"""

import json
from dataclasses import dataclass

from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text
from cookbook.engine.records import COMPLETIONS_TO, append_row
from cookbook.training.rewards import OVERLONG, RewardError, count_tokens, overlong, reward


def reference_text(sample: Sample) -> str:
    """Returns what a reward needs of a sample as one line of JSON: the one text that cosmos-rl hands to it."""
    known = {name: getattr(sample, name) for name in ("id", "question", "answer", "options", "target")}
    return json.dumps(known | {"extra": {k: v for k, v in sample.extra.items() if k == "tolerance"}})


def _sample(line: str | None) -> Sample:
    """Returns the sample of a `reference_text`, its question without clips. Raises RewardError for any other text."""
    try:
        found = json.loads(line)
        turns = {"user": found["question"], "assistant": found["target"]}
    except (ValueError, TypeError, KeyError):
        raise RewardError(f"the reference is {line!r}, not one that EngineDataset wrote for our rewards") from None
    messages = tuple(message(role, text(words)) for role, words in turns.items() if words is not None)
    return Sample(found["id"], "", messages, found["answer"], tuple(found["options"]), extra=found["extra"])


@dataclass(frozen=True)
class EngineReward:
    """A function for cosmos-rl's `reward_fns`; it takes the references of `reference_text`."""

    weights: dict[str, float]
    contract: Contract
    keeps: bool = True  # each completion for generations.jsonl

    def __call__(self, to_be_evaluated: str, reference: str | None = None, *_, **engine) -> tuple[float, dict]:
        """Returns (total, parts by the names of our metrics): the engine logs those as train/reward_NAME."""
        sample, lost = _sample(reference), 0.0
        if OVERLONG in self.weights:
            tokens, config = count_tokens(to_be_evaluated, engine["tokenizer"]), engine["config"]
            keys = config.train.train_policy.overlong_reward
            lost = overlong(tokens, config.rollout.max_response_length, keys.buffer_length, keys.penalty_factor)
        earned = reward(to_be_evaluated, sample, self.weights, self.contract, lost)
        if self.keeps:
            row = {"id": sample.id, "output": to_be_evaluated, "reference": sample.answer, "reward": earned.total}
            append_row(COMPLETIONS_TO, row | earned.parts)
        return earned.total, {f"reward_{name}": value for name, value in earned.parts.items()}
