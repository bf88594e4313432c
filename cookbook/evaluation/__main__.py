"""Score stored predictions again, without a model: one file alone, several compared with the one before.

Why: the answers are the result; a better parser or another rule needs no GPU.

    python -m cookbook.evaluation score predictions.jsonl --json
    python -m cookbook.evaluation score base.jsonl sft.jsonl rl.jsonl            # compared, oldest first
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cookbook.data.answers import FORMATS
from cookbook.evaluation import scores
from cookbook.evaluation.metrics import measure
from cookbook.evaluation.predictions import read
from cookbook.evaluation.published import published_score


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Returns a name for each file: its own without "predictions_", behind as many folders as tell it from the others.

    Raises ValueError for a file that is given twice, or named as another one of its folder.
    """
    parts = [(*path.resolve().parent.parts, path.stem.removeprefix("predictions_")) for path in paths]
    ends = [["/".join(part[-n:]) for n in range(1, len(part))] for part in parts]
    seen = Counter(end for each in ends for end in each)
    names = [next((end for end in each if seen[end] == 1), "") for each in ends]
    if "" in names:
        raise ValueError(f"{paths[names.index('')]}: stands there twice; give each file once, under a name of its own")
    return names


def score_files(paths: Sequence[Path], form: str | None = None, published: bool = False) -> dict:
    """Score stored predictions again. Returns {"models": {name: score and metrics}}, with comparisons where several.

    With `published`, each has what NVIDIA's rule gives too. Raises ValueError for a file that is no predictions file,
    files of different items, or of one name (`told_apart`).
    """
    found = {name: read(path, form) for name, path in zip(told_apart(paths), paths)}
    models = {name: scores.score(rows) | {"metrics": measure(rows)} for name, rows in found.items()}
    for name, rows in found.items() if published else ():
        models[name]["published"] = published_score(rows)
    return {"models": models} | (scores.compare_pairs(found) if len(found) > 1 else {})


def _table(result: dict) -> Iterator[str]:
    """Yields the scores as lines of text."""
    for name, s in result["models"].items():
        line = "{}: {:.3f} [{:.3f}, {:.3f}] of {}".format(name, s["accuracy"], *s["ci95"], s["n"])
        line += f"; no answer read {s['unread_rate']:.3f}, wherever it stands {s['lenient_accuracy']:.3f}"
        yield line + (f"; by NVIDIA's rule {s['published']['accuracy']:.3f}" if "published" in s else "")
    for pair, p in result.get("paired", {}).items():
        yield f"{pair}: won {p['won']}, lost {p['lost']}: {p['difference']:+.3f}, p = {p['p']:.2g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 with one line on stderr where the files cannot be scored."""
    parser = argparse.ArgumentParser(prog="python -m cookbook.evaluation", description=__doc__.split("\n")[0])
    score = parser.add_subparsers(required=True, metavar="score").add_parser("score", help="score stored predictions")
    score.add_argument("files", nargs="+", type=Path, help="predictions.jsonl, one or several models; oldest first")
    score.add_argument("--json", action="store_true", help="all figures, as JSON")
    score.add_argument("--format", choices=list(FORMATS), help="where an answer stands; else as each row says")
    score.add_argument("--published", action="store_true", help="also by the rule of NVIDIA's benchmark script")
    given = parser.parse_args(arguments)
    try:
        result = score_files(given.files, given.format, given.published)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1, ensure_ascii=False) if given.json else "\n".join(_table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
