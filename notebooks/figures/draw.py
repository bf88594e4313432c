"""Draws the notebooks' figures: one look for all, and no number typed in that can be worked out.

Why: a figure that was drawn by hand is wrong after the next change. These take their numbers from the package, from the
shipped files and from what a notebook has printed; `tests/test_figures.py` draws them again and compares. A figure is
a function below: its docstring, filled with the numbers that it returns, is the text alternative.

    make figures                            # or: python notebooks/figures/draw.py
"""

import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from math import log, pi
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import torch
from tokenizers import Tokenizer

from cookbook.config import Config, clip_tokens, plan
from cookbook.config.schema import GENERATIONS, MINI
from cookbook.config.speed import GIB, PARAMETERS_7B
from cookbook.data.architecture import QWEN2_5_VL, QWEN3_VL
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text
from cookbook.data.vision import TEMPORAL_PATCH, UNIT, clip_size, frames_seen, stamps
from cookbook.evaluation.controls import circular, shuffled, single_frame
from cookbook.evaluation.metrics.boxes import corners, iou_3d, iou_yaw
from cookbook.evaluation.statistics import non_inferior
from cookbook.runs import ROOT
from cookbook.training import objective
from cookbook.training.rewards import reward, reward_weights
from data_tools import road_vqa
from data_tools.worlds import drawing, road

WIDTH, EDGE = 520, 26  # of the drawing, of its margin
SHOWN = 560  # pixels that it takes where there is room; at 390 the small words are still 10 high
LINE = 20  # from one line of small words to the next
CONTRACT, BASE, RL, SFT = "configs/prompts/road.yaml", "models/tiny-base", "configs/tiny_rl.toml", "configs/sft.toml"
MID, END = "middle", "end"
# in light and in dark; on NAME-soft one reads ink, mute and NAME. Grey is the base, blue SFT, red RL, green what comes
# from the data (clips, rewards), purple what is agreed or asked (contract, evaluation)
COLORS = {
    "panel": ("#ffffff", "#161b22"),
    "edge": ("#d0d7de", "#3d444d"),
    "ink": ("#1f2328", "#e6edf3"),
    "mute": ("#57606a", "#a8b1bc"),
    "grey": ("#656d76", "#a8b1bc"),
    "grey-soft": ("#eef1f4", "#262d36"),
    "blue": ("#0a629f", "#6cb6ff"),
    "blue-soft": ("#e1f0fa", "#10304a"),
    "red": ("#ae4500", "#ff9f5f"),
    "red-soft": ("#fdeadb", "#46260f"),
    "green": ("#00694f", "#56d3a8"),
    "green-soft": ("#ddf3eb", "#0f3b30"),
    "purple": ("#8c3d6b", "#f0a0cf"),
    "purple-soft": ("#f7e6f0", "#45223a"),
}
FONTS = """\
text{font:16px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","DejaVu Sans",Arial,sans-serif}
.small{font-size:14px}.head{font-size:20px}.head,.bold{font-weight:600}
.code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:14px}"""

CHOSEN = objective.Objective.of(Config.load(RL))
Point = tuple[float, float]


def tag(name: str, inside: str = "", **values: object) -> str:
    """Returns an element. A `_` in a name is a `-`, one at its end goes; numbers get one decimal; None is left out."""
    given = ""
    for key, value in values.items():
        if value is not None:
            shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
            given += f" {key.rstrip('_').replace('_', '-')}={quoteattr(shown)}"
    return f"<{name}{given}>{inside}</{name}>" if inside else f"<{name}{given}/>"


