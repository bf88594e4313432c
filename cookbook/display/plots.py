"""Figures of a run: loss and reward curves, accuracies, and clips as frame strips.

Why: a reader sees a run go wrong sooner than he computes it. All have Okabe and Ito's colours, which colour-blind
people can tell apart. The notebooks show these figures, `cookbook.evaluation.report` embeds them.

Every figure is returned, never shown: no pyplot, so no open figures pile up and no user's settings change. Their look
is plots.mplstyle. `metrics` are the rows of metrics.jsonl; a missing key leaves its line out, or its panel saying so.
`narrow` figures are for a phone: as wide as its screen, the panels below one another.
"""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image, ImageDraw, ImageFont

from cookbook.data.video import read_frames
from cookbook.display.tables import label
from cookbook.runs import KL_ALARM, ROOT

BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#B0598C", "#8A8F98"
MODEL_COLORS = (GREY, BLUE, VERMILION, GREEN, PURPLE)  # by place: base, SFT, RL, …
INK = "#30343B"  # as in the style sheet
EQUAL, CUT = "groups of equal rewards", "completions cut at the limit"  # panels whose values are shares
RIGHT = "held-out accuracy"
COMPARED = (  # of jobs: title, run, key
    ("SFT loss (nats per token)", "sft", "train/loss_avg"),
    ("SFT validation loss", "sft", "val/avg_loss"),
    ("RL reward", "rl", "train/reward_mean"),
    (RIGHT, "rl", "val/accuracy"),
    ("KL to the start of RL", "rl", "train/kl_loss_avg"),
)
PERCENT = "\u2009%"  # with a thin space
FRAME_HEIGHT, GAP = 112, 4  # pixels

STYLE = matplotlib.rc_params_from_file(Path(__file__).with_suffix(".mplstyle"), use_default_template=False)


class NotebookFigure(Figure):
    """A figure that JupyterLab shows although pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        return png(self)


def _figure(width: float, height: float, narrow: bool) -> Figure:
    """Returns an empty figure of this size in inches; a phone's pixels are small, so it takes more of them."""
    return NotebookFigure(figsize=(width, height), dpi=160 if narrow else 120, layout="constrained")


def png(picture: Figure | Image.Image) -> bytes:
    """Returns the picture as a PNG file."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(file, format="png", facecolor="white")
    else:
        picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def series(metrics: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps and values (n,), (n,) of the rows that have the key; both empty where none has."""
    found = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
    steps, values = zip(*found) if found else ((), ())
    return np.array(steps, float), np.array(values, float)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean of the `window` (odd) values around each place (n,); at the ends, of those there are.

    Around and not before: a mean of the past lags, and would lie above a falling loss. What is no number leaves a gap.
    """
    places, half, good = np.arange(len(values)), window // 2, np.isfinite(values)
    first, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    sums, gaps = (np.append(0, np.cumsum(part)) for part in (np.where(good, values, 0), ~good))  # linear in the rows
    return np.where(gaps[end] > gaps[first], np.nan, (sums[end] - sums[first]) / (end - first))


def _window(metrics: Sequence[dict], key: str) -> int:
    """Returns how many steps the moving mean covers: a tenth of those that have the key, an odd number."""
    return len(series(metrics, key)[0]) // 10 // 2 * 2 + 1


def _curve(ax: Axes, metrics: Sequence[dict], window: int, key: str, name: str = "", color: str = BLUE,
           line: str = "-") -> None:  # fmt: skip
    """Draw a key's values light and their moving mean bold; draws nothing where the key is missing."""
    steps, values = series(metrics, key)
    if not len(values):
        return
    if window > 1:
        ax.plot(steps, values, color=color, alpha=0.28, linewidth=0.9)
    marker = "o" if len(values) == 1 else None  # a line of one point would be invisible
    ax.plot(steps, smooth(values, window), line, color=color, linewidth=1.9, marker=marker, label=name)


def _panel(ax: Axes, title: str, *curves: tuple[str, ...], metrics: Sequence[dict] = (), window: int = 1) -> None:
    """Draw curves, (key, name, color, line) each, under a title, or say that nothing was logged."""
    for curve in curves:
        _curve(ax, metrics, window, *curve)
    ax.set_title(title)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not ax.lines:
        ax.text(0.5, 0.5, "not logged", transform=ax.transAxes, ha="center", va="center", color=GREY)
        ax.set(xticks=[], yticks=[])
    elif title in (EQUAL, CUT, RIGHT):
        ax.set_ylim(-0.03, 1.03)
        ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=PERCENT))


def _window_legend(window: int) -> list[Line2D]:
    """Returns the legend entries for the light and the bold lines; none where nothing was smoothed."""
    light = Line2D([], [], color=INK, alpha=0.4, linewidth=0.9, label="light: each step")
    bold = Line2D([], [], color=INK, linewidth=1.9, label=f"bold: mean of {window} steps")
    return [light, bold] if window > 1 else []


