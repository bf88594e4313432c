"""Lessons of RL: small experiments with one thing changed, whose outcome is computed and holds for every seed.

Why: "mind the KL" and "balance your labels" are easily said. Here each is two or three short runs that differ in one
thing, and a sentence that is checked. `rl.ipynb` names them, and runs one.

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
from statistics import fmean
from typing import Any

import torch

from cookbook import pipeline, runs, tutorial
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.display.tables import Table
from cookbook.pipeline import START
from cookbook.runs import Run
from cookbook.training.grpo import grpo
from cookbook.training.rewards import OVERLONG_KEYS
from cookbook.training.validation import answers
from data_tools import loading, videophy2
from data_tools.worlds import falling as falling_things

CLIPS = {"sft": 300, "train": 300, "test": 100}  # of falling things; the test has as many of each score
HEAD = ("lesson", "seed", "run", "figures", "holds")
Result = Mapping[str, float]


@dataclass(frozen=True)
class World:
    """Where a lesson takes place: GRPO from a start of its own, what is trained on, and what is asked afterwards."""

    config: Config
    contract: Contract
    train: list[Sample]
    asked: list[Sample]


@dataclass(frozen=True)
class Variant:
    """One run: what is changed in the configuration, and which of the samples it gets."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    choose: Callable[[list[Sample]], list[Sample]] = list


@dataclass(frozen=True)
class Lesson:
    """Runs that differ in one thing, and what must come out: `holds` gets the result of each, by its name."""

    claim: str
    variants: Mapping[str, Variant]
    shows: tuple[str, ...]  # the figures that matter
    holds: Callable[[Mapping[str, Result]], bool]
    world: Callable[[str, int], World]
    steps: int = 12


# ---- worlds -----------------------------------------------------------------------------------------------------


def road(name: str, seed: int) -> World:
    """Returns the road world of the main job, from the job's SFT."""
    tutorial.trained(name, "sft", seed)
    job = tutorial.job(name, "rl", seed)
    return World(job.config, job.contract, job.splits["train"], job.splits["validation"])


def falling(name: str, seed: int) -> World:
    """Returns the world of the recipe video_rewards, smaller: scores from 1 to 5, of which 60 % are a 4; no KL term."""
    folder = runs.path(f"{name}/falling")
    data = falling_things.build(folder / "data", CLIPS, seed)
    if not (folder / "sft" / "safetensors").exists():
        changes = {pipeline.DATASET: str(data / "sft.csv"), START: tutorial.BASE}
        config = Config.load("configs/recipes/video_rewards_tiny_sft.toml").edit(changes)
        pipeline.train(pipeline.prepare(config, f"{name}/falling", "data_tools/videophy2.py", seed))
    config = Config.load("configs/recipes/video_rewards_tiny_rl.toml")
    config = config.edit({START: runs.named(folder / "sft"), "train.train_policy.kl_beta": 0.0})
    contract, question = loading.contract(config), config.table("custom")["question"]
    train, asked = (videophy2.read(data / f"{split}.csv", contract, question=question) for split in ("train", "test"))
    return World(config, contract, train, asked)


# ---- the lessons ------------------------------------------------------------------------------------------------

REWARD, KL_BETA = "train.train_policy.reward_function", "train.train_policy.kl_beta"
FAST, FROM_BASE = {"train.optm_lr": 5e-4}, {START: tutorial.BASE}
BRIEF = {REWARD: {"format": 1.0, "overlong": 1.0}, f"{OVERLONG_KEYS}.buffer_length": 40}  # from the 9th token on
STEADY = FAST | {"train.optm_decay_ratio": 0.0}
LESSONS = {
    "kl": Lesson(
        "Without a KL term the policy runs away from its start; with one it stays near.",
        {"kl_beta 0": Variant(STEADY | {KL_BETA: 0.0}), "kl_beta 1": Variant(STEADY | {KL_BETA: 1.0})},
        ("kl", "accuracy"),
        lambda found: found["kl_beta 0"]["kl"] > 2 * found["kl_beta 1"]["kl"],
        road,
    ),
    "group": Lesson(
        "The larger the group, the fewer groups in which all earn the same; the number of completions is equal.",
        {f"{g} completions": Variant({"rollout.n_generation": g}) for g in (2, 4, 8)},
        ("zero_variance", "accuracy"),
        lambda found: (found["2 completions"]["zero_variance"] > found["4 completions"]["zero_variance"]
                       > found["8 completions"]["zero_variance"]),
        road,
    ),
    "hacking": Lesson(
        "A reward for form and brevity is earned without reasoning, by worse answers than a reward for the task.",
        {"form and brevity": Variant(FAST | BRIEF),
         "form and task": Variant(FAST | {REWARD: {"format": 0.1, "single_choice": 1.0}})},
        ("reward", "tokens", "accuracy"),
        lambda found: (found["form and brevity"]["reward"] > 0.9
                       and found["form and brevity"]["tokens"] < found["form and task"]["tokens"]
                       and found["form and brevity"]["accuracy"] < found["form and task"]["accuracy"] - 0.1),
        road,
    ),
    "sft_first": Lesson(
        "After SFT the same RL ends higher than from the base: what is never tried cannot be rewarded.",
        {"from the base": Variant(FROM_BASE), "from SFT": Variant()},
        ("reward", "accuracy"),
        lambda found: found["from SFT"]["accuracy"] > found["from the base"]["accuracy"] + 0.1,
        road,
    ),
    "balance": Lesson(
        "Where most labels are a 4, RL ends in saying 4, whatever the clip shows; with as many of each it does not.",
        {"most are a 4": Variant(), "as many of each": Variant(choose=videophy2.even)},
        ("usual", "accuracy"),
        lambda found: (found["most are a 4"]["usual"] > found["as many of each"]["usual"] + 0.1
                       and found["most are a 4"]["accuracy"] < found["as many of each"]["accuracy"]),
        falling,
        steps=14,
    ),
}  # fmt: skip