def way(points: Sequence[Point]) -> str:
    """Returns points as the `d` of a path."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


class Figure:
    """One drawing: what is put on it, in order. `x` and `y` are units of a panel WIDTH wide; colours are COLORS."""

    def __init__(self) -> None:
        self.body: list[str] = []
        self.pictures: dict[str, str] = {}

    def box(self, x, y, width, height, fill=None, line=None, radius=8, dashes=None) -> None:
        """Draw a rectangle, filled, framed or both."""
        look = " ".join(filter(None, (fill, line and f"{line}-line")))
        plain = None if fill else "none"
        self.body.append(tag("rect", x=x, y=y, width=width, height=height, rx=radius, fill=plain,
                             stroke_dasharray=dashes, class_=look))  # fmt: skip

    def say(self, x, y, words, look="ink small", at=None) -> None:
        """Write a line, or several below each other, the first with its foot at y."""
        for i, line in enumerate([words] if isinstance(words, str) else words):
            self.body.append(tag("text", escape(line), x=x, y=y + i * LINE, class_=look, text_anchor=at))

    def path(self, points: Sequence[Point], line="mute", width=2.0, dashes=None) -> None:
        """Draw straight lines from point to point."""
        self.body.append(tag("path", d=way(points), fill="none", stroke_width=width, stroke_dasharray=dashes,
                             class_=f"{line}-line"))  # fmt: skip

    def arrow(self, *points: Point, line="mute", width=2.0) -> None:
        """Draw a path that ends in a head."""
        (x0, y0), (x, y) = points[-2:]
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        ux, uy = (x - x0) / length, (y - y0) / length
        self.path([*points[:-1], (x - 6 * ux, y - 6 * uy)], line, width)
        self.area([(x, y), *((x - 9 * ux + s * 5 * uy, y - 9 * uy - s * 5 * ux) for s in (1, -1))], line)

    def area(self, points: Sequence[Point], fill: str) -> None:
        """Fill a polygon."""
        self.body.append(tag("path", d=way(points) + "Z", class_=fill))

    def dot(self, at: Point, fill: str) -> None:
        """Mark a point, with a rim that sets it off from the curve below."""
        self.body.append(tag("circle", cx=at[0], cy=at[1], r=7, stroke_width=2, class_=f"{fill} panel-line"))

    def card(self, x, y, width, height, color, name, *words, code=()) -> None:
        """Draw a named thing: a soft box with its name in bold, then small lines, centred."""
        self.box(x, y, width, height, f"{color}-soft", color)
        middle, foot = x + width / 2, y + (height - (len(words) + len(code)) * LINE) / 2 + 5
        self.say(middle, foot, name, f"{color} bold", MID)
        self.say(middle, foot + LINE, words, "ink small", MID)
        self.say(middle, foot + LINE * (1 + len(words)), code, "ink code", MID)

    def frame(self, clip: road.Clip, i: int, x, y, side) -> None:
        """Show a frame of a clip of the toy road, from the places that its script decided."""
        key = f"{clip.label['video_id']}-{i}"
        self.pictures.setdefault(key, tag("symbol", picture(clip, i), id=key, viewBox="0 0 100 100"))
        self.body.append(tag("use", href=f"#{key}", x=x, y=y, width=side, height=side))
        self.box(x, y, side, side, line="edge", radius=2)

    def svg(self, title: str, about: str, height: int) -> str:
        """Returns the file: the panel with its headline, then what was put on it."""
        panel = Figure()
        panel.box(0.5, 0.5, WIDTH - 1, height - 1, "panel", "edge", radius=14)
        panel.say(EDGE, 42, title, "ink head")
        body = "\n".join(panel.body + self.body)
        looks = [name for name in COLORS if re.search(rf'["\s]{name}(-line)?["\s]', body)]
        light, dark = (
            "".join(f".{name}{{fill:{COLORS[name][i]}}}.{name}-line{{stroke:{COLORS[name][i]}}}" for name in looks)
            for i in (0, 1)
        )
        parts = [
            tag("title", escape(title), id="title"),
            tag("desc", escape(about), id="desc"),
            tag("style", f"\n{FONTS}\n{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n"),
            *([tag("defs", "\n".join([ground(), *self.pictures.values()]))] if self.pictures else []),
            body,
        ]
        size = {"viewBox": f"0 0 {WIDTH} {height}", "width": SHOWN, "height": height * SHOWN // WIDTH}
        root = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_labelledby": "title desc", **size}
        return tag("svg", "\n" + "\n".join(parts) + "\n", **root) + "\n"


FIGURES: dict[str, Callable[[], tuple[str, str, str]]] = {}


def figure(name: str, height: int, title: str) -> Callable:
    """Returns the decorator that makes `FIGURES[name]`: a function to the title, the text alternative and the file."""

    def keep(draw: Callable[[Figure], dict]) -> Callable:
        def made() -> tuple[str, str, str]:
            drawn = Figure()
            numbers = draw(drawn) or {}
            told, about = (words.format(**numbers) for words in (title, " ".join(draw.__doc__.split())))
            return told, about, drawn.svg(told, about, height)

        FIGURES[name] = made
        return draw

    return keep


# ---- what is shown ----------------------------------------------------------------------------------------------

LAMP = road.STOP_X - 0.11, road.ROAD_Y - road.LANE - 0.13


def block(x, y, width, height, color) -> str:
    """Returns a box of a picture, by its middle, in the road's own units."""
    left, top, wide, high = (100 * float(v) for v in (x - width / 2, y - height / 2, width, height))
    return tag("rect", x=left, y=top, width=wide, height=high, fill=hexed(color))


def hexed(color) -> str:
    """Returns red, green and blue as #rrggbb."""
    return "#" + "".join(f"{int(c):02x}" for c in color)


def ground() -> str:
    """Returns what all clips have in common, as `road.render` paints it: two roads, the line, the signal's case."""
    asphalt, paint, both = (100, 102, 106), (212, 212, 208), 2 * road.LANE
    roads = block(road.CROSS_X, 0.5, 2 * road.CROSS_HALF, 1, asphalt) + block(0.5, road.ROAD_Y, 1, both, asphalt)
    lines = [block(x, road.ROAD_Y, 0.08, 0.018, paint) for x in (0.05, 0.21, 0.37)]
    case = block(road.STOP_X, road.ROAD_Y, 0.025, both, paint) + block(*LAMP, 0.19, 0.19, (30, 30, 34))
    return tag("g", block(0.5, 0.5, 1, 1, (158, 170, 138)) + roads + "".join(lines) + case, id="ground")


def picture(clip: road.Clip, i: int) -> str:
    """Returns a frame of a clip on its ground: the lamp, and who is where."""
    lamp = tag("circle", cx=100 * LAMP[0], cy=100 * LAMP[1], r=7.5, fill=hexed(road.LAMPS[clip.lamp[i]]))
    shapes = [tag("use", href="#ground"), lamp]
    for actor in reversed(clip.actors):
        (x, y), turn = actor.xy[i], slice(None, None, -1 if actor.upright else 1)
        dx, dy = (actor.nose * actor.length * 0.2, 0)[turn]
        color = drawing.COLORS.get(actor.color, (110, 70, 35))
        glass = (0.16 * actor.length, 0.76 * actor.width)[turn]
        shapes += [block(x, y, *(actor.length, actor.width)[turn], color)]
        shapes += [block(x + dx, y + dy, *glass, [0.3 * c + 25 for c in color])]
    turned = "translate(100 0) scale(-1 1) " * clip.flip + f"rotate({90 * clip.turns} 50 50)"
    return tag("g", "".join(shapes), transform=turned)


def clips() -> list[road.Clip]:
    """Returns the training clips of a world of four, as data.ipynb has them."""
    return [clip for clip, _ in road.plan_split("train", 4, seed=0)]


