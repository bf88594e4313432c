"""The reward gym: what a reward pays, found out before a model is trained by it. No model, no GPU, seconds.

Why: a reward that can never be full, that pays for "always A", or that gives whole groups the same, wastes the run, and
the curve does not say so. Here the right answer must earn full marks, odd answers are paid in a table, and rollouts
that exist already tell how many prompts of a step will teach anything.

    gym(config, samples, contract, rows)        # shows itself as tables in a notebook; rows: generations, predictions
    python -m cookbook.gym --config configs/tiny_rl.toml --loader data_tools/road_vqa.py    # exit 1 where gold fails
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import comb
from pathlib import Path
from statistics import fmean

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.display.tables import Table
from cookbook.display.terminal import command_parser
from cookbook.runs import read_jsonl
from cookbook.training import rewards
from cookbook.training.rewards import RewardError, Weights, reward, reward_weights

Scored = Sequence[tuple[Sample, float]]  # samples with the total reward of one completion each


def odd_answers(sample: Sample, contract: Contract) -> list[tuple[str, bool, str]]:
    """Returns completions around the right answer of a sample that has options.

    Each as (what is odd, whether a careful reader takes it for the right answer, the completion).
    """
    right, write = sample.answer, contract.write_answer
    wrong = next(o for o in sample.options if o != right)
    return [
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


def constant_policies(samples: Sequence[Sample], weights: Weights, contract: Contract) -> dict[str, float]:
    """Returns what "always this answer", and "the most frequent answer of each task", would earn on average.

    Where most labels are one score, such a policy is paid well, and RL finds it.
    """
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


def equal_groups(scored: Scored, copies: int) -> tuple[float, str]:
    """Returns (share of groups of `copies` completions that all earn the same, how that was found out).

    From prompts with `copies` completions or more: the chance that so many drawn from them are all alike, without bias.
    Where no prompt has that many, tasks are taken for prompts whose completions are all alike in quality; real prompts
    differ, so the true share is higher. Raises RewardError without any rewards.
    """
    if not scored:
        raise RewardError("no generations of these samples: let the model answer them first")
    by_prompt, by_task = defaultdict(Counter), defaultdict(Counter)
    for sample, total in scored:
        by_prompt[sample.id][total] += 1
        by_task[sample.task][total] += 1
    whole = [c for c in by_prompt.values() if c.total() >= copies]
    if whole:
        alike = fmean(sum(comb(n, copies) for n in c.values()) / comb(c.total(), copies) for c in whole)
        return alike, f"{len(whole)} prompts with {copies} completions or more"
    alike = sum(n * (n / c.total()) ** (copies - 1) for c in by_task.values() for n in c.values()) / len(scored)
    return alike, f"{len(scored)} single completions by task; the true share is higher"


def label_table(scored: Scored) -> Table:
    """Returns a row for each label: how many of its completions earn each total."""
    counts = Counter((sample.label or sample.answer or "", total) for sample, total in scored)
    labels, totals = (sorted(set(column)) for column in zip(*counts))
    rows = [(label, *(counts[label, total] for total in totals)) for label in labels]
    return Table(("label", *(f"{total:g}" for total in totals)), rows, "completions by label and reward")


def group_table(scored: Scored, copies: int, prompts: int) -> Table:
    """Returns how many groups of `copies` completions teach nothing, and how many of a step's prompts are left."""
    share, basis = equal_groups(scored, copies)
    row = (copies, f"{share:.2f}", prompts, f"{prompts * (1 - share):.1f}", basis)
    return Table(("G", "all the same", "prompts a step", "that teach", "from"), [row], "groups")


TRIED = ("single_choice", "numeric", "span_iou", "rouge_l")  # parts that read an answer, the strictest first
LAZY = 0.9  # what a constant answer may earn at most, or there is nothing to learn


def rewards_that_work(samples: Sequence[Sample], contract: Contract) -> dict[str, float]:
    """Returns weights whose full marks every right answer earns and no constant answer comes near; {} where none do.

    Where answers have a form to keep, it is paid a tenth.
    """
    form = {} if contract.answer_format == "text" else {"format": 0.1}
    choices = all(sample.options for sample in samples)
    for weights in ({name: 1.0} for name in TRIED if choices or name != "single_choice"):
        lazy = max(constant_policies(samples, weights, contract).values())
        if lazy < LAZY and not rewards.gold_failures(samples, weights, contract):
            return weights | form
    return {}


