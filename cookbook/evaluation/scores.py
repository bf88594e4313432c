"""From predictions to scores: one model's accuracy per task, several models on the same items, and what was lost.

Why: a comparison is worth something only if every model answered the same questions under the same contract, and if
they are two models: rows that differ are refused, and a base model that passes as its own SFT. And "71 %" does not say
where a model got better: so subgroups, items won and lost, skills kept. For evaluation.ipynb and the report.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise, zip_longest
from statistics import fmean
from typing import Any

from cookbook.data.contract import ContractError
from cookbook.data.quantities import words_of
from cookbook.evaluation import statistics
from cookbook.evaluation.metrics.choices import Row
from cookbook.evaluation.metrics.texts import best_for_all, shared_words

# What makes two rows one item. The id is not enough: another seed shuffles the options under the same id.
IDENTITY = ("id", "question", "reference")
FEW = 10  # rows: below, two models may well say the same without being the same
MARGIN = 0.05  # a loss of less is not worth naming
SENTENCE = 5  # words of a reference: a shorter one is said as it is, or not
LEAST = 20  # questions: below, nothing is called gained or lost


def _share(rows: Sequence[Row]) -> dict:
    """Returns how many rows there are, the share that is right, and its 95 % interval."""
    correct = [row["correct"] for row in rows]
    return {"n": len(rows), "accuracy": sum(correct) / len(rows), "ci95": list(statistics.interval(correct))}


def by_field(rows: Sequence[Any], by: str | Callable[[Any], Any] = "task") -> dict[str, list]:
    """Returns the rows of each value of a field, or of a function of the row, values in sorted order."""
    parts = defaultdict(list)
    for row in rows:
        parts[str(by(row) if callable(by) else row[by])].append(row)
    return dict(sorted(parts.items()))


def score(rows: Sequence[dict]) -> dict:
    """Score one model's predictions.

    Returns {"n", "accuracy", "ci95": [low, high], "clusters", "ci95_clustered", "format_rate", "unread_rate",
    "lenient_accuracy", "errors", "tasks": {task: {"n", "accuracy", "ci95"}}}, shares in [0, 1]. ci95 is Wilson's;
    ci95_clustered draws whole clips. unread_rate: no answer found where the format wants it (counted as wrong).
    lenient_accuracy: with answers that stand elsewhere. errors: rows not asked. Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("no predictions to score")
    return {
        **_share(rows),
        "clusters": len({row["group"] for row in rows}),
        "ci95_clustered": list(statistics.clustered_interval(*zip(*((row["correct"], row["group"]) for row in rows)))),
        "format_rate": sum(row["well_formed"] for row in rows) / len(rows),
        "unread_rate": sum(row.get("answer", "") is None for row in rows) / len(rows),
        "lenient_accuracy": sum(row.get("lenient_correct", row["correct"]) for row in rows) / len(rows),
        "errors": sum(bool(row.get("error")) for row in rows),
        "tasks": subgroups(rows, "task"),
    }


def require_same_items(predictions: dict[str, Sequence[dict]]) -> None:
    """Raises ValueError, naming the first difference, unless all models answered the same items in order."""
    (first, expected), *others = predictions.items()
    for name, rows in others:
        for i, (a, b) in enumerate(zip_longest(expected, rows), start=1):
            if a is None or b is None:
                found = f"only {name if a is None else first} has row {i}, {(a or b)['id']!r}"
            elif key := next((key for key in IDENTITY if a[key] != b[key]), None):
                found = f"in row {i} the {key} is {a[key]!r} for {first} and {b[key]!r} for {name}"
            else:
                continue
            raise ValueError(f"{first} and {name} did not answer the same items: {found}")


