"""Lessons of RL: small experiments with one thing changed, whose outcome is computed and holds for every seed.

Why: "mind the KL" and "balance your labels" are easily said. Here each is two or three short runs that differ in one
thing, and a sentence that is checked. `rl.ipynb` names them, and runs one.

    python -m cookbook.lessons --seeds 0 1 2    # the table of LOG.md; with --only kl one of them
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Any

import torch

from cookbook import jobs, pipeline, runs
from cookbook.config import Config
from cookbook.display.tables import Table
from cookbook.display.terminal import command_parser
from cookbook.pipeline import DATASET, START, Job
from cookbook.runs import Run
from cookbook.training.grpo import grpo
from cookbook.training.rewards import OVERLONG_KEYS
from cookbook.training.validation import answers
from data_tools import videophy2
from data_tools.worlds import falling as falling_things

CLIPS = {"sft": 300, "train": 300, "test": 100}  # of falling things; the test has as many of each score
REWARD, KL_BETA = "train.train_policy.reward_function", "train.train_policy.kl_beta"
BALANCE = "custom.balance"
HEAD = ("lesson", "seed", "run", "figures", "holds")
Results = Mapping[str, Mapping[str, float]]  # the figures of each variant, by its name


def road(name: str, seed: int) -> Job:
    """Returns the RL of the main job, from the job's SFT."""
    jobs.trained(name, "sft", seed)
    return jobs.job(name, "rl", seed)


def falling(name: str, seed: int) -> Job:
    """Returns the RL of the recipe video_rewards, smaller: scores from 1 to 5, of which 60 % are a 4; no KL term."""
    place, loader = f"{name}/falling", "data_tools/videophy2.py"
    data = falling_things.build(runs.path(place) / "data", CLIPS, seed)
    if not (runs.path(place) / "sft" / "safetensors").exists():
        config = Config.load("configs/recipes/video_rewards_tiny_sft.toml").edit({DATASET: str(data / "sft.csv")})
        pipeline.train(pipeline.prepare(config, place, loader, seed))
    changes = {DATASET: str(data / "train.csv"), START: runs.named(runs.path(place) / "sft"), KL_BETA: 0.0}
    config = Config.load("configs/recipes/video_rewards_tiny_rl.toml").edit(changes | {BALANCE: False})
    job = pipeline.prepare(config, place, loader, seed)
    asked = videophy2.read(data / "test.csv", job.contract, question=config.table("custom")["question"])
    return replace(job, splits=job.splits | {"validation": asked})


@dataclass(frozen=True)
class Lesson:
    """Runs that differ in one thing, and what must come out: `holds` gets the figures of each, by its name."""

    claim: str
    variants: Mapping[str, Mapping[str, Any]]  # what each changes in the configuration
    shows: tuple[str, ...]  # the figures that matter
    holds: Callable[[Results], bool]
    job: Callable[[str, int], Job] = road  # by name and seed: GRPO, what is trained on, what is asked afterwards
    steps: int = 12


FAST = {"train.optm_lr": 5e-4}
STEADY = FAST | {"train.optm_decay_ratio": 0.0}
BRIEF = {REWARD: {"format": 1.0, "overlong": 1.0}, f"{OVERLONG_KEYS}.buffer_length": 40}  # from the 9th token on
LESSONS = {
    "kl": Lesson(
        "Without a KL term the policy runs away from its start; with one it stays near.",
        {"kl_beta 0": STEADY | {KL_BETA: 0.0}, "kl_beta 1": STEADY | {KL_BETA: 1.0}},
        ("kl", "accuracy"),
        lambda found: found["kl_beta 0"]["kl"] > 2 * found["kl_beta 1"]["kl"],
    ),
    "group": Lesson(
        "The larger the group, the fewer groups in which all earn the same; the number of completions is equal.",
        {f"{g} completions": {"rollout.n_generation": g} for g in (2, 8)},
        ("zero_variance", "accuracy"),
        lambda found: found["2 completions"]["zero_variance"] > found["8 completions"]["zero_variance"],
    ),
    "hacking": Lesson(
        "A reward for form and brevity is earned without reasoning, by worse answers than a reward for the task.",
        {"form and brevity": FAST | BRIEF, "form and task": FAST | {REWARD: {"format": 0.1, "single_choice": 1.0}}},
        ("reward", "tokens", "accuracy"),
        lambda found: (found["form and brevity"]["reward"] > 0.9
                       and found["form and brevity"]["tokens"] < found["form and task"]["tokens"]
                       and found["form and brevity"]["accuracy"] < found["form and task"]["accuracy"] - 0.1),
    ),
    "sft_first": Lesson(
        "After SFT the same RL ends higher than from the base: what is never tried cannot be rewarded.",
        {"from the base": {START: jobs.BASE}, "from SFT": {}},
        ("reward", "accuracy"),
        lambda found: found["from SFT"]["accuracy"] > found["from the base"]["accuracy"] + 0.1,
    ),
    "balance": Lesson(
        "Where most labels are a 4, RL ends in saying 4, whatever the clip shows; with as many of each it does not.",
        {"most are a 4": {}, "as many of each": {BALANCE: True}},
        ("usual", "accuracy"),
        lambda found: (found["most are a 4"]["usual"] > found["as many of each"]["usual"] + 0.1
                       and found["most are a 4"]["accuracy"] < found["as many of each"]["accuracy"]),
        falling,
        steps=14,
    ),
}  # fmt: skip


