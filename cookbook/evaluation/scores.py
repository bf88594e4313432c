"""From predictions to scores: one model's accuracy per task, and several models on the same items.

Why: a comparison is worth something only if every model answered the same questions under the same contract, and if
they are two models. This is the one place that counts right answers, and it refuses to compare rows that differ, and
a base model that passes as its own SFT. The evaluation notebook and `cookbook.evaluation.report` use it, on the rows of
predictions.jsonl:

    comparison = compare({"base": base_rows, "sft": sft_rows, "rl": rl_rows}, train_rows)
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise, zip_longest
from statistics import median

from cookbook.data.answers import number
from cookbook.data.contract import ContractError
from cookbook.data.samples import Sample
from cookbook.evaluation import statistics

# What makes two rows one item. The id is not enough: another seed shuffles the options under the same id.
IDENTITY = ("id", "question", "reference")
FEW = 10  # rows: below, two models may well say the same without being the same


def label(model: str) -> str:
    """Returns a model's name as people write it: "sft" is SFT, "rl" is RL, others stay as they are."""
    return model.upper() if model in ("sft", "rl") else model


def _share(rows: Sequence[dict]) -> dict:
    """Returns how many rows there are, the share that is right, and its 95 % interval."""
    correct = [row["correct"] for row in rows]
    return {"n": len(rows), "accuracy": sum(correct) / len(rows), "ci95": list(statistics.interval(correct))}


