"""The curves of a training under way, redrawn in place under JupyterLab; anywhere else nothing is drawn.

Why: a loss that rises, or a KL that runs away, should be seen while the run can still be stopped. The bar has only the
last step. Nothing here runs beside the training: a run tells when it has new metrics, and where a drawing is due, it is
made there and then. The last picture stays in the saved notebook. `pipeline.train` shows them, for both engines.

    with live_curves(run, "sft"):
        sft(config, train, validation, encoder, model, run)
"""

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import matplotlib
from IPython.display import DisplayHandle
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cookbook.display import plots
from cookbook.display.progress import choose_mode
from cookbook.runs import KL_ALARM, Run

EVERY = 3.0  # seconds between two drawings
SHARE = 75  # drawing takes one part in so many of the time, at most
KL = "KL to the SFT model"
# by the kind of a training: the panels, and in each the curves, {key of metrics.jsonl: name}
PANELS = {
    "sft": {"loss (nats per token)": {"train/loss_avg": "training", "val/avg_loss": "held out"}},
    "rl": {
        "reward": {"train/reward_mean": "mean of the step", "val/accuracy": "held-out accuracy"},
        KL: {"train/kl_loss_avg": "KL"},
    },
}


@contextmanager
def live_curves(run: Run, kind: str) -> Iterator[None]:
    """Show the curves of a run of this kind, "sft" or "rl", as they grow, where somebody watches in a notebook."""
    if choose_mode() != "live":
        yield
        return
    curves = Curves(run, PANELS[kind])
    run.on_metrics = curves.update
    try:
        yield
    finally:  # after an alarm or a stop too: what has happened is to be seen
        curves.draw()


class Curves:
    """A picture in the output of a cell, drawn again when it is time to."""

    def __init__(
        self, run: Run, panels: Mapping[str, Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the place in the output, above the bar that follows; `clock` gives seconds."""
        self.run, self.panels, self._clock = run, panels, clock
        self._handle = DisplayHandle()
        self._handle.display({"text/plain": "the curves come with the first steps"}, raw=True)
        self._due = clock() + EVERY

    def update(self) -> None:
        """Draw where it is time to: every few seconds, and more seldom where drawing is slow."""
        if self._clock() >= self._due:
            began = self._clock()
            self.draw()
            now = self._clock()
            self._due = now + max(EVERY, SHARE * (now - began))

    def draw(self) -> None:
        """Put the curves so far in the place of the earlier ones; without a first step leave them."""
        with suppress(Exception):  # a picture must never end a training
            if rows := self.run.metrics():
                picture = base64.b64encode(plots.png(figure(rows, self.panels))).decode()
                told = f"curves of {self.run.path.name}, to step {rows[-1]['step']}"
                self._handle.update({"image/png": picture, "text/plain": told}, raw=True)


@matplotlib.rc_context(plots.STYLE)
def figure(metrics: Sequence[dict], panels: Mapping[str, Mapping[str, str]]) -> Figure:
    """Returns the panels side by side, small and plain, so that drawing them costs little."""
    found = plots.NotebookFigure(figsize=(0.6 + 4.2 * len(panels), 2.7), dpi=90)
    for ax, (title, curves) in zip(found.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for (key, name), color in zip(curves.items(), (plots.BLUE, plots.VERMILION)):
            steps, values = plots.series(metrics, key)
            if len(values):
                ax.plot(steps, values, "-" if len(values) > 20 else ".-", color=color, label=name)
        if title == KL:
            ax.axhline(KL_ALARM, color=plots.VERMILION, linestyle="--", linewidth=1.2, label=f"alarm at {KL_ALARM}")
        ax.set(title=title, xlabel="step")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if ax.lines:  # at a fixed place: looking for the best one takes longer than all the rest
            ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0.2)
    found.subplots_adjust(left=0.12 / len(panels), right=0.99, bottom=0.18, top=0.89, wspace=0.15)
    return found
