"""Lessons of RL: small experiments with one thing changed, whose outcome is computed and holds for every seed.

Why: "mind the KL" and "balance your labels" are easily said. Here each is a pair of short runs that differ in one
thing, and a sentence that is checked. `rl.ipynb` explains them.

    python -m cookbook.lessons --seeds 0 1 2              # all lessons; the table of LOG.md
    python -m cookbook.lessons --only kl --seeds 0        # one of them
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cookbook import pipeline
from cookbook.config import Config
from cookbook.grpo import grpo
from cookbook.held_out import answers
from cookbook.runs import RUNS, Run
from cookbook.samples import Sample
from cookbook.tables import Table

STEPS = 12
LIMIT = 48  # new tokens of an answer
Rows = Sequence[Mapping[str, float]]
Result = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """One run: what is changed in configs/tiny_rl.toml, where it starts, which samples it gets."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    start: str = "sft"  # or "base"
    choose: Callable[[list[Sample]], list[Sample]] = list


@dataclass(frozen=True)
class Lesson:
    """Runs that differ in one thing, and what must come out: `holds` gets the result of each, by its name."""

    claim: str
    variants: Mapping[str, Variant]
    shows: tuple[str, ...]  # the figures that matter
    holds: Callable[[Mapping[str, Result]], bool]


