"""Pictures of a passport: how the labels are spread, how long the samples and the clips are.

Why: a table says that something is unbalanced or too long, a picture says how much. In the look of `display.plots`.

    plot_passport(found)    # in a notebook
"""

from collections import Counter

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cookbook.display import plots
from data_tools.formats.source import shown
from data_tools.passport.result import Passport

PALETTE = (*plots.MODEL_COLORS[1:], plots.GREY)
MOST_BARS = 12  # labels or options that are drawn; the others stand together as "other"
BINS = 30


@matplotlib.rc_context(plots.STYLE)
def plot_passport(found: Passport) -> Figure:
    """Returns three panels: labels (or right options) by split, tokens per sample with the limit, seconds per clip."""
    figure = plots.NotebookFigure(figsize=(11, 3.4), dpi=120, layout="constrained")
    balance, tokens, seconds = figure.subplots(1, 3)
    _balance(balance, found)
    lengths = {split: [sum(pair) for pair in pairs] for split, pairs in found.tokens.items()}
    _histogram(tokens, lengths, "tokens per sample")
    if found.max_length and any(lengths.values()):
        look = {"color": "black", "linestyle": "--", "linewidth": 1.2}
        tokens.axvline(found.max_length, label=f"limit {found.max_length:,}", **look)
        tokens.set_xlim(right=1.05 * max(found.max_length, tokens.get_xlim()[1] / 1.05))
        tokens.legend()
    _histogram(seconds, {"clips": [f.seconds for f in found.facts if f.frames]}, "seconds per clip")
    return figure


def _balance(ax: Axes, found: Passport) -> None:
    """Draw the share of each label in each split; of the right options where the samples have no labels."""
    labelled = any(found.labels.values())
    counts = {split: n for split, n in (found.labels if labelled else found.answers).items() if n}
    ax.set_title("labels" if labelled else "right options")
    if not counts:
        return _nothing(ax)
    totals = sum(map(Counter, counts.values()), Counter())
    names = sorted(totals, key=lambda name: (-totals[name], name))
    kept, rest = names[:MOST_BARS], names[MOST_BARS:]
    width = 0.8 / len(counts)
    for i, (split, shares) in enumerate(counts.items()):
        values = [shares.get(name, 0) for name in kept] + [sum(shares.get(name, 0) for name in rest)] * bool(rest)
        x = np.arange(len(values)) - 0.4 + width * (i + 0.5)
        ax.bar(x, np.array(values) / sum(shares.values()), width * 0.92, color=PALETTE[i % len(PALETTE)], label=split)
    words = [shown(name)[:24] for name in kept] + ["other"] * bool(rest)
    ax.set_xticks(range(len(words)), words, rotation=30 if max(map(len, words)) > 6 else 0, ha="right")
    ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, symbol=plots.PERCENT))
    ax.grid(visible=False, axis="x")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(ncols=2)


def _histogram(ax: Axes, values: dict[str, list[float]], title: str) -> None:
    ax.set_title(title)
    if not (filled := {split: found for split, found in values.items() if found}):
        return _nothing(ax)
    edges = np.linspace(0, 1.05 * max(map(max, filled.values())), BINS + 1)  # from 0, so that equal values have a width
    for i, (split, found) in enumerate(filled.items()):
        ax.hist(found, edges, color=PALETTE[i % len(PALETTE)], alpha=0.7, label=split)
    ax.set_xlim(left=0)
    if len(filled) > 1:
        ax.legend()


def _nothing(ax: Axes) -> None:
    ax.text(0.5, 0.5, "none", ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