def require_same_contract(predictions: dict[str, Sequence[dict]], free: Collection[str] = ()) -> dict[str, str | None]:
    """Returns the contract hash of each model; None where its rows do not say.

    Raises ContractError, naming both, where two differ. Models named in `free` may: a base with another prompt.
    """
    found = {}
    for name, rows in predictions.items():
        found[name], *others = several = {row.get("contract") for row in rows} or {None}
        if others:
            raise ContractError(f"{name}: its rows were made under several contracts: {', '.join(map(str, several))}")
    bound = {name: contract for name, contract in found.items() if contract and name not in free}
    for (a, one), (b, other) in pairwise(bound.items()):
        if one != other:
            raise ContractError(f"{a} was asked under contract {one}, {b} under {other}: their scores do not compare")
    return found


def require_different_models(predictions: dict[str, Sequence[dict]]) -> None:
    """Raises ValueError where two names stand for one model: a base that passes as SFT shows no gain and no loss.

    One model are two of equal weights hash or, where none is known, two that say the same, word for word, to ten items
    or more. Rows asked in another way (`decoding`, or on other media) may come from one model.
    """
    for a, b in combinations(predictions, 2):
        pairs = list(zip(predictions[a], predictions[b]))
        if any(x.get(key) != y.get(key) for x, y in pairs for key in ("decoding", "video", "contract")):
            continue
        one, other = ({row.get("weights") for row in predictions[name]} for name in (a, b))
        said = [(x.get("output"), y.get("output")) for x, y in pairs]
        if None not in (one | other or {None}):
            equal, why, hint = one == other, f"their weights are equal ({min(one)})", ""
        else:
            equal = len(said) >= FEW and any(x for x, _ in said) and all(x == y for x, y in said)
            why = f"all {len(said)} answers are equal, word for word"
            hint = "; if they are really two models, keep their weights hashes with the rows"
        if equal:
            raise ValueError(f"{a} and {b} are one model: {why}. Was {b}'s checkpoint loaded?{hint}")


def compare_pairs(predictions: dict[str, Sequence[dict]], free: Collection[str] = ()) -> dict:
    """Pair each model with the one before it. Returns {"contracts", "paired", "clustered", "texts"}; see `compare`."""
    require_same_items(predictions)
    contracts = require_same_contract(predictions, free)
    require_different_models(predictions)
    correct = {name: [row["correct"] for row in rows] for name, rows in predictions.items()}
    groups = [row["group"] for row in next(iter(predictions.values()))]
    steps = {f"{later}_vs_{earlier}": (correct[earlier], correct[later]) for earlier, later in pairwise(predictions)}
    return {
        "contracts": contracts,
        "paired": {name: asdict(statistics.paired(*pair)) for name, pair in steps.items()},
        "clustered": {name: asdict(statistics.paired_clustered(*pair, groups)) for name, pair in steps.items()},
        **compare_texts(predictions),
    }


def compare(predictions: dict[str, Sequence[dict]], train_rows: Sequence[dict], free: Collection[str] = ()) -> dict:
    """Score models on the same items, oldest first (base, sft, rl), and pair each with the one before it.

    Returns {"n", "chance", "majority", "tasks": {task: {"n", "chance", "majority"}}, "models": {name: score},
    "contracts": {name: hash}, "paired": {"sft_vs_base": fields of Paired, …}, "clustered": {the same: of Clustered}},
    and "texts" where there are answers in sentences (`compare_texts`); its "majority" is what one answer earns for all.
    `train_rows` need "task" and "reference" only, for the majority level. Models in `free` may have another contract.
    Raises ValueError for no models or rows, other items, or one model under two names; ContractError for contracts.
    """
    if not predictions:
        raise ValueError("no models to compare")
    pairs, rows = compare_pairs(predictions, free), next(iter(predictions.values()))
    if texts := pairs.get("texts"):
        wanted = [row["reference"] or "" for row in rows if row.get("kind") == "text"]
        texts["majority"] = best_for_all(wanted, [row["reference"] or "" for row in train_rows])

    def levels(part: Sequence[dict]) -> dict:
        return {"n": len(part), "chance": statistics.chance(part), "majority": statistics.majority(part, train_rows)}

    return {
        **levels(rows),
        "tasks": {task: levels(part) for task, part in by_field(rows).items()},
        "models": {name: score(rows) for name, rows in predictions.items()},
        **pairs,
    }