def collisions(samples: list[Sample], yes: int, no: int) -> list[Sample]:
    """Returns yes/no questions about collisions, `yes` of every `yes + no` with that answer; as many in all cases."""
    asked = [s for s in samples if s.task == "collision"]
    pools = {label: [s for s in asked if s.answer == label] for label in ("Yes", "No")}
    total = min(len(pool) for pool in pools.values())
    return pools["Yes"][: total * yes // (yes + no)] + pools["No"][: total * no // (yes + no)]


FORM, TASK = {"format": 1.0}, {"single_choice": 1.0, "format": 0.1}
REWARD = "train.train_policy.reward_function"
HOT = {"train.optm_lr": 5e-4}
LESSONS = {
    "kl": Lesson(
        "Without a KL term the policy runs far from its start; with one it stays near.",
        {"kl_beta 0": Variant(HOT | {"train.train_policy.kl_beta": 0.0}),
         "kl_beta 0.2": Variant(HOT | {"train.train_policy.kl_beta": 0.2})},
        ("kl", "accuracy"),
        lambda found: found["kl_beta 0"]["kl"] > 2 * found["kl_beta 0.2"]["kl"],
    ),
    "group": Lesson(
        "The larger the group, the fewer groups in which all earn the same; the number of completions is equal.",
        {f"{g} completions": Variant({"rollout.n_generation": g}) for g in (2, 4, 8)},
        ("zero_variance", "accuracy"),
        lambda found: (found["2 completions"]["zero_variance"] > found["4 completions"]["zero_variance"]
                       > found["8 completions"]["zero_variance"]),
    ),
    "hacking": Lesson(
        "A reward for the form alone is earned in full, and the answers get no better than those of the task's reward.",
        {"format only": Variant({REWARD: FORM}, "base"),
         "format and task": Variant({REWARD: TASK}, "base")},
        ("reward", "format", "accuracy"),
        lambda found: (found["format only"]["format"] > 0.95
                       and found["format only"]["accuracy"] < found["format and task"]["accuracy"]),
    ),
    "sft_first": Lesson(
        "After SFT the same RL ends higher than from the base: what is never tried cannot be rewarded.",
        {"from the base": Variant(start="base"), "from SFT": Variant()},
        ("reward", "accuracy"),
        lambda found: found["from SFT"]["accuracy"] > found["from the base"]["accuracy"] + 0.1,
    ),
    "balance": Lesson(
        "With unbalanced labels the frequent answer wins without a look at the clip; with balanced ones it does not.",
        {"9 Yes to 1 No": Variant(HOT, "base", lambda samples: collisions(samples, 9, 1)),
         "1 Yes to 1 No": Variant(HOT, "base", lambda samples: collisions(samples, 1, 1))},
        ("yes_share", "accuracy_collision"),
        lambda found: found["9 Yes to 1 No"]["yes_share"] > found["1 Yes to 1 No"]["yes_share"] + 0.1,
    ),
}  # fmt: skip


def train(name: str, lesson: str, label: str, variant: Variant, seed: int) -> Result:
    """Run one variant in `runs/NAME/lessons/LESSON/LABEL`. Returns its figures."""
    start = pipeline.BASE if variant.start == "base" else f"runs/{name}/sft"
    config = Config.load("configs/tiny_rl.toml").edit(
        {"train.max_num_steps": STEPS, "train.epoch": 20, "policy.model_name_or_path": start,
         "validation.enable": False, **variant.changes}
    )  # fmt: skip
    config, splits = pipeline.training_data(config, name, seed)
    torch.manual_seed(seed)
    model, encoder = pipeline.open_model(start)
    run = Run(f"{name}/lessons/{lesson}/{label.replace(' ', '_')}", seed=seed)
    grpo(config, variant.choose(splits["train"]), encoder, model, run, seed, probes=0, stop_on_alarm=False)
    return figures(run.metrics(), model, encoder, splits["validation"])


def figures(rows: Rows, model, encoder, samples: Sequence[Sample]) -> Result:
    """Returns means over the last quarter of the steps, and what the model answers to held-out questions, greedily."""
    last = rows[-max(1, len(rows) // 4) :]
    texts = answers(model, encoder, samples, LIMIT)
    stated = [encoder.contract.read_answer(text, s.options) for text, s in zip(texts, samples)]
    right = [answer == s.answer for answer, s in zip(stated, samples)]
    asked = [i for i, s in enumerate(samples) if s.task == "collision"]
    return {
        "reward": mean(row["train/reward_mean"] for row in last),
        "kl": mean(row["train/kl_loss_avg"] for row in last),
        "zero_variance": mean(row["train/zero_variance_share"] for row in rows),
        "accuracy": mean(right),
        "format": mean(map(encoder.contract.is_well_formed, texts)),
        "yes_share": Counter(stated[i] for i in asked)["Yes"] / len(asked),
        "accuracy_collision": mean(right[i] for i in asked),
    }


def mean(values) -> float:
    """Returns the mean of an iterable of numbers."""
    values = list(values)
    return sum(values) / len(values)


def teach(name: str, lesson: str, seed: int) -> dict[str, Result]:
    """Run all variants of a lesson. Returns the figures of each, and leaves them in `runs/NAME/lessons/LESSON.json`."""
    if not (RUNS / name / "sft" / "safetensors").exists():
        pipeline.train_sft(Config.load("configs/tiny_sft.toml"), name, seed)
    found = {label: train(name, lesson, label, v, seed) for label, v in LESSONS[lesson].variants.items()}
    path: Path = RUNS / name / "lessons" / f"{lesson}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(lesson: str, found: Mapping[str, Result]) -> Table:
    """Returns the figures that the lesson is about, a row a variant."""
    shows = LESSONS[lesson].shows
    rows = [[label, *(f"{result[key]:.3f}" for key in shows)] for label, result in found.items()]
    return Table(["run", *shows], rows)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a lesson does not hold for a seed."""
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.lessons", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=LESSONS, default=list(LESSONS))
    parser.add_argument("--name", default="lesson", help="job folders below runs/: NAME0 for seed 0, and so on")
    args = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    for lesson in args.only:
        for seed in args.seeds:
            found = teach(f"{args.name}{seed}", lesson, seed)
            holds = LESSONS[lesson].holds(found)
            rows += [[lesson, seed, *row, "yes" if holds else "NO"] for row in _cells(lesson, found)]
            print(Table(["lesson", "seed", "run", "figures", "holds"], rows[-len(found) :]), flush=True)
    print("\n", Table(["lesson", "seed", "run", "figures", "holds"], rows), sep="")
    return int(any(row[-1] == "NO" for row in rows))


def _cells(lesson: str, found: Mapping[str, Result]) -> list[list[str]]:
    shows = LESSONS[lesson].shows
    return [[label, ", ".join(f"{key} {result[key]:.3f}" for key in shows)] for label, result in found.items()]


if __name__ == "__main__":
    sys.exit(main())
