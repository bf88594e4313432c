"""Published scoring rules beside ours, so that a published number can be compared with one of ours.

Why: two numbers compare only under one rule. NVIDIA's benchmark (cosmos-reason1, examples/benchmark; the same reading
is in its intelligent-transportation recipe) takes the first capital letter of the first <answer> block: "The answer is
B." becomes T. Here the rules are written again from what they do, and `compare_rules` shows each row on which they and
ours part. What no row can show: there, answers without a letter are asked again up to ten times, hotter each time, and
after the first clip that cannot be read every answer is compared with another question's key.

    published_score(rows)["accuracy"]
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def first_capital(output: str, tagged: bool = True) -> str:
    """Returns the letter that the benchmark reads: the first A-Z of the first closed <answer> block, or "".

    With `tagged` False (its answer type "letter"), the first A-Z of the whole output.
    """
    if tagged:
        _, opened, rest = output.partition("<answer>")
        block, closed, _ = rest.partition("</answer>")
        if not (opened and closed):
            return ""
        output = block
    return next((c for c in output if "A" <= c <= "Z"), "")


def published_right(row: Row, tagged: bool = True) -> bool:
    """Returns whether the benchmark counts the row as right: its letter is the whole reference, case aside."""
    return first_capital(row["output"], tagged).lower() == str(row["reference"]).lower()


def published_score(rows: Sequence[Row], tagged: bool = True) -> dict:
    """Returns n, accuracy (over all questions of all datasets at once), and unread (the share without a letter)."""
    if not rows:
        raise ValueError("no predictions to score")
    return {
        "n": len(rows),
        "accuracy": sum(published_right(row, tagged) for row in rows) / len(rows),
        "unread": sum(not first_capital(row["output"], tagged) for row in rows) / len(rows),
    }


def compare_rules(rows: Sequence[Row], tagged: bool = True) -> list[dict]:
    """Returns the rows that our rule and the published one judge differently: id, reference, output, both readings."""
    return [
        {
            "id": row["id"],
            "reference": row["reference"],
            "output": row["output"],
            "ours": row["answer"],
            "published": first_capital(row["output"], tagged),
        }
        for row in rows
        if row["correct"] != published_right(row, tagged)
    ]
