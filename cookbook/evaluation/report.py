"""One HTML file that says whether the model got better, how sure that is, and shows it.

Why: a run is over when somebody else can judge it. The report needs no network and no other file, so it can be mailed,
printed and kept, and read on a phone, by keyboard or aloud. It opens with the answer and what limits it, and does not
hide losses: examples are chosen by a rule that it states. evaluation.ipynb and `make tutorial` write it;
`cookbook.compare` writes the same page of several jobs.

    Report(comparison, rows, sft_metrics, rl_metrics, controls).write("runs/tutorial/report.html")
"""

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from cookbook.data.video import VideoError
from cookbook.display import plots
from cookbook.display.clips import play
from cookbook.display.tables import Table, label
from cookbook.evaluation import findings
from cookbook.evaluation.metrics import choices
from cookbook.evaluation.outcome import doubts, outcome
from cookbook.evaluation.predictions import STAMP
from cookbook.evaluation.scores import won_and_lost
from cookbook.training.alarms import Alarm, replay

# of a frame: a palette halves the file, and nobody sees it at this size; filmed clips are smaller as JPEG
COLORS, QUALITY = 256, 80
CLIP = 300_000  # characters of the page that its one moving clip may take
# all that may run in the page, by its hash: lines are copied, and a box that is too wide says so and takes the keyboard
SCRIPT = """
for (const button of document.querySelectorAll(".copy button")) {
  button.hidden = false;
  button.onclick = () => {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = document.execCommand("copy") ? "copied" : "press Ctrl+C";
  };
}
const look = new ResizeObserver((boxes) => boxes.forEach(({ target: box }) => {
  const wide = box.scrollWidth > box.clientWidth;
  box.classList.toggle("wide", wide);
  box.tabIndex = wide || box.scrollHeight > box.clientHeight ? 0 : -1;
}));
document.querySelectorAll(".scroll, pre").forEach((box) => look.observe(box));
"""
SFT_WORDS = (
    "Loss of supervised fine-tuning over the steps",
    "Supervised fine-tuning. Both curves should fall and stay together; a validation loss that rises while the "
    "training loss falls means that the model learns its clips by heart.",
)
RL_WORDS = (
    "Eight curves of reinforcement learning over the steps",
    "Reinforcement learning. The reward should rise while the KL stays below its alarm. A group of equal rewards "
    "teaches nothing: near 100 % there is nothing left to learn from these questions. Entropy that falls to zero, or "
    "completions that are cut at the limit, are signs of a run going wrong.",
)
CHOICES = {"mcq": "Multiple choice", "binary": "Yes or no", "ordinal": "Grades"}  # kinds that have a confusion

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """What a report is made of. Equal ones are written as equal bytes."""

    comparison: dict  # of scores.compare
    rows: Mapping[str, Rows]  # predictions by model, oldest first
    sft: Rows = ()  # rows of metrics.jsonl; without any the figure is left out
    rl: Rows = ()  # the same of RL
    controls: Mapping[str, Rows] = field(default_factory=dict)  # of the last model, by control
    manifest: Mapping[str, Any] = field(default_factory=dict)  # any nested dict; an `outcome` of a run is told first
    texts: Mapping[str, str] = field(default_factory=dict)  # go in as they are, under their titles
    notes: Sequence[str] = ()  # sentences beside the scores
    order: Sequence[str] = ()  # tasks that only the order of the frames should answer
    clips: int = 6  # examples shown as frames; one that cannot be read is named in place of its picture
    fps: float = 2.0  # of those frames: the contract's
    again: Mapping[str, str] = field(default_factory=dict)  # lines to copy, by what they do
    settings: Table | None = None  # what differs between the jobs that are compared
    question: str = "Did it get better?"

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
            facts=dict(flatten(self.manifest)),
            bars=partial(plots.accuracy_bars, self.comparison),
            findings=findings,
            plots=plots,
            outcome=outcome,
            script=SCRIPT,
            allowed=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        )
        path.write_text(page, encoding="utf-8")
        return path

    def trainings(self) -> dict[str, Rows]:
        """Returns the metrics of each run that the models come from, by its name."""
        return {name: rows for name, rows in (("sft", self.sft), ("rl", self.rl)) if rows}

    @cached_property  # of a long run they take seconds
    def alarms(self) -> dict[str, list[Alarm]]:
        return {run: replay(rows) for run, rows in self.trainings().items()}

    def answer(self) -> tuple[str, list[str], str]:
        """Returns what stands first: the short answer, what limits it, and the numbers behind it."""
        runs = {name: facts for name, facts in self.manifest.items() if isinstance(facts, Mapping)}
        ended = {name: str(facts.get("outcome", "")) for name, facts in runs.items()}
        short = findings.short_answer(self.comparison, findings.skills(self.rows))
        return short, doubts(self.trainings(), ended, self.alarms), findings.evidence(self.comparison)

    def figures(self) -> list[tuple[Callable[[bool], Figure], str, str]]:
        """Returns the figures of the training: each drawn wide or narrow, what it shows, and how to read it."""
        drawn = ((self.sft, plots.sft_curve, SFT_WORDS), (self.rl, plots.rl_curves, RL_WORDS))
        return [(partial(draw, rows), *words) for rows, draw, words in drawn if rows]

    def models(self) -> list[dict]:
        """Returns each model's name, colour, score, and what made its rows: weights, contract, decoding."""
        scores, colors = self.comparison["models"].items(), cycle(plots.MODEL_COLORS)
        texts = findings.in_sentences(self.comparison).get("models", {})  # drawn in the place of right answers
        made = {name: {key: rows[0].get(key) for key in STAMP} for name, rows in self.rows.items()}

        def drawn(name: str, found: dict) -> dict:
            share, part = (texts[name]["rougeL"], texts[name]) if texts else (found["accuracy"], found)
            return {"name": label(name), "color": next(colors), "share": share, "ends": part["ci95"]}

        return [made[name] | found | drawn(name, found) for name, found in scores]

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
        for example in islice((e for found in shown.values() for e in found if e["frames"]), 1):
            example["clip"] = _clip(example["item"]["video"])
        return [{"kind": kind, "total": len(kinds[kind]), "shown": found} for kind, found in shown.items()]

    def _example(self, position: int) -> dict:
        """Returns what the template shows of one item: the clip, the question, and every model's words."""
        rows = {label(name): rows[position] for name, rows in self.rows.items()}
        item = next(iter(rows.values()))
        frames, problem = [], "" if item["video"] else "Asked without a clip."
        try:
            pictures = plots.frame_pictures(item["video"], self.fps) if item["video"] else []
            frames = [(seconds, _small(picture)) for seconds, picture in pictures]
        except VideoError as error:
            problem = f"No picture: {Path(item['video']).name} {str(error).split(': ', 1)[-1]}"
        return {"item": item, "frames": frames, "problem": problem, "rows": rows, "clip": ""}


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


def _inline(file: bytes, form: str = "image/png") -> str:
    """Returns a file as a data URI."""
    return f"data:{form};base64," + base64.b64encode(file).decode()


def _small(picture: Image.Image) -> str:
    """Returns a picture as a data URI: drawn ones as PNG, filmed ones as JPEG, whichever is smaller."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY, optimize=True)
    # dithering would draw noise into flat colours and make the file larger
    drawn = plots.png(picture.quantize(COLORS, dither=Image.Dither.NONE))
    return min(_inline(drawn), _inline(file.getvalue(), "image/jpeg"), key=len)


def _clip(video: str) -> str:
    """Returns a clip as a data URI that a browser plays; "" where no copy of it is small enough."""
    try:
        return _inline(play(video, CLIP).video, "video/mp4")
    except ValueError:
        return ""