@matplotlib.rc_context(STYLE)
def sft_curve(metrics: Sequence[dict], narrow: bool = False) -> Figure:
    """Returns the training loss over the steps, and the validation loss where it was measured."""
    figure = _figure(4.2 if narrow else 7.6, 3.6, narrow)
    ax, window = figure.subplots(), _window(metrics, "train/loss_avg")
    _curve(ax, metrics, window, "train/loss_avg", "training")
    steps, values = series(metrics, "val/avg_loss")
    if len(values):
        ax.plot(steps, values, "o-", color=VERMILION, markersize=4.5, linewidth=1.4, label="validation")
    _panel(ax, "SFT loss (nats per token)")
    ax.set_xlabel("step")
    if ax.lines:
        ax.set_ylim(bottom=0)
        ax.legend(handles=ax.get_legend_handles_labels()[0] + _window_legend(window))
    return figure


@matplotlib.rc_context(STYLE)
def rl_curves(metrics: Sequence[dict], narrow: bool = False) -> Figure:
    """Returns eight panels over the steps: reward, accuracy, KL, loss; equal rewards, entropy, length, cut share.

    Around the mean reward lies a band of ± one standard deviation.
    """
    figure = _figure(5.8, 10.8, True) if narrow else _figure(11.5, 5.6, False)
    axes = figure.subplots(*(4, 2) if narrow else (2, 4))
    reward, right, kl, loss, equal, entropy, length, cut = axes.flat
    window = _window(metrics, "train/reward_mean")
    if rows := [row for row in metrics if None not in map(row.get, ("train/reward_mean", "train/reward_std"))]:
        steps, mean = series(rows, "train/reward_mean")
        mean, std = smooth(mean, window), smooth(series(rows, "train/reward_std")[1], window)
        reward.fill_between(steps, mean - std, mean + std, color=BLUE, alpha=0.12, linewidth=0, label="± std")
    task = ("train/reward_single_choice", "right answer", VERMILION, "--")
    form = ("train/reward_format", "format", GREEN, ":")
    longest = ("rollout/completion_length_max", "longest", VERMILION, "--")
    panel = partial(_panel, metrics=metrics, window=window)
    panel(reward, "reward", ("train/reward_mean", "total"), task, form)
    panel(right, RIGHT, ("val/accuracy",))
    panel(kl, "KL to the SFT model", ("train/kl_loss_avg", "KL"))
    panel(loss, "policy loss", ("train/loss_avg",))
    panel(equal, EQUAL, ("train/zero_variance_share",))
    panel(entropy, "entropy (nats per token)", ("train/entropy",))
    panel(length, "completion length (tokens)", longest, ("rollout/completion_length_mean", "mean"))
    panel(cut, CUT, ("rollout/cut_share",))
    if reward.lines:
        reward.set_ylim(bottom=min(0, reward.get_ylim()[0]))
    if kl.lines:
        kl.axhline(KL_ALARM, color=VERMILION, linestyle="--", linewidth=1.2, label=f"alarm at {KL_ALARM}")
        kl.set_ylim(bottom=0)
    for ax in (reward, kl, length):
        if ax.lines:
            ax.legend(ncols=2 if ax is reward else 1)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    if handles := _window_legend(window):
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def compared_curves(jobs: Mapping[str, Mapping[str, Sequence[dict]]], narrow: bool = False) -> Figure | None:
    """Returns the curves of several jobs over one another, a job in the colour of its place; None without any.

    `jobs` has each job's metrics by run, "sft" and "rl". A panel whose figure no job has logged is left out.
    """
    panels = [(title, run, key) for title, run, key in COMPARED
              if any(len(series(runs.get(run, ()), key)[0]) for runs in jobs.values())]  # fmt: skip
    if not panels:
        return None
    down = len(panels) if narrow else -(-len(panels) // 3)
    across = -(-len(panels) // down)
    figure = _figure(4.2 if narrow else 4.2 * across, 2.7 * down + 0.4, narrow)
    axes = iter(figure.subplots(down, across, squeeze=False).flat)
    for (title, run, key), ax in zip(panels, axes):  # in this order, so that no axes are taken without a panel
        for place, (job, runs) in enumerate(jobs.items()):
            rows = runs.get(run, ())
            _curve(ax, rows, _window(rows, key), key, job, MODEL_COLORS[place % len(MODEL_COLORS)])
        _panel(ax, title)
        ax.set_xlabel("step")
        ax.legend()
    for ax in axes:  # those that are left
        ax.remove()
    return figure


@matplotlib.rc_context(STYLE)
def accuracy_bars(comparison: dict, narrow: bool = False) -> Figure:
    """Returns the accuracy of each model on all items and on each task, with 95 % intervals.

    Every group carries its own two lines, what guessing earns and what the most frequent answer earns: with two options
    a guess is right half of the time, with four a quarter. `comparison` is that of scores.compare.
    """
    groups = ["all", *comparison["tasks"]]
    across = min(3, len(groups)) if narrow else len(groups)
    parts = [groups[i : i + across] for i in range(0, len(groups), across)]
    width = 4.6 if narrow else max(7.6, 1.0 + len(groups) * max(1.2, 0.25 + 0.35 * len(comparison["models"])))
    figure = _figure(width, 2.6 * len(parts) + 0.6 if narrow else 3.9, narrow)
    axes = figure.subplots(len(parts), squeeze=False)[:, 0]
    for ax, part in zip(axes, parts):
        _bars(ax, comparison, part)
        ax.set_xlim(-0.5, across - 0.5)
    axes[0].set_title("right answers, with 95 % intervals")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=3 if narrow else len(comparison["models"]) + 2)  # fmt: skip
    return figure


def _bars(ax: Axes, comparison: dict, groups: Sequence[str]) -> None:
    """Draw the bars of some groups, each with its interval and its two lines."""
    models, levels = comparison["models"], [{"all": comparison, **comparison["tasks"]}[group] for group in groups]
    middle, width = np.arange(len(groups)), 0.8 / len(models)
    for i, (name, found) in enumerate(models.items()):
        parts = [{"all": found, **found["tasks"]}[group] for group in groups]
        x = middle - 0.4 + width * (i + 0.5)
        height = np.array([part["accuracy"] for part in parts])
        low, high = np.array([part["ci95"] for part in parts]).T
        # an interval ends at 0 or 1 exactly where all answers agree; rounding must not make the bar negative
        error = np.maximum([height - low, high - height], 0)
        color = MODEL_COLORS[i % len(MODEL_COLORS)]
        ax.bar(x, height, width * 0.92, color=color, label=label(name), yerr=error,
               error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5})  # fmt: skip
        for at, value, top in zip(x, height, high):
            ax.text(at, top + 0.015, f"{100 * value:.0f}", ha="center", va="bottom", fontsize=8,
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8})  # fmt: skip
    # thick dots and thin dashes: both can be seen where they coincide
    for key, line, thick in [("chance", ":", 2.4), ("majority", "--", 1.2)]:
        ax.hlines([level[key] for level in levels], middle - 0.45, middle + 0.45,
                  linestyle=line, color="black", linewidth=thick, label=key)  # fmt: skip
    ax.set_xticks(middle, [f"{group}\nn = {level['n']}" for group, level in zip(groups, levels)])
    ax.set(ylim=(0, 1.1), yticks=np.linspace(0, 1, 6))
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=PERCENT))
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False, axis="x")


