"""Compare the forms of one model on the same questions: full, quantised, served; and say whether each is as good.

Why: a smaller model is worth having only if it still answers the same questions as well, and "no significant
difference" on few questions proves nothing. So the loss that would be put up with is set before, and a form passes
where the whole 95 % interval of its difference lies above it (`statistics.non_inferior`).

    python -m cookbook.deploy compare full=runs/mine/rl int8=runs/mine/int8 --data FOLDER --margin 0.05
    found = compare_forms({"full": asked(…), "int8": asked(…)}, margin=0.05)
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.deploy.quantise import form_of, open_form, weight_bytes
from cookbook.display.tables import AsTable, Table, Verdict
from cookbook.evaluation.findings import points
from cookbook.evaluation.predict import predict
from cookbook.evaluation.scores import by_field, require_same_contract, require_same_items, score
from cookbook.evaluation.server import predict_server
from cookbook.evaluation.statistics import NonInferior, chance, non_inferior
from cookbook.runs import write_jsonl


@dataclass(frozen=True)
class Asked:
    """What one form of a model answered, and what it took: bytes of its files and weights, tokens written a second."""

    rows: Sequence[dict]
    disk: int | None
    memory: int | None  # None where the weights are another process's
    speed: float


def ask_form(
    name: str, path: str | Path, samples: Sequence[Sample], contract: Contract | None = None, out: Path | None = None
) -> Asked:
    """Let a checkpoint answer, full or quantised, all at once. `out` keeps the answers. Returns them with their cost.

    On a GPU memory is the most that was taken, without it the weights. Raises ContractError for another contract.
    """
    model, encoder = open_form(path, contract)
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    rows = predict(model, encoder, samples, name, limit=encoder.contract.max_new_tokens)
    seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() if on_gpu else weight_bytes(model)
    return _asked(rows, path, memory, encoder, seconds, out)


def ask_served(
    name: str, address: str, path: str | Path, samples: Sequence[Sample], encoder: Encoder, out: Path | None = None,
    served_as: str = "",
) -> Asked:  # fmt: skip
    """Let the server of a checkpoint answer, eight questions under way. `served_as` is its name there, else `name`.

    Raises RuntimeError where it answered nothing.
    """
    began, limit = time.perf_counter(), encoder.contract.max_new_tokens
    rows = predict_server(address, served_as or name, samples, encoder.contract, name, limit=limit)
    if all(row["error"] for row in rows):
        raise RuntimeError(f"{address}: answered no question; the first: {rows[0]['error']}")
    return _asked(rows, path, None, encoder, time.perf_counter() - began, out)


def _asked(rows, path, memory, encoder: Encoder, seconds: float, out: Path | None) -> Asked:
    written = sum(len(encoder.tokenizer(row["output"])["input_ids"]) + 1 for row in rows)  # and the one that ends it
    disk = sum(file.stat().st_size for file in form_of(path)[0].glob("*.safetensors"))
    if out:
        write_jsonl(rows, out)
    return Asked(rows, disk, memory, written / seconds)


@dataclass(frozen=True, repr=False)
class Forms(AsTable):
    """The forms of one model, the first the one that the others must be as good as, and what was found of each."""

    asked: Mapping[str, Asked]
    found: Mapping[str, NonInferior]  # by name, without the first

    def _table(self) -> Table:
        head = ("form", "right", "won, lost", "95 %, by clip", "changed", "files, MB", "memory, MB", "tokens/s")
        lines = []
        for name, asked in self.asked.items():
            right, found = sum(row["correct"] for row in asked.rows), self.found.get(name)
            first = next(iter(self.asked.values())).rows
            changed = sum(a["output"] != b["output"] for a, b in zip(first, asked.rows))
            size = ["" if size is None else f"{size / 1e6:.2f}" for size in (asked.disk, asked.memory)]
            pairs = [(a["correct"], b["correct"]) for a, b in zip(first, asked.rows)]
            decided = ", ".join(str(pairs.count(pair)) for pair in ((False, True), (True, False)))
            told = [decided, " to ".join(map(points, found.ci95)), changed] if found else [""] * 3
            lines.append([name, f"{right} of {len(asked.rows)}", *told, *size, f"{asked.speed:.0f}"])
        return Table(head, lines)

    def verdicts(self) -> list[Verdict]:
        """Returns a sentence for each form: as good but for the margin, worse by more, or not shown."""
        first, said = next(iter(self.asked)), []
        for name, found in self.found.items():
            interval = " to ".join(map(points, found.ci95))
            words = f"{name} answers as well as {first}, within {100 * found.margin:g} points at 95 % ({interval})"
            lost = "it loses more than the margin", "keep the full form, or try the other one"
            wide = "the interval is too wide for the margin", f"ask about {found.needed} questions"
            said.append(Verdict(words, found.holds, *(lost if found.holds is False else wide)))
        return said

    def summary(self) -> dict:
        """Returns what a card tells of the forms, as evaluation's comparison.json has it, and what held."""
        rows = {name: asked.rows for name, asked in self.asked.items()}
        parts = by_field(next(iter(rows.values())))
        return {
            "chance": chance(next(iter(rows.values()))),
            "tasks": {task: {"n": len(part), "chance": chance(part)} for task, part in parts.items()},
            "models": {name: score(part) for name, part in rows.items()},
            "verdicts": [verdict.words for verdict in self.verdicts() if verdict.holds],
        }


def require_references(references: Iterable[object]) -> None:
    """Raises ValueError where no question has one."""
    if not any(references):
        raise ValueError("no question has a reference, so no answer can be right, and all forms would pass")


def compare_forms(asked: Mapping[str, Asked], margin: float = 0.05) -> Forms:
    """Returns the forms beside each other, each tested against the first with a margin (share of right answers).

    Raises ValueError where they did not answer the same items, or none has a reference; ContractError for others.
    """
    rows = {name: form.rows for name, form in asked.items()}
    require_same_items(rows)
    require_references(row["reference"] for row in next(iter(rows.values())))
    require_same_contract(rows)
    (_, first), *others = rows.items()
    groups, right = [row["group"] for row in first], [row["correct"] for row in first]
    tested = {name: non_inferior(right, [row["correct"] for row in part], groups, margin) for name, part in others}
    return Forms(asked, tested)