def train(name: str, lesson: str, label: str, seed: int, steps: int | None = None) -> dict[str, float]:
    """Run one variant of a lesson in `runs/NAME/lessons/LESSON/LABEL`. Returns its figures."""
    variant, world = LESSONS[lesson].variants[label], LESSONS[lesson].world(name, seed)
    fixed = {"train.max_num_steps": steps or LESSONS[lesson].steps, "train.epoch": 20, "validation.enable": False}
    config = world.config.edit(fixed | variant.changes)
    torch.manual_seed(seed)
    model, encoder = pipeline.open_model(config[START], world.contract)
    run = Run(f"{name}/lessons/{lesson}/{label.replace(' ', '_')}", seed=seed)
    grpo(config, variant.choose(world.train), encoder, model, run, seed, probes=0, stop_on_alarm=False)
    limit = config["rollout.max_response_length"]
    usual = Counter(s.answer for s in world.train).most_common(1)[0][0]
    return learned(run.metrics()) | said(answers(model, encoder, world.asked, limit), encoder, world.asked, usual)


def learned(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns reward, KL and length over the last quarter of the steps, and the share of groups that taught nothing."""
    last = rows[-max(1, len(rows) // 4) :]
    return {
        "reward": fmean(row["train/reward_mean"] for row in last),
        "kl": fmean(row["train/kl_loss_avg"] for row in last),
        "tokens": fmean(row["rollout/completion_length_mean"] for row in last),
        "zero_variance": fmean(row["train/zero_variance_share"] for row in rows),
    }


def said(texts: Sequence[str], encoder: Encoder, samples: Sequence[Sample], usual: str) -> dict[str, float]:
    """Returns shares of the answers to held-out questions: right, well formed, the usual one of the training labels."""
    stated = [encoder.contract.read(text, s) for text, s in zip(texts, samples)]
    return {
        "accuracy": fmean(answer == s.answer for answer, s in zip(stated, samples)),
        "format": fmean(map(encoder.contract.is_well_formed, texts)),
        "usual": stated.count(usual) / len(stated),
    }


def teach(name: str, lesson: str, seed: int, steps: int | None = None) -> dict[str, dict[str, float]]:
    """Run all variants of a lesson. Returns the figures of each, and leaves them in `runs/NAME/lessons/LESSON.json`."""
    found = {label: train(name, lesson, label, seed, steps) for label in LESSONS[lesson].variants}
    (runs.path(name) / "lessons" / f"{lesson}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def table(lesson: str, found: Mapping[str, Result], seed: int = 0) -> Table:
    """Returns the figures that the lesson is about, a row a variant, and whether its claim holds."""
    holds = "yes" if LESSONS[lesson].holds(found) else "NO"
    told = {label: ", ".join(f"{k} {result[k]:.3f}" for k in LESSONS[lesson].shows) for label, result in found.items()}
    return Table(HEAD, [[lesson, seed, label, figures, holds] for label, figures in told.items()])


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a lesson does not hold for a seed."""
    parser = argparse.ArgumentParser(
        prog="python -m cookbook.lessons", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=LESSONS, default=list(LESSONS))
    parser.add_argument("--name", default="lesson", help="job folders below runs/: NAME0 for seed 0, and so on")
    args = parser.parse_args(arguments)
    rows: list[Sequence] = []
    for lesson in args.only:
        for seed in args.seeds:
            rows += table(lesson, teach(f"{args.name}{seed}", lesson, seed), seed).rows
            print(Table(HEAD, rows[-len(LESSONS[lesson].variants) :]), flush=True)
    print("\n", Table(HEAD, rows), sep="")
    return int(any(row[-1] == "NO" for row in rows))


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)  # what each run notices is in its log.txt
    sys.exit(main())
