"""One HTML file that says whether the model got better, how sure that is, and shows it.

Why: a run is over when somebody else can judge it. The report needs no network, no JavaScript and no other
file, so it can be mailed, printed and kept. It opens with the answer and does not hide losses: examples are
chosen by a rule that the report states. Its sentences are those of `evaluation.findings`. The evaluation notebook
and `make tutorial` write it.

    write_report("runs/tutorial/report.html", comparison, sft_metrics, rl_metrics, predictions, manifest)
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from cookbook.data.video import VideoError
from cookbook.display import plots
from cookbook.display.tables import label
from cookbook.evaluation.findings import (
    against_controls,
    control_words,
    evidence,
    hundred,
    p_value,
    points,
    short_answer,
    skills,
    span,
    worse_words,
)
from cookbook.evaluation.metrics import choices
from cookbook.evaluation.protocol import letter_bias, won_and_lost
from cookbook.training.alarms import replay

__all__ = ["evidence", "short_answer", "write_report"]

COLORS = 256  # of a frame strip: a palette halves the file, and nobody sees the difference at this size
QUALITY = 80  # of a frame strip as JPEG, which is the smaller one for filmed clips
NAMED = 40  # of the items that were lost, so many are listed by name
CHOICES = ("mcq", "binary", "ordinal")  # the kinds of question that have a confusion


def sort_items(predictions: dict[str, Sequence[dict]]) -> dict[str, list[int]]:
    """Returns the positions of the items worth showing under four headings, two for gains, two for losses."""
    names = [label(name) for name in predictions]
    last, before_last = names[-1], names[-2:][0]
    gained = f"{last} is right where {before_last} was wrong"
    kept = f"{before_last} learned it, {last} kept it"
    lost = f"{last} is wrong where {before_last} was right"
    wrong = f"{last} is still wrong"
    kinds: dict[str, list[int]] = {gained: [], kept: [], lost: [], wrong: []}
    for i, rows in enumerate(zip(*predictions.values())):
        rights = [row["correct"] for row in rows]
        *earlier, before, after = rights[0], *rights  # a model alone is its own predecessor
        if after and not before:
            kinds[gained].append(i)
        elif after and not all(earlier):
            kinds[kept].append(i)
        elif before and not after:
            kinds[lost].append(i)
        elif not after:
            kinds[wrong].append(i)
    return kinds


def choose(kinds: dict[str, list[int]], items: Sequence[dict], limit: int) -> dict[str, list[int]]:
    """Returns at most `limit` positions in all, by heading, chosen without looking at the models' words.

    The headings take turns. Each gives its first item of a clip, and then of a task, that was shown least so
    far: six examples should not be six times one question.
    """
    left = {kind: list(positions) for kind, positions in kinds.items()}
    chosen: dict[str, list[int]] = {kind: [] for kind in kinds}
    shown: Counter = Counter()  # of clips and of tasks
    turns = (kind for _ in items for kind in kinds if left[kind])
    for kind in islice(turns, limit):
        clip_and_task = [(shown["clip", items[i]["group"]], shown["task", items[i]["task"]]) for i in left[kind]]
        pick = left[kind].pop(clip_and_task.index(min(clip_and_task)))  # of equal ones the first
        chosen[kind].append(pick)
        shown.update([("clip", items[pick]["group"]), ("task", items[pick]["task"])])
    return chosen


def flatten(nested: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Returns a nested dict as rows (dotted key, value); lists and other values as JSON, or as their text."""
    rows = []
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{key}", text))
    return rows