def printed(notebook: str, cell: str) -> str:
    """Returns what a cell has printed. Raises ValueError where it printed nothing."""
    book = json.loads((ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8"))
    found = next((c.get("outputs", ()) for c in book["cells"] if c["id"] == cell), ())
    if not (words := "".join(line for output in found for line in output.get("text", ()))):
        raise ValueError(f"notebooks/{notebook}.ipynb: cell {cell} has printed nothing; run it: make notebooks")
    return words


def session(log: str) -> tuple[list[tuple[str, float, float, float]], int, float]:
    """Returns (model, percent right and the ends of its interval, for each; questions; percent that guessing gets).

    They are those of the newest terminal session in a text like LOG.md.
    """
    newest = log[log.index("$ make tutorial\n") :].partition("```")[0]
    models = re.findall(r"^(base|SFT|RL) +([\d.]+) %  \[([\d.]+)–([\d.]+)\]", newest, re.MULTILINE)
    questions, guess = re.search(r"of (\d+) questions .* ([\d.]+) %$", newest, re.MULTILINE).groups()
    return [(model, *map(float, numbers)) for model, *numbers in models], int(questions), float(guess)


def signed(value: float, decimals: int = 2) -> str:
    """Returns a number with its sign, minus as a minus."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def token_gain(ratio: float, advantage: float, beta: float = 0.0) -> tuple[float, float]:
    """Returns what the objective gains by one token at a ratio to the policy that sampled, and the slope there."""
    logp, zero, one = torch.full((1, 1), log(ratio), requires_grad=True), torch.zeros(1, 1), torch.ones(1, 1)
    limits = CHOSEN.epsilon_low, CHOSEN.epsilon_high, beta
    loss, _ = objective.policy_loss(logp, zero, zero, advantage * one, one, *limits, bound=CHOSEN.lower_bound_ratio)
    loss.backward()
    return -loss.item(), -logp.grad.item()


# ---- the figures, in the order in which a reader meets them -----------------------------------------------------


@figure("road", 522, "From a base model to a report")
def _(f: Figure) -> dict:
    """Clips with labels become questions. The base model is trained on the training questions, first by SFT, then by
    RL. All three models answer the same questions about test clips, and their answers become a report."""
    f.box(EDGE, 62, 468, 92, "green-soft", "green")
    f.say(44, 98, "data", "green bold")
    f.say(44, 122, "clips with labels become questions")
    for i, x in zip((0, 3, 7), (330, 382, 434)):
        f.frame(clips()[0], i, x, 84, 46)
    models = ("base", "grey", "sees shapes"), ("SFT", "blue", "copies answers"), ("RL", "red", "is rewarded")
    for k, (name, color, what) in enumerate(models):
        x = 70 + 150 * k
        f.card(x, 224, 124, 74, color, name, what)
        f.arrow((x + 62, 298), (x + 62, 356), line=color)
        if name != "base":
            f.arrow((x - 26, 261), (x, 261))
            f.arrow((x + 62, 154), (x + 62, 224), line="green")
    f.arrow((48, 154), (48, 356), line="green")
    f.say(58, 194, f"test: {road_vqa.CLIPS['test']} clips", "green small")
    f.say(357, 194, f"train: {road_vqa.CLIPS['train']} clips", "green small", MID)
    f.card(EDGE, 356, 468, 70, "purple", "evaluation", "the same unseen questions for all three")
    f.arrow((260, 426), (260, 458), line="purple")
    f.card(180, 458, 160, 42, "purple", "report.html")


@figure("engines", 546, "One notebook, two engines")
def _(f: Figure) -> dict:
    """The same notebook, configuration and loader go to one of two engines: local, one process with model, optimizer
    and rollouts, or cosmos-rl, a controller, redis, and workers on GPUs. Both leave the same files in the run's
    folder."""
    f.card(110, 64, 300, 62, "purple", "sft.ipynb, rl.ipynb", "one TOML file, one loader")
    local = [["model"], ["optimizer"], ["rollouts"]]
    engine = [["controller", "redis"], ["policy GPU"] * 2, ["rollout GPU"] * 2]
    for x, start, color, name, words, inside in (
        (EDGE, 200, "grey", "local", "one process, CPU or GPU", local),
        (274, 320, "blue", "cosmos-rl", "many processes, GPUs", engine),
    ):
        f.arrow((start, 126), (start, 148), (x + 110, 148), (x + 110, 170), line=color)
        f.box(x, 170, 220, 234, f"{color}-soft", color)
        f.say(x + 110, 198, name, f"{color} bold", MID)
        f.say(x + 110, 220, words, at=MID)
        for i, row in enumerate(inside):
            for k, part in enumerate(row):
                wide, high = 196 / len(row), 150 / len(inside)
                left, top = x + 12 + k * wide, 238 + i * high
                f.box(left + 2, top + 2, wide - 4, high - 4, "panel", color, 6)
                f.say(left + wide / 2, top + high / 2 + 5, part, at=MID)
        f.arrow((x + 110, 404), (x + 110, 436), line=color)
    f.card(EDGE, 436, 468, 88, "green", "runs/JOB/", code=["config.toml, manifest.json", "metrics.jsonl, safetensors/"])


@figure("choice", 424, "RL needs tries that differ")
def _(f: Figure) -> dict:
    """The share of groups of {group} answers that RL can learn from, over how often the model is right: 0 where it is
    never or always right, nearly all where it is right half of the time. What is never right needs SFT."""
    group = Config.load(RL)[GENERATIONS]
    f.say(EDGE, 70, f"share of groups of {group} answers with right and wrong ones", "mute small")
    curve = [(70 + 4 * p, 290 - 190 * (1 - (p / 100) ** group - (1 - p / 100) ** group)) for p in range(101)]
    f.area(curve, "red-soft")
    f.path([(62, 100), (70, 100), (70, 290), (470, 290)], width=1.5)
    f.path(curve, "red", 3.5)
    f.say(54, 295, "0", "mute small", END)
    f.say(54, 105, "1", "mute small", END)
    for at, name in ((0, "never"), (0.5, "right half the time"), (1, "always")):
        f.say(70 + 400 * at, 312, name, "mute small", MID)
    f.say(270, 190, ["RL learns from", "the difference"], at=MID)
    f.card(EDGE, 334, 144, 66, "blue", "never right", "SFT brings it")
    f.card(188, 334, 144, 66, "red", "sometimes", "RL strengthens it")
    f.card(350, 334, 144, 66, "grey", "always right", "ask harder")
    return {"group": group}


@figure("tokens", 452, "A clip becomes {count} tokens")
def _(f: Figure) -> dict:
    """{frames} frames of a clip are taken two by two: {steps} steps. Each step is cut into {patches} patches of {patch}
    x {patch} pixels, and 2 x 2 patches become one token: {steps} steps x {rows} x {rows} = {count} tokens."""
    vision, clip, seconds = Contract.load(ROOT / CONTRACT).vision, clips()[0], road.FRAMES / road.FPS
    frames, limits = frames_seen(seconds, vision.fps, road.FRAMES), (vision.min_pixels, vision.max_pixels)
    side = clip_size(road.SIZE, road.SIZE, frames, *limits)[0]
    steps, rows, patch = frames // TEMPORAL_PATCH, side // UNIT, UNIT // 2
    count, patches = clip_tokens(seconds, vision.fps, road.SIZE, road.SIZE, *limits[::-1]), 4 * rows**2
    f.say(EDGE, 70, f"{frames} frames, {vision.fps:g} a second, taken two by two", "mute small")
    for i in range(frames):
        f.frame(clip, i, EDGE + i // 2 * 121.3 + i % 2 * 54, 84, 50)
    for k in range(steps):
        x, (line, look) = EDGE + k * 121.3, ("green", "green bold") if k == steps - 1 else ("edge", "mute")
        f.path([(x, 138), (x, 143), (x + 104, 143), (x + 104, 138)], line)
        f.say(x + 52, 161, f"step {k + 1}", f"{look} small", MID)
    f.arrow((441.9, 168), (441.9, 180), (82, 180), (82, 198), line="green")
    f.frame(clip, frames - 1, 36, 200, 102)
    f.frame(clip, frames - 2, EDGE, 210, 102)
    for k in range(1, 2 * rows):
        at = 102 * k / (2 * rows)
        f.path([(EDGE + at, 210), (EDGE + at, 312)], "panel", 1.5)
        f.path([(EDGE, 210 + at), (EDGE + 102, 210 + at)], "panel", 1.5)
    f.arrow((152, 258), (190, 258), line="green")
    f.arrow((324, 258), (362, 258), line="green")
    for k in range(patches):
        x, y = (at * 25 + at // 2 * 8 for at in (k % (2 * rows), k // (2 * rows)))
        f.box(204 + x, 205 + y, 22, 22, "green-soft", "green", 2)
    for k in range(rows**2):
        f.box(378 + k % rows * 56, 210 + k // rows * 56, 44, 44, "green")
    f.say(82, 338, [f"{TEMPORAL_PATCH} frames of", f"{side} × {side} pixels"], at=MID)
    f.say(257, 338, [f"{patches} patches of", f"{patch} × {patch} pixels"], at=MID)
    f.say(428, 338, [f"{rows**2} tokens, each", "of 2 × 2 patches"], at=MID)
    for k in range(count):
        f.box(37 + k * 26 + k // rows**2 * 13, 380, 20, 20, "green", radius=5)
    f.say(260, 428, f"{steps} steps × {rows} × {rows} = {count} tokens for every question", "green small bold", MID)
    return {"frames": frames, "steps": steps, "patches": patches, "patch": patch, "rows": rows, "count": count}


@figure("families", 446, "Where the time of a clip stands")
def _(f: Figure) -> dict:
    """Qwen2.5-VL, as Cosmos-Reason1, reads the {steps} steps of a clip as one piece, and each token's place has its
    time. Qwen3-VL, as Cosmos-Reason2, reads a time as words before each step: {times}. A token covers {old} x {old}
    pixels in one and {new} x {new} in the other."""
    frames, rate, tokens = range(road.FRAMES), Contract.load(ROOT / CONTRACT).vision.fps, 4
    times = stamps(frames, rate)
    steps, sizes = len(times), {"old": QWEN2_5_VL.unit, "new": QWEN3_VL.unit}

    def piece(x: float, y: float, count: int) -> float:
        f.box(x, y, 8, 22, "grey", radius=2)
        for k in range(count):
            f.box(x + 12 + 21 * k, y, 18, 22, "green", radius=4)
        f.box(x + 12 + 21 * count, y, 8, 22, "grey", radius=2)
        return x + 24 + 21 * count

    f.say(EDGE, 70, "grey: start and end of what is seen; green: its tokens", "mute small")
    f.say(EDGE, 106, "Qwen2.5-VL (Cosmos-Reason1)", "ink bold")
    piece(EDGE, 120, steps * tokens)
    for k in range(steps):
        f.path([(40 + 84 * k, 148), (40 + 84 * k, 152), (115 + 84 * k, 152), (115 + 84 * k, 148)], "edge")
        f.say(78 + 84 * k, 170, f"time {2 * k}", "mute small", MID)
    f.say(EDGE, 216, "Qwen3-VL (Cosmos-Reason2)", "ink bold")
    for k, time in enumerate(times):
        x, y = EDGE + k % 2 * 242, 230 + k // 2 * 36
        f.box(x, y, 121, 22, "purple-soft", radius=4)
        f.say(x + 60.5, y + 16, time, "purple code", MID)
        piece(x + 127, y, tokens)
    f.card(EDGE, 330, 228, 90, "grey", "Qwen2.5-VL", f"a token: {sizes['old']} × {sizes['old']} pixels",
           "its last layer is read")  # fmt: skip
    f.card(266, 330, 228, 90, "blue", "Qwen3-VL", f"a token: {sizes['new']} × {sizes['new']} pixels",
           "inner layers are read too")  # fmt: skip
    return {"steps": steps, "times": ", ".join(times), **sizes}


@figure("mask", 474, "Only the reply is learned")
def _(f: Figure) -> dict:
    """A conversation of {count} tokens as a strip: system prompt, {seen} tokens of the clip, question, reply. Only the
    {learned} tokens of the reply, the one that ends it included, are learned; the label of all others is -100."""
    told, reply, count = re.match(r"(?s)(.*)«(.*)»\n+(\d+) tokens", printed("data", "402f6976")).groups()
    before, seen, question = re.match(r"(?s)(.*)<\|video_pad\|> x (\d+)<\|vision_end\|>(.*?)<", told).groups()
    cut = Tokenizer.from_file(str(ROOT / BASE / "tokenizer.json")).encode
    pieces = [reply[a:b] for a, b in cut(reply, add_special_tokens=False).offsets]
    head, seen, count, learned = len(cut(before, add_special_tokens=False)), int(seen), int(count), len(pieces)
    f.say(EDGE, 70, f"{count} tokens are read, the {learned} in blue are learned", "mute small")
    strip = ["grey"] * head + ["green"] * seen
    strip += ["grey"] * (count - len(strip) - learned - 1) + ["blue"] * learned + ["grey"]  # a line feed ends all
    for k, color in enumerate(strip):
        f.box(EDGE + k * 468 / count, 82, 468 / count - 1, 22, color, radius=1)
    for y, role in ((122, "system"), (214, "user")):
        f.box(EDGE, y, 468, 82, "grey-soft")
        f.say(40, y + 25, role, "mute small bold")
        f.say(480, y + 25, "label −100", "mute small", END)
    f.say(40, 168, Contract.load(ROOT / CONTRACT).system.split("\n\n"), "mute code")
    for k in range(seen):
        f.box(40 + 15 * k, 248, 11, 11, "green", radius=2)
    f.say(290, 259, "the clip", "green small")
    f.say(40, 283, question, "mute code")
    f.box(EDGE, 306, 468, 146, "blue-soft", "blue")
    f.say(40, 331, "assistant", "blue small bold")
    f.say(480, 331, "label = the token", "blue small", END)
    x, y = 40, 342
    for piece in pieces:
        words = piece.strip(" ").replace("\n", "\\n")
        width = 8.4 * len(words) + 9
        if x + width > 482:
            x, y = 40, y + 26
        f.box(x, y, width, 22, "panel", "blue", 4)
        f.say(x + width / 2, y + 16, words, "blue code", MID)
        x += width + 5
    return {"count": count, "seen": seen, "learned": learned}


@figure("contract", 488, "One contract, four readers")
def _(f: Figure) -> dict:
    """The contract's file in the middle: system prompt, answer format, longest answer, frames a second and pixels.
    Training, rollout, evaluation and inference all read it, and its hash goes into every run's manifest."""
    found = Contract.load(ROOT / CONTRACT)
    for x, y, color, name, what, module in (
        (EDGE, 64, "blue", "training", "writes targets in its form", "training/sft"),
        (272, 64, "red", "rollout", "asks in its words", "model/generation"),
        (EDGE, 374, "grey", "evaluation", "reads answers by its rule", "evaluation/predict"),
        (272, 374, "green", "inference", "shows as many frames", "inference"),
    ):
        f.card(x, y, 222, 88, color, name, what, code=[module])
        f.arrow(*((x + 111, at) for at in ((344, 374) if y > 100 else (182, 152))), line="purple")
    f.box(50, 182, 420, 162, "purple-soft", "purple", 10)
    f.say(66, 210, CONTRACT, "purple code bold")
    limits = f"video: fps {found.vision.fps:g}, max_pixels {found.vision.max_pixels}"
    words = [f'system: "{found.system.partition("</")[0]}…"', f"answer_format: {found.answer_format}"]
    f.say(66, 238, [*words, f"max_new_tokens: {found.max_new_tokens}", limits], "ink code")
    f.say(66, 328, f"hash {found.hash}, in every manifest", "purple small")


@figure("memory", 446, "What fills a GPU")
def _(f: Figure) -> dict:
    """Memory of one GPU in full fine-tuning of the 7B model by {file}, on {layouts} GPUs: {peaks} GiB. Weights,
    gradients and AdamW's moments are shared among the GPUs, the mini-batch is not; the card has {card} GiB."""
    card, a_sample = 80, clip_tokens(10, 1, 1920, 1080, 81_920, UNIT**2) + 300
    config, scale, left, peaks = Config.load(SFT), 2.6, 90, {}
    parts = ("blue", "weights", 4), ("purple", "gradients", 4), ("grey", "AdamW’s moments", 8)
    legend = [(color, f"{name}, {size} bytes") for color, name, size in parts]
    for k, (color, words) in enumerate([*legend, ("green", "the mini-batch")]):
        x, y = EDGE + k % 2 * 248, 64 + k // 2 * 26
        f.box(x, y, 16, 16, color, radius=4)
        f.say(x + 24, y + 13, words)
    for k, gpus in enumerate((1, 2, 4, 8)):
        spread = config.edit({"policy.parallelism.dp_shard_size": gpus})
        peaks[gpus] = plan(spread, gpus=gpus, gpu_gib=card, samples=10_000, tokens=a_sample, advise=False).peak_gib
        y, x = 154 + 58 * k, float(left)
        f.say(EDGE, y + 22, f"{gpus} GPU{'s' * (gpus > 1)}", "ink small bold")
        for color, _, size in parts:
            share = scale * size * PARAMETERS_7B / gpus / GIB
            f.box(x, y, share - 1, 34, color, radius=2)
            x += share
        f.box(x, y, left + scale * peaks[gpus] - x, 34, "green", radius=2)
        f.say(494, y + 22, f"{peaks[gpus]:.0f} GiB", at=END)
    f.path([(left + scale * card, 140), (left + scale * card, 376)], "red", 2, "6 4")
    f.say(left + scale * card, 134, f"{card} GiB: the card", "red small", MID)
    whose = f"{SFT}, {config[MINI]} samples of {a_sample} tokens together"
    f.say(EDGE, 402, ["What each GPU holds; the bytes are those of a parameter.", whose], "mute small")
    told = {"layouts": ", ".join(map(str, peaks)), "peaks": ", ".join(f"{peak:.0f}" for peak in peaks.values())}
    return told | {"file": SFT, "card": card}


@figure("losses", 569, "The words of the domain cost most")
def _(f: Figure) -> dict:
    """The loss of each of the {count} tokens of one reply before any training, as bars: near 0 for the frame such as
    think and answer, up to {most:.0f} for words that the base has not been taught. The mean is {mean:.1f}."""
    found = re.findall(r"(?m)^(?:'(.*)'|\"(.*)\") +chance.*loss +([\d.]+)$", printed("sft", "41fd828b"))
    rows = [((one or other).strip(" "), float(loss)) for one, other, loss in found]
    mean, most = sum(loss for _, loss in rows) / len(rows), max(loss for _, loss in rows)
    f.say(EDGE, 70, "loss of each token of one reply, before any training", "mute small")
    scale, left, foot = 288 / most, 150, 86 + 19 * len(rows)
    for k, (word, loss) in enumerate(rows):
        y, (color, look) = 86 + 19 * k, ("blue", "ink") if loss > mean else ("grey", "mute")
        f.say(left - 10, y + 13, word, f"{look} code", END)
        f.box(left, y + 2, max(scale * loss, 2.0), 13, color, radius=2)
        f.say(left + scale * loss + 8, y + 13, f"{loss:.1f}", f"{look} small")
    f.path([(left + scale * mean, 86), (left + scale * mean, foot + 8)], "red", 2, "6 4")
    f.say(left + scale * mean, foot + 26, f"mean {mean:.1f}", "red small", MID)
    return {"count": len(rows), "most": most, "mean": mean}


@figure("group", 448, "A group is its own yardstick")
def _(f: Figure) -> dict:
    """Four answers to one question. Their rewards are {paid}, with a mean of {mean:.2f}; their advantages are
    {ahead}: what lies above the mean becomes likelier, what lies below it rarer."""
    asked = Sample("by hand", "no clip", (message("user", text("Do the vehicles touch?")),), "Yes", ("Yes", "No"))
    answers = ["<think>They touch.</think>\n\n<answer>Yes</answer>", "<answer>Yes</answer>", "The answer is Yes."]
    answers.insert(1, "<think>They stay apart.</think>\n\n<answer>No</answer>")
    weights = reward_weights(Config.load(RL))
    rewards = [reward(words, asked, weights, Contract.load(ROOT / CONTRACT)).total for words in answers]
    advantages, mean = objective.advantages(torch.tensor([rewards]))[0].tolist(), sum(rewards) / len(rewards)
    f.say(EDGE, 70, f"{asked.question} Right: {asked.answer}", "ink small bold")
    f.say(62, 102, "reward", "green small bold")
    f.say(370, 102, "advantage", "ink small bold", MID)
    for k, (words, paid, ahead) in enumerate(zip(answers, rewards, advantages)):
        y, color, wide = 132 + 68 * k, "green" if ahead > 0 else "red", 60 * abs(ahead)
        f.say(EDGE, y, " ".join(words.split()), "ink code")
        f.say(EDGE, y + 26, f"{paid:.1f}", "ink small bold")
        f.box(62, y + 12, 150 * paid + 1, 18, "green", radius=3)
        f.box(370 if ahead > 0 else 370 - wide, y + 12, wide, 18, color, radius=3)
        at, side = (370 + wide + 8, None) if ahead > 0 else (370 - wide - 8, END)
        f.say(at, y + 26, signed(ahead), f"{color} small bold", side)
        f.path([(62 + 150 * mean, y + 7), (62 + 150 * mean, y + 35)], "ink", 2)
        f.path([(370, y + 7), (370, y + 35)], "ink", 2)
    f.say(62 + 150 * mean, 396, f"mean {mean:.2f}", at=MID)
    f.say(370, 396, "(reward − mean) / std", at=MID)
    f.say(EDGE, 426, "above the mean: likelier; below it: rarer", "mute small")
    return {"paid": ", ".join(f"{r:.1f}" for r in rewards), "ahead": ", ".join(map(signed, advantages)), "mean": mean}


@figure("clip", 454, "A step, and then no further")
def _(f: Figure) -> dict:
    """What the objective gains by a token, over the ratio of its new to its old probability. For a better answer the
    gain stops at a ratio of {high:g}. For a worse one it goes on falling up to a ratio of {bound:g}, and below {low:g}
    nothing is left to win."""
    low, high, bound = 1 - CHOSEN.epsilon_low, 1 + CHOSEN.epsilon_high, CHOSEN.lower_bound_ratio

    def at(ratio: float, gain: float) -> Point:
        return 66 + 100 * ratio, 200 - 62 * gain

    f.box(*at(low, 1.68), 100 * (high - low), 316, "grey-soft", radius=4)
    f.say(at(1, 0)[0], 88, f"clip: {low:g} to {high:g}", "mute small", MID)
    f.path([at(0, 1.6), at(0, -3.4)], width=1.5)
    f.path([at(0, 0), at(4.25, 0)], width=1.5)
    f.say(494, 192, "new / old probability", "mute small", END)
    f.say(58, 88, "gain", "mute small", END)
    for n in (1, 2, 3, 4):
        f.say(at(n, 0)[0], 218, f"{n}", "mute small", MID)
    for n in (1, -1, -2, -3):
        f.say(58, at(0, n)[1] + 5, signed(n, 0), "mute small", END)
    for advantage, color in ((1, "green"), (-1, "red")):
        # steps of 0.1 end where the function bends; between two, the policy is moved where it is in the middle
        steps = [(k / 10 or 0.001, (k + 1) / 10, token_gain(k / 10 + 0.05, advantage)[1]) for k in range(42)]
        for moves, part in groupby(steps, lambda step: abs(step[2]) > 1e-6):
            ratios = sorted({ratio for start, end, _ in part for ratio in (start, end)})
            points = [at(ratio, token_gain(ratio, advantage)[0]) for ratio in ratios]
            f.path(points, color, 4 if moves else 2.5, None if moves else "2 5")
        for ratio in (1.1, 1.5, 4.0):  # as in rl.ipynb
            f.dot(at(ratio, token_gain(ratio, advantage)[0]), color)
    f.say(232, 108, "better answer: no more gain", "green small bold")
    f.say(238, 262, ["worse answer: pushed down,", f"up to a ratio of {bound:g}"], "red small bold")
    f.say(74, 330, ["rarer:", "let be"], "red small")
    f.path([(96, 314), (96, 258)], "red", 1.5)
    f.say(EDGE, 430, "bold: moves the policy; dotted: does not move it", "mute small")
    return {"low": low, "high": high, "bound": bound}


@figure("kl", 452, "KL: the start holds the policy back")
def _(f: Figure) -> dict:
    """The KL of one token, over how likely the policy makes it beside the reference: 0 where both agree, growing to
    both sides; at 1.5 times it is {kl:.2f}. Arrows show the pull back to the start, stronger with the distance."""

    def at(ratio: float) -> Point:
        return 260 + 230 * log(ratio), 320 + 400 * token_gain(ratio, 0, 1)[0]

    curve = [at(2.5 ** (k / 30)) for k in range(-30, 31)]
    f.area([*curve, (curve[-1][0], 320), (curve[0][0], 320)], "purple-soft")
    f.path([(EDGE, 320), (494, 320)], width=1.5)
    f.path(curve, "purple", 3.5)
    f.say(90, 152, "KL of a token", "purple small bold")
    f.say(260, 196, ["the reference:", "RL’s start, frozen"], "blue small bold", MID)
    f.path([(260, 224), (260, 320)], "blue", 1.5)
    f.dot((260, 320), "blue")
    (x, y), kl = at(1.5), -token_gain(1.5, 0, 1)[0]
    f.say(x - 6, 92, ["the policy: a token", f"1.5 times as likely, KL {kl:.2f}"], "red small bold", MID)
    f.path([(x, 120), (x, y)], "red", 1.5)
    f.dot((x, y), "red")
    for ratio, name in ((0.5, "½"), (1, "1"), (1.5, "1.5"), (2, "2")):
        f.say(at(ratio)[0], 342, name, "mute small", MID)
    f.say(260, 364, "probability: policy / reference", "mute small", MID)
    for ratio in (0.45, 0.62, 0.78, 1.3, 1.65, 2.2):
        x, pull = at(ratio)[0], token_gain(ratio, 0, 1)[1]
        f.arrow((x, 392), (x + 42 * pull + (8 if pull > 0 else -8), 392), line="purple", width=3)
    f.say(260, 397, "pull", "purple small bold", MID)
    f.say(260, 428, f"weighed by kl_beta = {CHOSEN.kl_beta:g} against the advantage", "mute small", MID)
    return {"kl": kl}


@figure("controls", 508, "Take something away: what must fall?")
def _(f: Figure) -> dict:
    """Six rows of frames that the model is shown: its own clip, none, another clip, one frame eight times, the frames
    in another order, and the options turned. Beside each stands what must happen to a model that really looks."""
    (own, other), places = clips()[:2], torch.arange(road.FRAMES)
    rows = {
        "own clip": ([(own, i) for i in places.tolist()], "the score to", "compare with"),
        "blind": ([None] * len(places), "every task", "must fall"),
        "other clips": ([(other, i) for i in places.tolist()], "every task", "must fall"),
        "single frame": ([(own, i) for i in single_frame(places, 0).tolist()], "change must fall,", "signal may stay"),
        "shuffled frames": ([(own, i) for i in shuffled(places, 0).tolist()], "change must fall,", "signal must not"),
        "turned options": ([], "right in every", "turn"),
    }
    for k, (name, (shown, *must)) in enumerate(rows.items()):
        y = 66 + 72 * k
        f.say(EDGE, y + 14, name, "ink small bold")
        f.say(362, y + 38, must, "purple small bold" if k else "mute small")
        for i, found in enumerate(shown):
            if found:
                f.frame(*found, EDGE + 41 * i, y + 22, 38)
            else:
                f.box(EDGE + 41 * i, y + 22, 38, 38, line="mute", radius=2, dashes="3 3")
    asked = message("user", text("\n".join(f"{letter}) {cause}" for letter, cause in zip("ABCD", road.CAUSES))))
    for i, turn in enumerate(circular([Sample("by hand", "no clip", (asked,), "C", tuple("ABCD"))])):
        for k, letter in enumerate(turn.options):
            x, right = EDGE + 83 * i + 19 * k, letter == turn.answer
            f.box(x, 454, 18, 24, "purple" if right else "grey-soft", radius=4)
            f.say(x + 9, 471, letter, "panel small bold" if right else "mute small", MID)


@figure("checks", 438, "Who looks at what")
def _(f: Figure) -> dict:
    """Before a GPU is booked, the doctor looks at the machine, lint and plan at the configuration, the passport at the
    data, the gym at the reward. While a run lasts, and afterwards, watch looks at its metrics, diagnose at its log, and
    verify at its checkpoint."""
    before = {"machine": "cookbook.doctor", "configuration": "cookbook.config lint, plan",
              "data": "data_tools.passport", "reward": "cookbook.gym"}  # fmt: skip
    after = {"metrics": "cookbook.watch", "log": "cookbook.engine.diagnose", "checkpoint": "cookbook.checkpoint verify"}
    parts = (84, "green", "before a GPU is booked", before), (276, "blue", "while it runs, and afterwards", after)
    for y, color, when, looks in parts:
        f.box(EDGE, y, 468, 46 + 30 * len(looks), f"{color}-soft", color)
        f.say(44, y + 26, when, f"{color} bold")
        for i, (what, command) in enumerate(looks.items()):
            foot = y + 58 + 30 * i
            f.say(60, foot, what)
            f.arrow((172, foot - 5), (204, foot - 5), line=color)
            f.say(216, foot, command, "ink code")
    f.say(EDGE, 70, "each is typed behind python -m", "mute small")
    f.arrow((260, 250), (260, 276), line="blue")


@figure("result", 282, "What the tutorial's models answer right")
def _(f: Figure) -> dict:
    """Right answers of {questions} questions on unseen clips, with 95 % intervals: {told}. Guessing gets {guess} %."""
    models, questions, guess = session((ROOT / "LOG.md").read_text(encoding="utf-8"))

    def at(percent: float) -> float:
        return 84 + 3.2 * percent

    f.say(EDGE, 68, f"of {questions} questions on unseen clips, 95 % intervals", "mute small")
    for percent in range(0, 101, 25):
        f.path([(at(percent), 84), (at(percent), 236)], "edge", 1)
        f.say(at(percent), 258, f"{percent} %", "mute small", MID)
    f.path([(at(guess), 84), (at(guess), 236)], dashes="4 4")
    for i, ((model, right, low, high), color) in enumerate(zip(models, ("grey", "blue", "red"))):
        y = 110 + 48 * i
        f.say(EDGE, y + 5, model, f"{color} bold")
        f.path([(at(low), y), (at(high), y)], color, 6)
        f.path([(at(right), y - 11), (at(right), y + 11)], color, 3)
        f.say(494, y + 5, f"{right} %", "ink bold", END)
    f.say(at(guess) + 8, 115, "guessing", "mute small")
    told = "; ".join(f"{model} {right} %, {low} to {high}" for model, right, low, high in models)
    return {"questions": questions, "told": told, "guess": guess}


@figure("margin", 300, "As good, but for a margin")
def _(f: Figure) -> dict:
    """Three smaller models against the full one, and a line at {margin} points below it, the loss that would be put up
    with. With {few} questions the interval, {narrow}, crosses the line: nothing is shown. With {many} and the same
    share of changed answers it is {wide}, above the line: as good. The third, {worse}, lies below: worse."""
    margin, cases = 0.05, ((100, 2, 2), (400, 8, 8), (400, 4, 44))
    found = []
    for n, won, lost in cases:
        before, after = [i >= won for i in range(n)], [i < won or i >= won + lost for i in range(n)]
        found.append(non_inferior(before, after, list(map(str, range(n))), margin).ci95)

    def at(points: float) -> float:
        return 366 + 15 * points

    f.say(EDGE, 68, "points against the full model, 95 % intervals", "mute small")
    for points in (-10, -5, 0, 5):
        f.path([(at(points), 84), (at(points), 246)], "red" if points == -5 else "edge", 2 if points == -5 else 1)
        f.say(at(points), 268, f"{points:+d}".replace("-", "−") if points else "0", "mute small", MID)
    f.say(at(-5), 288, "the margin", "red small", MID)
    words, colors = ("not shown", "as good", "worse"), ("grey", "green", "red")
    for i, ((n, won, lost), ends, word, color) in enumerate(zip(cases, found, words, colors)):
        y = 112 + 52 * i
        f.say(EDGE, y - 4, word, f"{color} bold")
        f.say(EDGE, y + 16, f"{n} questions", "mute small")
        low, high = (at(100 * end) for end in ends)
        f.path([(low, y), (high, y)], color, 6)
        f.dot((at(100 * (won - lost) / n), y), color)
    few, many, worse = (" to ".join(signed(100 * end, 1) for end in ends) for ends in found)
    counts = {"few": cases[0][0], "many": cases[1][0], "margin": f"{100 * margin:g}"}
    return counts | {"narrow": few, "wide": many, "worse": worse}


@figure("overlap", 334, "How much two boxes share")
def _(f: Figure) -> dict:
    """A car from above, two metres wide and four long, in green, and three answers in blue. {far} of what both fill is
    shared by one that is a metre too far away, {side} by one a metre to the right. One that is turned by 90 degrees
    shares {flat} by the published rule, which takes no notice of turns, and {turned} where they count."""
    car, found = [0, 1, 10, 2, 2, 4, 0, 0, 0], []
    f.say(EDGE, 68, "from above, ahead is up; green is the truth, blue is told", "mute small")
    answers = ("a metre too far", 2, 11), ("a metre to the right", 0, 1), ("turned by 90°", 8, pi / 2)
    for i, (words, place, value) in enumerate(answers):
        told, middle = [value if k == place else v for k, v in enumerate(car)], 98 + 162 * i
        for values, color in ((car, "green"), (told, "blue")):
            shape = [(middle + 26 * x, 170 - 26 * (z - 10)) for x, _, z in corners(values)[[0, 1, 5, 4, 0]]]
            f.path(shape, color, 3, "7 4" if color == "blue" else None)
        found.append((iou_3d(car, told), iou_yaw(car, told)))
        f.say(middle, 262, words, "ink small", MID)
        f.say(middle, 286, f"IoU {found[i][0]:.2f}", "ink bold", MID)
        f.say(middle, 308, f"with turns {found[i][1]:.2f}", "mute small", MID)
    (far, _), (side, _), (flat, turned) = found
    return {name: f"{share:.2f}" for name, share in zip(("far", "side", "flat", "turned"), (far, side, flat, turned))}


def main() -> None:
    """Write every figure beside this file, and its text into README.md where that shows it."""
    made = {name: draw() for name, draw in FIGURES.items()}
    for name, (_, _, file) in made.items():
        (Path(__file__).parent / f"{name}.svg").write_text(file, encoding="utf-8")
    readme = ROOT / "README.md"
    shown = re.compile(r"!\[[^\]]*\](\(notebooks/figures/(\w+)\.svg\))")
    words = shown.sub(lambda found: f"![{made[found[2]][1]}]{found[1]}", readme.read_text(encoding="utf-8"))
    readme.write_text(words, encoding="utf-8")


if __name__ == "__main__":
    main()