def from_root(path: str | Path) -> Path:
    """Returns the path from here, or where that is not there from the project's root: the way back of `runs.named`."""
    return Path(path) if Path(path).exists() else ROOT / path


def frame_pictures(video: str | Path, fps: float, count: int = 8) -> list[tuple[float, Image.Image]]:
    """Returns at most `count` evenly spaced frames of a clip, each with its time in seconds, 112 pixels high.

    The frames and their times are those that the model gets at `fps`. Raises VideoError where it cannot be read.
    """
    frames, rate = read_frames(from_root(video), fps)
    picked = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    size = max(1, round(frames.shape[-1] * FRAME_HEIGHT / frames.shape[-2])), FRAME_HEIGHT
    pictures = (Image.fromarray(frames[i].permute(1, 2, 0).numpy()) for i in picked)
    return [(i / rate, picture.resize(size, Image.Resampling.LANCZOS)) for i, picture in zip(picked, pictures)]


def frame_strip(video: str | Path, fps: float, count: int = 8) -> Image.Image:
    """Returns the `frame_pictures` of a clip side by side, each over its time in seconds. Raises VideoError."""
    pictures = frame_pictures(video, fps, count)
    (width, _), font, line = pictures[0][1].size, ImageFont.load_default(11), 16
    strip = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, FRAME_HEIGHT + line), "white")
    draw = ImageDraw.Draw(strip)
    for place, (seconds, picture) in enumerate(pictures):
        left = place * (width + GAP)
        strip.paste(picture, (left, 0))
        draw.text((left + width / 2, FRAME_HEIGHT + line / 2), f"{seconds:.1f} s", INK, font, anchor="mm")
    return strip


def contact_sheet(clips: Sequence[tuple[str, str | Path]]) -> Image.Image:
    """Returns the strips at 2 frames a second of (title, video) pairs one below the other, each under its title.

    Raises ValueError where there are no clips, VideoError where one cannot be read.
    """
    if not clips:
        raise ValueError("a contact sheet needs at least one clip, found none")
    font, line, margin = ImageFont.load_default(13), 18, 8
    strips = [(title.split("\n"), frame_strip(video, 2.0)) for title, video in clips]
    width = max(max(strip.width, *(round(font.getlength(text)) for text in title)) for title, strip in strips)
    height = sum(len(title) * line + strip.height + margin for title, strip in strips)
    sheet, top = Image.new("RGB", (width + 2 * margin, height + margin), "white"), margin
    for title, strip in strips:
        for text in title:
            ImageDraw.Draw(sheet).text((margin, top), text, INK, font)
            top += line
        sheet.paste(strip, (margin, top))
        top += strip.height + margin
    return sheet
