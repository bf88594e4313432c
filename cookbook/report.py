"""One HTML file that says whether the model got better, how sure that is, and shows it.

Why: a run is over when somebody else can judge it. The report needs no network, no JavaScript and no other
file, so it can be mailed, printed and kept. It opens with the answer and does not hide losses: examples are
chosen by a rule that the report states. The evaluation notebook and `make tutorial` write it.

    write_report("runs/tutorial/report.html", comparison, sft_metrics, rl_metrics, predictions, manifest)
"""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from cookbook import plots
from cookbook.video import VideoError

SURE = 0.05  # a step counts as better or worse below this p-value
COLORS = 256  # of a frame strip: a palette halves the file, and nobody sees the difference at this size


def hundred(share: float) -> str:
    """Returns a share in percent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def span(ci95: Sequence[float]) -> str:
    """Returns an interval of shares in percent, as in "67.6–76.2"."""
    return "–".join(map(hundred, ci95))


def points(difference: float) -> str:
    """Returns a difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Returns "p = 0.039", or "p < 0.001" for what is smaller."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _steps(comparison: dict) -> list[tuple[str, str, dict]]:
    """Returns (earlier model, later model, their paired test) for each step, first to last."""
    return [(a, b, comparison["paired"][f"{b}_vs_{a}"]) for a, b in pairwise(comparison["models"])]


def short_answer(comparison: dict) -> str:
    """Returns the answer to "did it get better?"; only a step whose p is below 0.05 counts."""
    sure = [(plots.label(later), pair["difference"]) for _, later, pair in _steps(comparison) if pair["p"] < SURE]
    up = " and ".join(name for name, difference in sure if difference > 0)
    down = " and ".join(name for name, difference in sure if difference < 0)
    if not comparison["paired"]:
        return "One model, nothing to compare it with"
    if up and len(sure) == len(comparison["paired"]) and not down:
        return "Yes, better at every step" if len(sure) > 1 else "Yes, better"
    if up and down:
        return f"Better with {up}, worse with {down}"
    if up:
        return f"Better with {up}; the rest is not certain"
    return f"No, worse with {down}" if down else "Not for certain"


def evidence(comparison: dict) -> str:
    """Returns the numbers behind the short answer in one sentence: accuracies, intervals, differences, p."""
    first, *_ = comparison["models"]
    found = comparison["models"][first]
    parts = [f"{plots.label(first)} answers {hundred(found['accuracy'])} % of {comparison['n']} held-out "
             f"questions right (95 % interval {span(found['ci95'])})"]  # fmt: skip
    for earlier, later, pair in _steps(comparison):
        found = comparison["models"][later]
        luck = "" if pair["p"] < SURE else ", which luck alone can explain"
        parts.append(f"{plots.label(later)} {hundred(found['accuracy'])} % ({span(found['ci95'])}), that is "
                     f"{points(pair['difference'])} points against {plots.label(earlier)} "
                     f"({p_value(pair['p'])}{luck})")  # fmt: skip
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def sort_items(predictions: dict[str, Sequence[dict]]) -> dict[str, list[int]]:
    """Returns the positions of the items worth showing under four headings, two for gains, two for losses."""
    names = [plots.label(name) for name in predictions]
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


def _example(position: int, predictions: dict[str, Sequence[dict]], fps: float) -> dict:
    """Returns what the template shows of one item: the clip, the question, and every model's words."""
    rows = {plots.label(name): rows[position] for name, rows in predictions.items()}
    item = next(iter(rows.values()))
    try:
        # dithering would draw noise into flat colours and make the file larger
        strip = plots.frame_strip(item["video"], fps).quantize(COLORS, dither=Image.Dither.NONE)
        picture, problem = _inline(strip), None
    except VideoError as error:
        picture, problem = None, f"No picture: {Path(item['video']).name} {str(error).split(': ', 1)[-1]}"
    return {"item": item, "strip": picture, "problem": problem, "rows": rows}


def write_report(
    path: str | Path,
    comparison: dict,
    sft_metrics: Sequence[dict],
    rl_metrics: Sequence[dict],
    predictions: dict[str, Sequence[dict]],
    manifest: dict,
    clips: int = 6,
    fps: float = 2.0,
) -> Path:
    """Write the report, and the folder it belongs in. Returns its path.

    `comparison` and `predictions` are those of scores.compare, the metrics are rows of metrics.jsonl (an
    empty list leaves the figure out), `manifest` is any nested dict, `fps` the contract's. A clip that cannot
    be read is named in place of its picture. The same arguments give the same bytes.
    """
    items = next(iter(predictions.values()))
    kinds = sort_items(predictions)
    chosen = choose(kinds, items, clips)
    # autoescape by name would miss "*.html.j2", and what a model writes may be HTML
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "hundred": hundred,
        "span": span,
        "points": points,
        "p_value": p_value,
        "label": plots.label,
    }
    page = environment.get_template("report.html.j2").render(
        answer=short_answer(comparison),
        evidence=evidence(comparison),
        comparison=comparison,
        models=[
            {"name": plots.label(name), "color": plots.MODEL_COLORS[i % len(plots.MODEL_COLORS)], **found}
            for i, (name, found) in enumerate(comparison["models"].items())
        ],
        clip_count=len({row["group"] for row in items}),
        bars=_inline(plots.accuracy_bars(comparison)),
        sft=_inline(plots.sft_curve(sft_metrics)) if sft_metrics else None,
        rl=_inline(plots.rl_curves(rl_metrics)) if rl_metrics else None,
        examples=[
            {"kind": kind, "total": len(kinds[kind]), "shown": [_example(i, predictions, fps) for i in found]}
            for kind, found in chosen.items()
            if found
        ],
        manifest=flatten(manifest),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
