"""Look at samples: what the model sees, what it reads, and which of it is learned.

Why: no count shows that a label belongs to another clip, or that the one word that matters is cut off. Looking does.

    seen(encoder, sample)              # the frames after resizing, with their times
    trained_tokens(encoder, sample)    # the text with every token that is learned in colour
    browse(encoder, samples)           # both, with a slider (in JupyterLab)
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import ipywidgets
import matplotlib
from IPython.display import display
from matplotlib.figure import Figure

from cookbook.data.encoder import IGNORE, Encoder
from cookbook.data.samples import Sample
from cookbook.display import plots
from cookbook.display.forms import InLab

COLUMNS = 8  # frames in a row


@matplotlib.rc_context(plots.STYLE)
def seen(encoder: Encoder, sample: Sample) -> Figure:
    """Returns the frames of the sample's clips as the model gets them, each with its time in seconds."""
    pictures = []
    for path in (path for kind, path in sample.media() if kind == "video"):
        frames, rate, *_ = encoder.frames(path)
        pictures += [(frame.permute(1, 2, 0).numpy(), f"{i / rate:.1f} s") for i, frame in enumerate(frames)]
    rows = -(-len(pictures) // COLUMNS) or 1
    figure = plots.NotebookFigure(figsize=(11, 1.7 * rows), dpi=90, layout="constrained")
    for i, (picture, time) in enumerate(pictures):
        ax = figure.add_subplot(rows, COLUMNS, i + 1)
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(time, fontsize=9)
        ax.set_axis_off()
    return figure


@dataclass(frozen=True, repr=False)
class Text:
    """A rendered conversation: learned parts in colour in a notebook, between « and » in plain text."""

    parts: Sequence[tuple[str, bool]]  # (text, whether it is learned)

    def __repr__(self) -> str:
        return "".join(f"«{words}»" if learned else words for words, learned in self.parts)

    def _repr_html_(self) -> str:
        mark = '<span style="background: #cde8d5; color: #10341d">{}</span>'
        parts = (mark.format(html.escape(t)) if learned else html.escape(t) for t, learned in self.parts)
        return f'<pre style="white-space: pre-wrap">{"".join(parts)}</pre>'


def trained_tokens(encoder: Encoder, sample: Sample) -> Text:
    """Returns the text that training reads, vision tokens counted instead of repeated."""
    tokens = encoder.tokens(sample)
    pads = {encoder.config.video_token_id: "video tokens", encoder.config.image_token_id: "image tokens"}
    parts = []
    for (pad, learned), run in groupby(zip(tokens.ids, tokens.labels), lambda p: (pads.get(p[0]), p[1] != IGNORE)):
        ids = [token for token, _ in run]
        parts.append((f"[{len(ids)} {pad}]" if pad else encoder.tokenizer.decode(ids), learned))
    return Text(parts)


def browse(encoder: Encoder, samples: Sequence[Sample]) -> InLab:
    """Returns a slider that shows one sample after the other; an extra: all it shows can be printed without it."""

    def show(sample: int) -> None:
        display(seen(encoder, samples[sample]), trained_tokens(encoder, samples[sample]))

    def make():
        return ipywidgets.interactive(show, sample=ipywidgets.IntSlider(0, 0, len(samples) - 1))

    return InLab(f"a slider that shows each of {len(samples)} samples like this", make)