def compare_texts(predictions: dict[str, Sequence[dict]]) -> dict:
    """Compare what models say in sentences by the words that they share with the reference: mean F of ROUGE-L.

    Why: hardly a sentence is its reference word for word, so of two models the better one has no more right answers.
    Returns {"texts": {"n", "models": {name: {"rougeL", "ci95"}}, "clustered": {"sft_vs_base": fields of Clustered}}},
    all in [0, 1], intervals of whole clips, of the rows of kind "text"; {} where fewer than half of their references
    have SENTENCE words. Rows are paired, as `require_same_items` wants them.
    """
    texts = {name: [row for row in rows if row.get("kind") == "text"] for name, rows in predictions.items()}
    items = next(iter(texts.values()))
    long = sum(len(words_of(row["reference"] or "")) >= SENTENCE for row in items)
    if not items or long < len(items) / 2:
        return {}
    groups = [row["group"] for row in items]
    found = {name: [shared["rougeL"] for shared in shared_words(rows)] for name, rows in texts.items()}
    models = {
        name: {"rougeL": fmean(shares), "ci95": list(statistics.clustered_interval(shares, groups))}
        for name, shares in found.items()
    }
    pairs = {f"{b}_vs_{a}": statistics.paired_clustered(found[a], found[b], groups) for a, b in pairwise(found)}
    steps = {pair: asdict(step) for pair, step in pairs.items()}
    return {"texts": {"n": len(groups), "models": models, "clustered": steps}}


def subgroups(rows: Sequence[Row], by: str | Callable[[Row], Any]) -> dict[str, dict]:
    """Returns {value: {"n", "accuracy", "ci95"}} of a field, or of a function of a row; the lowest is partly luck."""
    return {value: _share(part) for value, part in by_field(rows, by).items()}


def won_and_lost(before: Sequence[Row], after: Sequence[Row]) -> dict[str, list[tuple[Row, Row]]]:
    """Returns (row before, row after) of the items that the later model won and lost: {"won": […], "lost": […]}."""
    kinds, pairs = {"won": (False, True), "lost": (True, False)}, list(zip(before, after))
    return {kind: [(a, b) for a, b in pairs if (a["correct"], b["correct"]) == was] for kind, was in kinds.items()}


def kept_skills(before: Sequence[Row], after: Sequence[Row]) -> dict[str, dict]:
    """Returns whether post-training kept each task of a regression set: {task: {verdict, difference, ci95, p, n}}.

    "lost": the 95 % interval of the difference lies below 0. "kept": it lies above -MARGIN. "not certain": else;
    ask more questions. "too few": below LEAST of them, whatever they say. The interval draws whole clips. Raises
    ValueError where the rows are not of the same items.
    """
    if [a["id"] for a in before] != [b["id"] for b in after]:
        raise ValueError("a regression set needs the same items in the same order, before and after")
    found = {}
    for task, pairs in by_field(list(zip(before, after)), lambda pair: pair[0]["task"]).items():
        right = [[row["correct"] for row in rows] for rows in zip(*pairs)]
        step = statistics.paired_clustered(*right, [a["group"] for a, _ in pairs])
        low, high = step.ci95
        # where no answer changed, redrawing finds nothing: what may still hide is what Wilson leaves of 0 in n
        if low == high == 0:
            low = -statistics.interval([False] * len(pairs))[1]
        verdict = "lost" if high < 0 else "kept" if low > -MARGIN else "not certain"
        verdict = "too few" if len(pairs) < LEAST else verdict
        found[task] = {
            "verdict": verdict, "difference": step.difference, "ci95": [low, high], "p": step.p, "n": len(pairs)
        }  # fmt: skip
    return found
