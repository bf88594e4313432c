"""One HTML file that says whether the model got better, how sure that is, and shows it.

Why: a run is over when somebody else can judge it. The report needs no network, no JavaScript and no other file, so it
can be mailed, printed and kept. It opens with the answer and does not hide losses: examples are chosen by a rule that
it states. evaluation.ipynb and `make tutorial` write it.

    Report(comparison, rows, sft_metrics, rl_metrics, controls).write("runs/tutorial/report.html")
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from cookbook.data.video import VideoError
from cookbook.display import plots
from cookbook.display.tables import label
from cookbook.evaluation import findings
from cookbook.evaluation.metrics import choices
from cookbook.evaluation.outcome import outcome
from cookbook.evaluation.predictions import STAMP
from cookbook.evaluation.scores import won_and_lost
from cookbook.training.alarms import replay

# of a frame strip: a palette halves the file, and nobody sees it at this size; filmed clips are smaller as JPEG
COLORS, QUALITY = 256, 80
CHOICES = {"mcq": "Multiple choice", "binary": "Yes or no", "ordinal": "Grades"}  # kinds that have a confusion

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """What a report is made of. Equal ones are written as equal bytes."""

    comparison: dict  # of scores.compare
    rows: Mapping[str, Rows]  # predictions by model, oldest first
    sft: Rows = ()  # rows of metrics.jsonl; without any the figure is left out
    rl: Rows = ()  # the same of RL, whose alarms stand beside it
    controls: Mapping[str, Rows] = field(default_factory=dict)  # of the last model, by control
    manifest: Mapping[str, Any] = field(default_factory=dict)  # any nested dict
    texts: Mapping[str, str] = field(default_factory=dict)  # go in as they are, under their titles
    notes: Sequence[str] = ()  # sentences beside the scores
    order: Sequence[str] = ()  # tasks that only the order of the frames should answer
    clips: int = 6  # examples shown as frames; one that cannot be read is named in place of its picture
    fps: float = 2.0  # of those frames: the contract's

    def write(self, path: str | Path) -> Path:
        """Write the report, and the folder it belongs in. Returns its path."""
        # autoescape by name would miss "*.html.j2", and what a model writes may be HTML
        trim = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
        environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, **trim)
        words = ("hundred", "from_to", "points", "p_value", "label")
        environment.filters |= {name: getattr(findings, name) for name in words} | {"inline": _inline}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        before, last = ([*self.rows.values()] * 2)[-2:]
        page = environment.get_template("report.html.j2").render(
            report=self,
            lost=won_and_lost(before, last)["lost"],
            held=findings.against_controls(last, self.controls, self.comparison),
            replay=replay,
            outcome=outcome,
            facts=dict(flatten(self.manifest)),
            findings=findings,
            plots=plots,
        )
        path.write_text(page, encoding="utf-8")
        return path

    def models(self) -> list[dict]:
        """Returns each model's name, colour, score, and what made its rows: weights, contract, decoding."""
        scores, colors = self.comparison["models"].items(), cycle(plots.MODEL_COLORS)
        made = {name: {key: rows[0].get(key) for key in STAMP} for name, rows in self.rows.items()}
        return [made[name] | found | {"name": label(name), "color": next(colors)} for name, found in scores]

    def confusions(self) -> list[dict]:
        """Returns for each kind of question with options: its columns, and each model's confusion and letter bias."""
        found = []
        for kind, title in CHOICES.items():
            parts = {name: [row for row in rows if row["kind"] == kind] for name, rows in self.rows.items()}
            if n := min(map(len, parts.values())):
                tables = {name: choices.confusion(rows) for name, rows in parts.items()}
                columns = {told for table in tables.values() for line in table.values() for told in line}
                columns = [*sorted(columns - {choices.NONE}), choices.NONE]  # what could not be read comes last
                bias = {name: choices.letter_bias(rows)["distance"] for name, rows in parts.items()}
                found.append({"title": title, "n": n, "columns": columns, "tables": tables, "bias": bias})
        return found

    def examples(self) -> list[dict]:
        """Returns the headings with their number of items, and what is shown of those that were chosen."""
        kinds = sort_items(self.rows)
        chosen = choose_examples(kinds, next(iter(self.rows.values())), self.clips).items()
        shown = {kind: [self._example(i) for i in found] for kind, found in chosen if found}
        return [{"kind": kind, "total": len(kinds[kind]), "shown": found} for kind, found in shown.items()]

    def _example(self, position: int) -> dict:
        """Returns what the template shows of one item: the clip, the question, and every model's words."""
        rows = {label(name): rows[position] for name, rows in self.rows.items()}
        item = next(iter(rows.values()))
        try:
            picture, problem = (_strip(item["video"], self.fps), "") if item["video"] else ("", "Asked without a clip.")
        except VideoError as error:
            picture, problem = "", f"No picture: {Path(item['video']).name} {str(error).split(': ', 1)[-1]}"
        return {"item": item, "strip": picture, "problem": problem, "rows": rows}


def sort_items(predictions: Mapping[str, Rows]) -> dict[str, list[int]]:
    """Returns the positions of the items worth showing under four headings, two for gains, two for losses."""
    *_, old, new = [label(name) for name in predictions] * 2  # a model alone is its own predecessor
    gained, kept = f"{new} is right where {old} was wrong", f"{old} learned it, {new} kept it"
    lost, wrong = f"{new} is wrong where {old} was right", f"{new} is still wrong"
    kinds: dict[str, list[int]] = {gained: [], kept: [], lost: [], wrong: []}
    for i, rows in enumerate(zip(*predictions.values())):
        *earlier, before, after = [row["correct"] for row in rows] * 2
        if not after:
            kinds[lost if before else wrong].append(i)
        elif not all((*earlier, before)):
            kinds[kept if before else gained].append(i)
    return kinds


def choose_examples(kinds: Mapping[str, Sequence[int]], items: Rows, limit: int) -> dict[str, list[int]]:
    """Returns at most `limit` positions in all, by heading, chosen without looking at the models' words.

    The headings take turns. Each gives its first item of a clip, and then of a task, that was shown least so
    far: six examples should not be six times one question.
    """
    left = {kind: list(positions) for kind, positions in kinds.items()}
    chosen: dict[str, list[int]] = {kind: [] for kind in kinds}
    shown: Counter = Counter()  # of clips and of tasks
    turns = (kind for _ in items for kind in kinds if left[kind])
    for kind in islice(turns, limit):
        pick = min(left[kind], key=lambda i: (shown["clip", items[i]["group"]], shown["task", items[i]["task"]]))
        left[kind].remove(pick)
        chosen[kind].append(pick)
        shown.update([("clip", items[pick]["group"]), ("task", items[pick]["task"])])
    return chosen


def flatten(nested: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields a nested dict as rows (dotted key, value); lists and other values as JSON, or as their text."""
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _inline(picture: bytes, form: str = "png") -> str:
    """Returns a picture as a data URI."""
    return f"data:image/{form};base64," + base64.b64encode(picture).decode()


def _strip(video: str, fps: float) -> str:
    """Returns a clip's frame strip as a data URI: drawn clips as PNG, filmed ones as JPEG, whichever is smaller."""
    strip, file = plots.frame_strip(video, fps), io.BytesIO()
    strip.save(file, format="JPEG", quality=QUALITY, optimize=True)
    # dithering would draw noise into flat colours and make the file larger
    drawn = plots.png(strip.quantize(COLORS, dither=Image.Dither.NONE))
    return min(_inline(drawn), _inline(file.getvalue(), "jpeg"), key=len)