def _by_task(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Returns the rows of each task, tasks in sorted order."""
    tasks = sorted({row["task"] for row in rows})
    return {task: [row for row in rows if row["task"] == task] for task in tasks}


def score(rows: Sequence[dict]) -> dict:
    """Score one model's predictions.

    Returns {"n", "accuracy", "ci95": [low, high], "clusters", "ci95_clustered", "format_rate", "unread_rate",
    "lenient_accuracy", "errors", "tasks": {task: {"n", "accuracy", "ci95"}}}. All shares are in [0, 1], and the order
    of the rows does not matter. ci95 is Wilson's; ci95_clustered draws whole clips. unread_rate: rows in which no
    answer was found where the format wants it (counted as wrong). lenient_accuracy: with answers that stand elsewhere.
    errors: rows that could not be asked. Raises ValueError where there are no rows.
    """
    if not rows:
        raise ValueError("no predictions to score")
    return {
        **_share(rows),
        "clusters": len({row["group"] for row in rows}),
        "ci95_clustered": list(
            statistics.clustered_interval([row["correct"] for row in rows], [row["group"] for row in rows])
        ),
        "format_rate": sum(row["well_formed"] for row in rows) / len(rows),
        "unread_rate": sum(row.get("answer", "") is None for row in rows) / len(rows),
        "lenient_accuracy": sum(row.get("lenient_correct", row["correct"]) for row in rows) / len(rows),
        "errors": sum(bool(row.get("error")) for row in rows),
        "tasks": {task: _share(part) for task, part in _by_task(rows).items()},
    }


def by_category(rows: Sequence[dict], train: Sequence[Sample]) -> dict[str, dict]:
    """Returns, for each category: n, score, ci95 and habit, the score of always giving the usual training answer.

    The score of `distance` is the mean absolute error in metres (less is better), the usual answer its median, and an
    answer that cannot be read counts as 0 metres. The others have accuracy and the most frequent answer.
    """
    table = {}
    for category, part in _by_task(rows).items():
        seen = [s.answer for s in train if s.task == category]
        if category == "distance":
            usual = median(map(float, seen))
            values = [abs((number(row["answer"]) or 0.0) - float(row["reference"])) for row in part]
            habit = [abs(usual - float(row["reference"])) for row in part]
            ci95 = statistics.clustered_interval(values, [row["group"] for row in part])
        else:
            usual = max(sorted(set(seen)), key=seen.count)
            values, habit = [row["correct"] for row in part], [row["reference"] == usual for row in part]
            ci95 = statistics.interval(values)
        n = len(part)
        table[category] = {"n": n, "score": sum(values) / n, "ci95": ci95, "habit": sum(habit) / n}
    return table


def require_same_items(predictions: dict[str, Sequence[dict]]) -> None:
    """Raises ValueError, naming the first difference, unless all models answered the same items in order."""
    (first, expected), *others = predictions.items()
    for name, rows in others:
        for i, (a, b) in enumerate(zip_longest(expected, rows), start=1):
            if a is None or b is None:
                longer, item = (name, b) if a is None else (first, a)
                found = f"only {longer} has row {i}, {item['id']!r}"
            elif different := [key for key in IDENTITY if a[key] != b[key]]:
                key = different[0]
                found = f"in row {i} the {key} is {a[key]!r} for {first} and {b[key]!r} for {name}"
            else:
                continue
            raise ValueError(f"{first} and {name} did not answer the same items: {found}")


def require_same_contract(predictions: dict[str, Sequence[dict]], free: Collection[str] = ()) -> dict[str, str | None]:
    """Returns the contract hash of each model; None where its rows do not say.

    Raises ContractError, naming both, where two differ. Models named in `free` may differ: a base with another prompt
    is asked under another contract, and that is what its row is there to show.
    """
    found = {}
    for name, rows in predictions.items():
        hashes = {row.get("contract") for row in rows}
        if len(hashes) > 1:
            raise ContractError(f"{name}: its rows were made under several contracts: {', '.join(map(str, hashes))}")
        found[name] = next(iter(hashes), None)
    bound = {name: contract for name, contract in found.items() if contract and name not in free}
    for (a, one), (b, other) in pairwise(bound.items()):
        if one != other:
            raise ContractError(f"{a} was asked under contract {one}, {b} under {other}: their scores do not compare")
    return found


def require_different_models(predictions: dict[str, Sequence[dict]]) -> None:
    """Raises ValueError where two names stand for one model: a base that passes as SFT shows no gain and no loss.

    One model are two with the same weights hash; where no hash is known, two that say the same, word for word, to
    ten items or more. Rows asked in another way (`decoding`, or on other media) may come from one model.
    """
    for a, b in combinations(predictions, 2):
        pairs = list(zip(predictions[a], predictions[b]))
        if any(x.get(key) != y.get(key) for x, y in pairs for key in ("decoding", "video", "contract")):
            continue
        weights = [{row.get("weights") for row in predictions[name]} for name in (a, b)]
        if known := None not in weights[0] | weights[1]:
            why = f"their weights are equal ({weights[0].pop()})" if weights[0] == weights[1] else None
        else:
            equal = len(pairs) >= FEW and all(x.get("output", x) == y.get("output", y) for x, y in pairs)
            spoken = any(x.get("output") for x, _ in pairs)
            why = f"all {len(pairs)} answers are equal, word for word" if equal and spoken else None
        if why:
            hint = "" if known else "; if they are really two models, keep their weights hashes with the rows"
            raise ValueError(f"{a} and {b} are one model: {why}. Was {b}'s checkpoint loaded?{hint}")


def compare_pairs(predictions: dict[str, Sequence[dict]], free: Collection[str] = ()) -> dict:
    """Pair each model with the one before it. Returns {"contracts", "paired", "clustered"}; see `compare`."""
    require_same_items(predictions)
    contracts = require_same_contract(predictions, free)
    require_different_models(predictions)
    correct = {name: [row["correct"] for row in rows] for name, rows in predictions.items()}
    groups = [row["group"] for row in next(iter(predictions.values()))]
    steps = {f"{later}_vs_{earlier}": (correct[earlier], correct[later]) for earlier, later in pairwise(predictions)}
    clustered = {name: asdict(statistics.paired_clustered(*pair, groups)) for name, pair in steps.items()}
    return {
        "contracts": contracts,
        "paired": {name: asdict(statistics.paired(*pair)) for name, pair in steps.items()},
        "clustered": {name: found | {"ci95": list(found["ci95"])} for name, found in clustered.items()},
    }


def compare(predictions: dict[str, Sequence[dict]], train_rows: Sequence[dict], free: Collection[str] = ()) -> dict:
    """Score models on the same items, oldest first (base, sft, rl), and pair each with the one before it.

    Returns {"n", "chance", "majority", "tasks": {task: {"n", "chance", "majority"}}, "models": {name: score},
    "contracts": {name: hash}, "paired": {"sft_vs_base": {"won", "lost", "both", "neither", "difference", "p", "g",
    "needed"}, …}, "clustered": {"sft_vs_base": {"difference", "ci95", "p", "clusters"}, …}}. `train_rows` need
    "task" and "reference" only; they give the majority level. Models in `free` may have another contract.
    Raises ValueError where there are no models or no rows, the models did not answer the same items, or two are one
    model; ContractError where contracts differ.
    """
    if not predictions:
        raise ValueError("no models to compare")
    require_same_items(predictions)
    rows = next(iter(predictions.values()))

    def levels(part: Sequence[dict]) -> dict:
        return {
            "n": len(part),
            "chance": statistics.chance(part),
            "majority": statistics.majority(part, train_rows),
        }

    return {
        **levels(rows),
        "tasks": {task: levels(part) for task, part in _by_task(rows).items()},
        "models": {name: score(rows) for name, rows in predictions.items()},
        **compare_pairs(predictions, free),
    }
