"""The reward gym: what a reward pays, found out before a model is trained by it. No model, no GPU, seconds.

Why: a reward that can never be full, that pays for "always A", or that gives whole groups the same, wastes the run, and
the curve does not say so. Here the right answer must earn full marks, odd answers are paid in a table, and rollouts
that exist already tell how many prompts of a step will teach anything.

    gym(config, samples, contract, rows)        # shows itself as tables in a notebook; rows: generations, predictions

    python -m cookbook.gym --config configs/tiny_rl.toml --loader data_tools/road_vqa.py    # exit 1 where gold fails
"""

import argparse
import html
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import fmean

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.display.tables import Table
from cookbook.runs import read_jsonl
from cookbook.training.gold import SLACK, Odd, Weights, full_marks, gold_failures, odd_answers
from cookbook.training.rewards import Reward, RewardError, reward, reward_weights

# ---- policies that look at nothing ------------------------------------------------------------------------------


def constant_policies(samples: Sequence[Sample], weights: Weights, contract: Contract) -> dict[str, float]:
    """Returns what "always this answer", and "the most frequent answer of each task", would earn on average."""
    tasks: dict[str, Counter] = defaultdict(Counter)
    for s in samples:
        tasks[s.task][s.answer] += 1
    options = sorted({o for s in samples for o in s.options})
    policies = {f"always {option}": dict.fromkeys(tasks, option) for option in options}
    policies["majority of each task"] = {task: max(c, key=c.get) for task, c in tasks.items()}
    return {
        name: fmean(reward(contract.write_answer("", said[s.task] or ""), s, weights, contract).total for s in samples)
        for name, said in policies.items()
    }


# ---- rollouts that exist already --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """How many groups of `copies` completions would all earn the same, and how that was found out."""

    copies: int
    zero_variance_share: float
    prompts: int  # of a step
    basis: str

    @property
    def effective_prompts(self) -> float:
        """Prompts of a step that teach something."""
        return self.prompts * (1 - self.zero_variance_share)


def score(rows: Sequence[dict], samples: Sequence[Sample], weights: Weights, contract: Contract) -> list[tuple]:
    """Returns (sample, total reward) of the rows of generations.jsonl or predictions that belong to the samples."""
    known = {s.id: s for s in samples}
    found = [(known[row["id"]], row["output"]) for row in rows if row["id"] in known]
    return [(s, round(reward(text, s, weights, contract).total, 6)) for s, text in found]


def groups(scored: Sequence[tuple[Sample, float]], copies: int, prompts: int) -> Groups:
    """Returns the share of groups without variance to expect. Raises RewardError without any rewards.

    From prompts with `copies` completions or more: the chance that so many drawn from them are all alike, without bias.
    Where no prompt has that many, tasks are taken for prompts whose completions are all alike in quality; real prompts
    differ, so the true share is higher.
    """
    if not scored:
        raise RewardError("no generations of these samples: let the model answer them first")
    by_prompt, by_task = defaultdict(Counter), defaultdict(Counter)
    for sample, total in scored:
        by_prompt[sample.id][total] += 1
        by_task[sample.task][total] += 1
    whole = [c for c in by_prompt.values() if sum(c.values()) >= copies]
    if whole:
        alike = fmean(sum(comb(n, copies) for n in c.values()) / comb(sum(c.values()), copies) for c in whole)
        return Groups(copies, alike, prompts, f"{len(whole)} prompts with {copies} completions or more")
    sizes = {task: sum(c.values()) for task, c in by_task.items()}
    alike = sum(sizes[t] * sum((n / sizes[t]) ** copies for n in c.values()) for t, c in by_task.items()) / len(scored)
    return Groups(copies, alike, prompts, f"{len(scored)} single completions by task; the true share is higher")


def histogram(scored: Sequence[tuple[Sample, float]]) -> dict[str, dict[float, int]]:
    """Returns label → total reward → how many completions."""
    table: dict[str, Counter] = defaultdict(Counter)
    for sample, total in scored:
        table[sample.label or sample.answer or ""][total] += 1
    return {label: dict(sorted(counts.items())) for label, counts in sorted(table.items())}


