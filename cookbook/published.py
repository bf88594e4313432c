"""Published scoring rules beside ours, so that a published number can be compared with one of ours.

Why: two numbers compare only under one rule. NVIDIA's benchmark (cosmos-reason1, examples/benchmark; the same reading
is in its intelligent-transportation recipe) takes the first capital letter of the first <answer> block: "The answer is
B." becomes T. Here the rules are written again from what they do, and `compare_rules` shows each row on which they and
ours part. What no row can show: there, answers without a letter are asked again up to ten times, hotter each time, and
after the first clip that cannot be read every answer is compared with another question's key.

    published_score(rows)["accuracy"]
    read_results("outputs/benchmark/MODEL/reasoning")     # answers that NVIDIA's script has left, to score by our rules
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
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


def exact_reward(output: str, reference: str) -> bool:
    """Returns whether cosmos-rl 0.4.7's `single_choice` pays: the first <answer> block is the reference, case aside.

    Without a block the whole output is compared.
    """
    told, wanted = (
        found[1] if (found := re.search(r"<answer>(.*?)</answer>", words, re.DOTALL)) else words
        for words in (output, reference)
    )
    return told.strip().lower() == wanted.strip().lower()


def video_score(output: str) -> int | None:
    """Returns the grade that the video-rewards recipe reads: digits alone in an <answer> block; else None.

    Its metrics (accuracy and Pearson) leave out what it could not read; ours count that as wrong.
    """
    found = re.search(r"<answer>\s*(\d+)\s*</answer>", output)
    return int(found[1]) if found else None


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


def read_results(folder: str | Path) -> list[dict]:
    """Returns prediction rows of the files DATASET/CLIP.json that the benchmark's script leaves; see `read_row`.

    The option letters are those that occur as references in the folder; A and B at least. Raises ValueError where
    there is no such file, or an item is not one of the script's.
    """
    folder, rows = Path(folder), []
    for file in sorted(folder.rglob("*.json")):
        items = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(items, list):
            continue  # the script itself passes these over
        for number, item in enumerate(items):
            if not isinstance(item, dict) or not {"correct_answer", "full_response"} <= item.keys():
                raise ValueError(f"{file}: item {number} has no correct_answer and full_response")
            clip = f"{item.get('datasource', file.parent.name)}/{item.get('video_id', file.stem)}"
            rows.append(
                {
                    "id": f"{clip}-{number}",
                    "group": clip,
                    "task": item.get("datasource", file.parent.name),
                    "kind": "mcq",
                    "question": _asked(item.get("prompt")),
                    "reference": item["correct_answer"],
                    "output": item["full_response"],
                }
            )
    if not rows:
        raise ValueError(f"{folder}: holds no results of the benchmark's script (DATASET/CLIP.json)")
    letters = sorted({"A", "B"} | {row["reference"] for row in rows})
    return [row | {"options": letters} for row in rows]


def _asked(prompt: Any) -> str:
    """Returns the text of the user's turn of a stored prompt."""
    turns = [t for t in prompt if t.get("role") == "user"] if isinstance(prompt, list) else []
    content = turns[-1].get("content", "") if turns else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")
