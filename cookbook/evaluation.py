"""Evaluation: every model answers the same questions under the same contract, and each answer is kept.

Why: a score without its answers cannot be checked. `predict` writes predictions.jsonl, which `cookbook.scores` scores
without a model. Generation is greedy and batched; a row's answer never depends on its neighbours.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cookbook.contract import Contract
from cookbook.encoder import Encoder
from cookbook.progress import progress
from cookbook.samples import Sample
from cookbook.sampling import generate
from cookbook.sft import to


def predict(
    model, encoder: Encoder, samples: Sequence[Sample], name: str, size: int = 64, limit: int = 48
) -> list[dict]:
    """Returns one row a sample: what was asked, what came back, and whether it is right.

    `size` is the batch, `limit` the most new tokens. Fields: id, group (the clip), task, kind, question, options,
    reference, output, answer (None where none is stated), correct, well_formed, video.
    """
    model.eval()
    rows = []
    for start in progress(range(0, len(samples), size), f"{name}: batches of {size}"):
        part = list(samples[start : start + size])
        out = generate(model, to(model, encoder.prompt_batch(part)), limit)
        for sample, tokens, mask in zip(part, out.tokens, out.mask):
            text = encoder.tokenizer.decode(tokens[mask], skip_special_tokens=True)
            rows.append(judge(sample, text, encoder.contract))
    return rows


def judge(sample: Sample, output: str, contract: Contract) -> dict:
    """Returns the prediction row of one completion."""
    answer = contract.read_answer(output, sample.options)
    return {
        "id": sample.id,
        "group": sample.group,
        "task": sample.task,
        "kind": "binary" if len(sample.options) == 2 else "mcq",
        "question": sample.question,
        "options": list(sample.options),
        "reference": sample.answer,
        "output": output,
        "answer": answer,
        "correct": answer == sample.answer,
        "well_formed": contract.is_well_formed(output),
        "video": str(sample.video),
    }


def save(rows: Sequence[dict], path: Path) -> Path:
    """Write prediction rows, one a line. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    """Returns the rows of a predictions file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