# ---- all of it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gym:
    """What was found; prints as lines, and shows itself as tables in a notebook."""

    samples: int
    full: float
    failures: list[tuple[Sample, Reward]]
    odd: list[Odd]
    constants: dict[str, float]
    labels: dict[str, dict[float, int]]
    groups: Groups | None

    @property
    def passed(self) -> bool:
        """Whether every right answer earns full marks."""
        return not self.failures

    @property
    def leaks(self) -> list[Odd]:
        """Odd completions that are not right and are paid as if they were."""
        return [o for o in self.odd if not o.right and o.earned.total > self.full - SLACK]

    def tables(self) -> dict[str, list[list[str]]]:
        """Returns title → rows of text, the first one the head."""
        found = {"right answers": [["samples", "full marks", "earn less"],
                                   [str(self.samples), f"{self.full:g}", str(len(self.failures))]]}  # fmt: skip
        if self.failures:
            poor = [[sample.id, f"{earned.total:g}"] for sample, earned in self.failures[:10]]
            found["right answers that earn less"] = [["sample", "total"], *poor]
        if self.odd:
            names = list(self.odd[0].earned.parts)
            rows = [[o.name, "yes" if o.right else "no", f"{o.earned.total:g}",
                     *(f"{o.earned.parts[n]:g}" for n in names)] for o in self.odd]  # fmt: skip
            found["odd answers"] = [["completion", "right?", "total", *names], *rows]
        found["policies that look at nothing"] = [["policy", "mean reward"], *(
            [name, f"{value:.2f}"] for name, value in self.constants.items())]  # fmt: skip
        if self.labels:
            totals = sorted({t for row in self.labels.values() for t in row})
            rows = [[label, *(str(row.get(t, 0)) for t in totals)] for label, row in self.labels.items()]
            found["completions by label and reward"] = [["label", *(f"{t:g}" for t in totals)], *rows]
        if g := self.groups:
            found["groups"] = [["G", "all the same", "prompts a step", "that teach", "from"],
                               [str(g.copies), f"{g.zero_variance_share:.2f}", str(g.prompts),
                                f"{g.effective_prompts:.1f}", g.basis]]  # fmt: skip
        return found

    def __repr__(self) -> str:
        return "\n\n".join(f"{title}\n{Table(rows[0], rows[1:])}" for title, rows in self.tables().items())

    def _repr_html_(self) -> str:
        return "".join(
            f"<h4>{html.escape(title)}</h4>{Table(rows[0], rows[1:])._repr_html_()}"
            for title, rows in self.tables().items()
        )


def gym(config: Config, samples: Sequence[Sample], contract: Contract, rows: Sequence[dict] = ()) -> Gym:
    """Returns what the configuration's reward pays on these samples. `rows`: completions of them, where there are any.

    Raises RewardError without samples.
    """
    if not samples:
        raise RewardError("no samples to try the reward on")
    weights, copies = reward_weights(config), config["rollout.n_generation"]
    first = next((s for s in samples if len(s.options) > 1 and s.answer in s.options), None)
    scored = score(rows, samples, weights, contract)
    return Gym(
        len(samples),
        full_marks(weights),
        gold_failures(samples, weights, contract),
        odd_answers(first, weights, contract) if first else [],
        constant_policies(samples, weights, contract),
        histogram(scored),
        groups(scored, copies, config["train.train_batch_per_replica"] // copies) if scored else None,
    )


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where a right answer cannot earn full marks, 2 where there is nothing to try."""
    from data_tools import loading  # loaders import half the project

    parser = argparse.ArgumentParser(
        prog="python -m cookbook.gym", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="the TOML file of the training")
    parser.add_argument("--loader", required=True, help="the loader file, such as data_tools/road_vqa.py")
    parser.add_argument("--generations", type=Path, help="generations.jsonl, or predictions of training prompts")
    args = parser.parse_args(arguments)
    try:
        config = Config.load(args.config)
        rows = read_jsonl(args.generations) if args.generations else []
        found = gym(config, loading.loader(args.loader).load(config)["train"], loading.contract(config), rows)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(found)
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