def require_reward(config: Config, samples: Sequence[Sample], contract: Contract) -> None:
    """Raises RewardError where right answers cannot earn full marks, and says which reward they can earn."""
    try:
        rewards.require_gold(samples, reward_weights(config), contract)
    except RewardError as error:
        works = ", ".join(f"{name}: {weight:g}" for name, weight in rewards_that_work(samples, contract).items())
        helps = f'What works on these samples: reward = "{works}"' if works else "No part works on these samples"
        raise RewardError(f"{error}.\n{helps}") from None


def weights_of(words: str) -> dict[str, float]:
    """Returns the weights of "single_choice, format: 0.1"; a name alone counts 1. Raises RewardError."""
    try:
        pairs = [part.partition(":") for part in words.split(",")]
        return {name.strip(): float(weight or 1) for name, _, weight in pairs}
    except ValueError:
        raise RewardError(f"{words!r} is not of the form single_choice, format: 0.1") from None


class Gym(list[Table]):
    """What was found, as tables one below the other; `passed` says whether every right answer earns full marks."""

    passed = True

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self)


def gym(config: Config, samples: Sequence[Sample], contract: Contract, rows: Sequence[dict] = ()) -> Gym:
    """Returns what the configuration's reward pays on these samples. `rows`: completions of them, where there are any.

    Raises RewardError without samples.
    """
    if not samples:
        raise RewardError("no samples to try the reward on")
    rewards.require_parts(config)
    weights, copies = reward_weights(config), config["rollout.n_generation"]
    failures = rewards.gold_failures(samples, weights, contract)
    row = (len(samples), f"{rewards.full_marks(weights):g}", len(failures))
    found = Gym([Table(("samples", "full marks", "earn less"), [row], "right answers")])
    found.passed = not failures
    if failures:
        poor = [(sample.id, f"{earned.total:g}") for sample, earned in failures[:10]]
        found.append(Table(("sample", "total"), poor, "right answers that earn less"))
    if first := next((s for s in samples if len(s.options) > 1 and s.answer in s.options), None):
        odd = []
        for name, right, completion in odd_answers(first, contract):
            earned = reward(completion, first, weights, contract)
            odd.append((name, "yes" if right else "no", *(f"{v:g}" for v in (earned.total, *earned.parts.values()))))
        found.append(Table(("completion", "right?", "total", *weights), odd, "odd answers"))
    means = [(name, f"{mean:.2f}") for name, mean in constant_policies(samples, weights, contract).items()]
    found.append(Table(("policy", "mean reward"), means, "policies that look at nothing"))
    known = {s.id: s for s in samples}
    told = [(known[row["id"]], row["output"]) for row in rows if row["id"] in known]
    if scored := [(s, round(reward(text, s, weights, contract).total, 6)) for s, text in told]:
        prompts = config["train.train_batch_per_replica"] // copies
        found += [label_table(scored), group_table(scored, copies, prompts)]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 where a right answer cannot earn full marks, 2 where there is nothing to try."""
    from data_tools import loading  # loaders import half the project

    parser = command_parser("cookbook.gym", __doc__)
    parser.add_argument("--config", required=True, help="the TOML file of the training")
    parser.add_argument("--loader", required=True, help="the loader file that the training takes")
    parser.add_argument("--generations", type=Path, help="generations.jsonl, or predictions of training prompts")
    args = parser.parse_args(arguments)
    try:
        config = Config.load(args.config)
        rows = read_jsonl(args.generations, needs=("id", "output")) if args.generations else []
        if odd := next((n for n, row in enumerate(rows, 1) if {type(row["id"]), type(row["output"])} != {str}), None):
            raise ValueError(f"{args.generations}: row {odd}: its id or output is no text; cut the row out")
        found = gym(config, loading.loader(args.loader).load(config)["train"], loading.contract(config), rows)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(found)
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
