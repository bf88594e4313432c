"""Held-out prompts during RL: their accuracy, the best step by it, and the same few answers over time.

Why: the reward that is trained on rises also when it is being gamed. What counts is the task's metric on prompts that
are not trained on, under greedy decoding, as in the evaluation; the export of the best step by that is never deleted.

    [validation]
    enable = true
    freq = 5                # steps; the last one is always measured

    generations_over_time("runs/tutorial/rl")     # rows for a table: one question, first, middle and last answer
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cookbook import runs
from cookbook.config import Config, ConfigError
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.model.generation import generate, to
from cookbook.runs import BEST, GENERATIONS, Run, read_jsonl, write_whole
from cookbook.training.rewards import penalty, reward, reward_weights

METRIC, PROBE = "val/accuracy", "probe"
BATCH = 64  # prompts a generate call, where validation.batch_size does not say


def answers(model, encoder: Encoder, samples: Sequence[Sample], limit: int, size: int = BATCH) -> list[str]:
    """Returns the greedy completion of each prompt, at most `limit` tokens long."""
    model.eval()
    texts = []
    for start in range(0, len(samples), size):
        out = generate(model, to(model, encoder.prompt_batch(list(samples[start : start + size]))), limit)
        texts += out.texts(encoder.tokenizer)
    return texts


class Validation:
    """What is asked of held-out prompts in one run: accuracy every `validation.freq` steps, and a few whole answers."""

    def __init__(
        self, config: Config, samples: Sequence[Sample], encoder: Encoder, run: Run, steps: int, probes: int
    ) -> None:
        """Raises ConfigError where validation is asked for and no sample has an answer to compare with."""
        self.config, self.samples, self.encoder, self.run, self.steps = config, list(samples), encoder, run, steps
        self.limit = config["validation.max_response_length"] or config["rollout.max_response_length"]
        self.size = config["validation.batch_size"] or BATCH
        self.every = config["validation.freq"] if config["validation.enable"] and self.samples else 0
        self.probes, self.times = self.samples[:probes], {0, steps // 2, steps}
        self.best = -1.0
        if config["validation.enable"] and not self.samples:
            run.log("validation.enable is set, but there are no validation samples: nothing is measured")
        if self.every and any(s.answer is None for s in self.samples):
            raise ConfigError(f"{config.name}: validation.enable needs samples with an answer to compare with")

    def look(self, model, step: int, values: dict[str, float] | None = None) -> bool:
        """Keep the probes' answers where it is time; add the accuracy to `values` where it is time for that.

        Returns whether the accuracy is higher than at any step before.
        """
        if self.probes and step in self.times:
            texts = answers(model, self.encoder, self.probes, self.limit, self.size)
            for sample, text in zip(self.probes, texts):
                lost = penalty(text, self.config, self.encoder.tokenizer)
                earned = reward(text, sample, reward_weights(self.config), self.encoder.contract, lost)
                self.run.keep_generations([
                    {"kind": PROBE, "step": step, "id": sample.id, "question": sample.question,
                     "reference": sample.answer, "output": text, "reward": earned.total, **earned.parts}
                ])  # fmt: skip
        if values is None or not self.every or not (step % self.every == 0 or step == self.steps):
            return False
        values[METRIC] = self.accuracy(model)
        improved = values[METRIC] > self.best
        self.best = max(self.best, values[METRIC])
        return improved

    def accuracy(self, model) -> float:
        texts = answers(model, self.encoder, self.samples, self.limit, self.size)
        read = self.encoder.contract.read
        return sum(read(text, s) == s.answer for text, s in zip(texts, self.samples)) / len(self.samples)

    def note_best(self, step: int, value: float) -> None:
        text = json.dumps({"step": step, "metric": METRIC, "value": value}) + "\n"
        write_whole(self.run.path / BEST, text.encode())


def best_step(run: str | Path) -> int | None:
    """Returns the step with the highest held-out accuracy, the first of equals; None without validation."""
    path = runs.path(run) / BEST
    return runs.read_json(path, ("step",))["step"] if path.is_file() else None


def generations_over_time(path: str | Path) -> list[dict]:
    """Returns one row a probe: id, question, reference, and "step N" → what it answered then.

    `path` is the run's folder or its generations.jsonl; a relative one counts from runs/.
    """
    path = runs.path(path)
    table: dict[str, dict] = {}
    file = path if path.suffix == ".jsonl" else path / GENERATIONS
    for number, row in enumerate(read_jsonl(file), start=1):
        if row.get("kind") == PROBE:
            if lacks := [key for key in ("id", "question", "reference", "step", "output") if key not in row]:
                raise ValueError(f"{file}: row {number} has no {', '.join(lacks)}; cut the row out")
            first = {key: row[key] for key in ("id", "question", "reference")}
            table.setdefault(row["id"], first)[f"step {row['step']}"] = row["output"]
    return list(table.values())