def _inline(picture: Figure | Image.Image) -> str:
    """Returns the picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(plots.png(picture)).decode()


def _strip(video: str, fps: float) -> str:
    """Returns a clip's frame strip as a data URI: drawn clips as PNG, filmed ones as JPEG, whichever is smaller."""
    strip, file = plots.frame_strip(video, fps), io.BytesIO()
    strip.save(file, format="JPEG", quality=QUALITY, optimize=True)
    # dithering would draw noise into flat colours and make the file larger
    found = _inline(strip.quantize(COLORS, dither=Image.Dither.NONE))
    return min(found, "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), key=len)


def _example(position: int, predictions: dict[str, Sequence[dict]], fps: float) -> dict:
    """Returns what the template shows of one item: the clip, the question, and every model's words."""
    rows = {label(name): rows[position] for name, rows in predictions.items()}
    item = next(iter(rows.values()))
    try:
        picture, problem = (_strip(item["video"], fps), None) if item["video"] else (None, "Asked without a clip.")
    except VideoError as error:
        picture, problem = None, f"No picture: {Path(item['video']).name} {str(error).split(': ', 1)[-1]}"
    return {"item": item, "strip": picture, "problem": problem, "rows": rows}


def _confusions(predictions: Mapping[str, Sequence[dict]]) -> list[dict]:
    """Returns for each kind of question with options: its columns, and each model's confusion and letter bias."""
    found = []
    for kind in CHOICES:
        parts = {name: [row for row in rows if row["kind"] == kind] for name, rows in predictions.items()}
        if not all(parts.values()):
            continue
        tables = {name: choices.confusion(rows) for name, rows in parts.items()}
        columns = sorted({told for table in tables.values() for line in table.values() for told in line})
        columns.sort(key=lambda told: told == choices.NONE)  # what could not be read comes last
        bias = {name: letter_bias(rows)["distance"] for name, rows in parts.items()}
        n = len(next(iter(parts.values())))
        found.append({"kind": kind, "n": n, "columns": columns, "tables": tables, "bias": bias})
    return found


def _lost(predictions: Mapping[str, Sequence[dict]]) -> list[tuple[dict, dict]]:
    """Returns (row before, row after) of the items that the last model lost against the one before it."""
    before, after = ([*predictions.values()] * 2)[-2:]
    lost = set(won_and_lost(before, after)["lost"])
    return [(a, b) for a, b in zip(before, after) if a["id"] in lost]


def _origin(comparison: dict, predictions: Mapping[str, Sequence[dict]]) -> list[dict]:
    """Returns what made each model's rows: the hashes of its weights and its contract, and the decoding."""
    firsts = {name: rows[0] for name, rows in predictions.items()}
    return [
        {"name": name, "contract": comparison.get("contracts", {}).get(name)}
        | {key: row.get(key) for key in ("weights", "decoding")}
        for name, row in firsts.items()
    ]


def _environment() -> Environment:
    # autoescape by name would miss "*.html.j2", and what a model writes may be HTML
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"hundred": hundred, "span": span, "points": points, "p_value": p_value, "label": label}
    environment.filters |= filters
    return environment


def write_report(
    path: str | Path,
    comparison: dict,
    sft_metrics: Sequence[dict],
    rl_metrics: Sequence[dict],
    predictions: dict[str, Sequence[dict]],
    manifest: dict,
    clips: int = 6,
    fps: float = 2.0,
    controls: Mapping[str, Sequence[dict]] | None = None,
    texts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    order: Sequence[str] = (),
) -> Path:
    """Write the report, and the folder it belongs in. Returns its path.

    `comparison` and `predictions` are those of scores.compare, the metrics are rows of metrics.jsonl (an
    empty list leaves the figure out), `manifest` is any nested dict, `fps` the contract's. `controls` are rows
    of the last model by control, `order` the tasks that only the order of the frames should answer, `texts` go in
    as they are, under their titles, `notes` are sentences beside the scores. A clip that cannot be read is named in
    place of its picture. The same arguments give the same bytes.
    """
    items = next(iter(predictions.values()))
    kinds = sort_items(predictions)
    chosen = choose(kinds, items, clips)
    last = list(predictions)[-1]
    held = against_controls(predictions[last], controls or {}, comparison)
    kept = skills(predictions)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            answer=short_answer(comparison),
            evidence=evidence(comparison),
            comparison=comparison,
            models=[
                {"name": label(name), "color": plots.MODEL_COLORS[i % len(plots.MODEL_COLORS)], **found}
                for i, (name, found) in enumerate(comparison["models"].items())
            ],
            clip_count=len({row["group"] for row in items}),
            notes=notes,
            bars=_inline(plots.accuracy_bars(comparison)),
            sft=_inline(plots.sft_curve(sft_metrics)) if sft_metrics else None,
            rl=_inline(plots.rl_curves(rl_metrics)) if rl_metrics else None,
            alarms=replay(rl_metrics),
            rl_steps=len(rl_metrics),
            last=label(last),
            controls={control: found for control, found in held.items() if "bias" not in found},
            control_words=[control_words(control, found, order) for control, found in held.items()],
            skills=kept,
            worse=worse_words(kept),
            lost=_lost(predictions),
            named=NAMED,
            confusions=_confusions(predictions),
            examples=[
                {"kind": kind, "total": len(kinds[kind]), "shown": [_example(i, predictions, fps) for i in found]}
                for kind, found in chosen.items()
                if found
            ],
            origin=_origin(comparison, predictions),
            texts=texts or {},
            manifest=flatten(manifest),
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