def teach(name: str, lesson: str, seed: int, steps: int | None = None) -> dict[str, dict[str, float]]:
    """Run all variants of a lesson. Returns the figures of each, and leaves them in `runs/NAME/lessons/LESSON.json`."""
    job, home, found = LESSONS[lesson].job(name, seed), runs.path(name) / "lessons", {}
    for label, changes in LESSONS[lesson].variants.items():
        run = Run(home / lesson / label.replace(" ", "_"), seed=seed)
        found[label] = train_variant(job, changes, run, steps or LESSONS[lesson].steps)
    (home / f"{lesson}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def train_variant(job: Job, changes: Mapping[str, Any], run: Run, steps: int) -> dict[str, float]:
    """Run one variant. Returns what it came to.

    reward, kl, tokens: means over the last quarter of the steps; zero_variance: the share of groups that taught
    nothing; accuracy, usual: the shares of answers to held-out questions that are right, and that are the usual label.
    """
    fixed = {"train.max_num_steps": steps, "train.epoch": 20, "validation.enable": False}
    config, samples, asked = job.config.edit(fixed | changes), job.splits["train"], job.splits["validation"]
    usual = Counter(sample.answer for sample in samples).most_common(1)[0][0]
    if changes.get(BALANCE):
        samples = videophy2.even(samples)
    torch.manual_seed(job.seed)
    model, encoder = pipeline.open_model(config[START], job.contract)
    grpo(config, samples, encoder, model, run, job.seed, probes=0, stop_on_alarm=False)
    rows, texts = run.metrics(), answers(model, encoder, asked, config["rollout.max_response_length"])
    stated = [job.contract.read(text, sample) for text, sample in zip(texts, asked)]
    last = rows[-max(1, len(rows) // 4) :]
    return {
        "reward": fmean(row["train/reward_mean"] for row in last),
        "kl": fmean(row["train/kl_loss_avg"] for row in last),
        "tokens": fmean(row["rollout/completion_length_mean"] for row in last),
        "zero_variance": fmean(row["train/zero_variance_share"] for row in rows),
        "accuracy": fmean(answer == sample.answer for answer, sample in zip(stated, asked)),
        "usual": stated.count(usual) / len(stated),
    }


def results_table(lesson: str, found: Results, seed: int = 0) -> Table:
    """Returns the figures that the lesson is about, a row a variant, and whether its claim holds."""
    holds = "yes" if LESSONS[lesson].holds(found) else "NO"
    told = {label: ", ".join(f"{k} {result[k]:.3f}" for k in LESSONS[lesson].shows) for label, result in found.items()}
    return Table(HEAD, [[lesson, seed, label, figures, holds] for label, figures in told.items()])


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a lesson does not hold for a seed."""
    parser = command_parser("cookbook.lessons", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=LESSONS, default=list(LESSONS))
    parser.add_argument("--name", default="lesson", help="job folders below runs/: NAME0 for seed 0, and so on")
    args = parser.parse_args(arguments)
    rows = []
    for lesson, seed in product(args.only, args.seeds):
        found = results_table(lesson, teach(f"{args.name}{seed}", lesson, seed), seed)
        print(found, flush=True)
        rows += found.rows
    print("\n", Table(HEAD, rows), sep="")
    return int(any(row[-1] == "NO" for row in rows))


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)  # what each run notices is in its log.txt
    sys.exit(main())
