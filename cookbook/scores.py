"""From predictions to scores: one model's accuracy per task, and several models on the same items.

Why: a comparison is worth something only if every model answered the same questions. This is the one place
that counts right answers, and it refuses to compare rows that differ. The evaluation notebook and
`cookbook.report` use it, on the rows of predictions.jsonl:

    comparison = compare({"base": base_rows, "sft": sft_rows, "rl": rl_rows}, train_rows)
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise, zip_longest

from cookbook import statistics

# What makes two rows one item. The id is not enough: another seed shuffles the options under the same id.
IDENTITY = ("id", "question", "reference")


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

    Returns {"n", "accuracy", "ci95": [low, high], "format_rate", "tasks": {task: {"n", "accuracy", "ci95"}}};
    all shares are in [0, 1], and the order of the rows does not matter. Raises ValueError where there are no
    rows.
    """
    if not rows:
        raise ValueError("no predictions to score")
    return {
        **_share(rows),
        "format_rate": sum(row["well_formed"] for row in rows) / len(rows),
        "tasks": {task: _share(part) for task, part in _by_task(rows).items()},
    }


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


def compare(predictions: dict[str, Sequence[dict]], train_rows: Sequence[dict]) -> dict:
    """Score models on the same items, oldest first (base, sft, rl), and pair each with the one before it.

    Returns {"n", "chance", "majority", "tasks": {task: {"n", "chance", "majority"}}, "models": {name: score},
    "paired": {"sft_vs_base": {"won", "lost", "both", "neither", "difference", "p"}, …}}. `train_rows` need
    "task" and "reference" only; they give the majority level.
    Raises ValueError where there are no models or no rows, or the models did not answer the same items.
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

    correct = {name: [row["correct"] for row in rows] for name, rows in predictions.items()}
    return {
        **levels(rows),
        "tasks": {task: levels(part) for task, part in _by_task(rows).items()},
        "models": {name: score(rows) for name, rows in predictions.items()},
        "paired": {
            f"{later}_vs_{earlier}": asdict(statistics.paired(correct[earlier], correct[later]))
            for earlier, later in pairwise(predictions)
        },
    }
