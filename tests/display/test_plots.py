"""Figures show the numbers they were given, bear what is missing, and leave nothing behind."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from pace import seconds
from PIL import Image

from cookbook.data.video import VideoError, read_frames
from cookbook.display import plots
from cookbook.evaluation import scores
from data_tools.worlds import road

RL_KEYS = (
    "train/reward_mean",
    "train/reward_std",
    "train/reward_single_choice",
    "train/reward_format",
    "train/kl_loss_avg",
    "train/entropy",
    "train/zero_variance_share",
    "rollout/completion_length_mean",
    "rollout/completion_length_max",
    "rollout/cut_share",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    world = road.build(tmp_path_factory.mktemp("world"), {"test": 2}, seed=0)
    return sorted((world / "test/videos").glob("*.mp4"))


def metrics(steps: int, *keys: str) -> list[dict]:
    """Rows whose every key has the value step / 100."""
    return [{"step": step, **{key: step / 100 for key in keys}} for step in range(1, steps + 1)]


def line(ax, name: str) -> np.ndarray:
    """The values of the line with this legend entry."""
    (found,) = [line for line in ax.lines if line.get_label() == name]
    return np.asarray(found.get_ydata())


# Curves


def test_smoothing_takes_the_mean_of_the_neighbours():
    assert plots.smooth(np.array([1.0, 2, 3, 7]), 3).tolist() == [1.5, 2, 4, 5]
    assert plots.smooth(np.array([1.0, 2, 3, 7]), 1).tolist() == [1, 2, 3, 7]


def test_smoothing_of_a_straight_line_does_not_lag():
    values = np.arange(50.0)
    assert plots.smooth(values, 9)[4:-4] == pytest.approx(values[4:-4])


def test_sft_curve_shows_both_losses_at_their_steps():
    rows = metrics(40, "train/loss_avg")
    for row in rows[9::10]:
        row["val/avg_loss"] = 2.0
    (ax,) = plots.sft_curve(rows).axes
    validation = next(line for line in ax.lines if line.get_label() == "validation")
    assert validation.get_xdata().tolist() == [10, 20, 30, 40]
    raw = ax.lines[0].get_ydata()
    assert raw == pytest.approx(np.arange(1, 41) / 100)
    assert line(ax, "training") == pytest.approx(plots.smooth(raw, 5))
    assert "bold: mean of 5 steps" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_validation_rows_of_their_own_do_not_widen_the_window():
    rows = metrics(40, "train/loss_avg")
    apart = [{"step": step, "val/avg_loss": 2.0} for step in range(1, 41)]
    (ax,) = plots.sft_curve(rows + apart).axes
    assert "bold: mean of 5 steps" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_rl_curves_show_every_key_that_is_logged():
    figure = plots.rl_curves(metrics(60, *RL_KEYS))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    above = ["reward", "held-out accuracy", "KL to the SFT model", "policy loss"]
    below = ["groups of equal rewards", "entropy (nats per token)", "completion length (tokens)"]
    assert titles == [*above, *below, "completions cut at the limit"]
    reward, _, kl, *_ = figure.axes
    assert line(kl, "alarm at 0.1").tolist() == [0.1, 0.1]
    assert line(reward, "total")[30] == pytest.approx(0.31)
    (band,) = reward.collections  # mean 0.3 ± std 0.3 at step 30, so from 0 to 0.6
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (low, high) == (pytest.approx(0), pytest.approx(2 * line(reward, "total")[-1]))


@pytest.mark.parametrize("missing", RL_KEYS)
def test_a_missing_key_leaves_the_other_panels_as_they_were(missing):
    whole = plots.rl_curves(metrics(3, *RL_KEYS)).axes
    short = plots.rl_curves(metrics(3, *(key for key in RL_KEYS if key != missing))).axes
    drawn = [[len(ax.lines) + len(ax.collections) for ax in axes] for axes in (whole, short)]
    assert sum(a != b for a, b in zip(*drawn)) == 1


def test_figures_without_a_single_row_can_be_drawn():
    assert plots.png(plots.rl_curves([])).startswith(b"\x89PNG")
    assert plots.png(plots.sft_curve([])).startswith(b"\x89PNG")


def test_an_empty_panel_says_that_nothing_was_logged():
    figure = plots.rl_curves(metrics(5, "train/reward_mean", "train/loss_avg"))
    says = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    there = {"reward", "policy loss"}
    assert says == [[] if ax.get_title(loc="left") in there else ["not logged"] for ax in figure.axes]
    (ax,) = plots.sft_curve([]).axes
    assert [text.get_text() for text in ax.texts] == ["not logged"]


def test_figures_are_neither_left_open_nor_change_the_settings():
    settings, left_open = dict(matplotlib.rcParams), pyplot.get_fignums()
    figure = plots.sft_curve(metrics(3, "train/loss_avg"))
    assert figure._repr_png_() == plots.png(figure)  # what JupyterLab asks for
    assert pyplot.get_fignums() == left_open
    assert dict(matplotlib.rcParams) == settings


def test_narrow_figures_show_the_same_and_are_as_narrow_as_a_phone():
    rows = metrics(60, "train/loss_avg", *RL_KEYS)
    for draw in (plots.sft_curve, plots.rl_curves):
        wide, narrow = draw(rows), draw(rows, narrow=True)
        shown = [[list(line.get_ydata()) for ax in figure.axes for line in ax.lines] for figure in (wide, narrow)]
        assert shown[0] == shown[1]
        assert narrow.get_figwidth() < 6 <= wide.get_figwidth()


def test_jobs_lie_over_one_another_in_the_panels_that_one_of_them_has():
    one, two = metrics(5, "train/loss_avg"), [{"step": step, "train/loss_avg": 1.0} for step in (1, 2)]
    rl = [{"step": 1, "train/reward_mean": 0.5}]
    loss, reward = plots.compared_curves({"one": {"sft": one}, "two": {"sft": two, "rl": rl}}).axes
    assert [ax.get_title(loc="left") for ax in (loss, reward)] == ["SFT loss (nats per token)", "RL reward"]
    assert line(loss, "one") == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert line(loss, "two").tolist() == [1.0, 1.0]
    assert line(reward, "two").tolist() == [0.5] and len(reward.lines) == 1
    assert to_hex(loss.lines[0].get_color()) == plots.MODEL_COLORS[0].lower()  # the colours of the table
    assert to_hex(reward.lines[0].get_color()) == plots.MODEL_COLORS[1].lower()
    assert plots.compared_curves({"one": {}, "two": {"sft": []}}) is None


# Scores


def predictions(right: int, n: int, options: str = "YN") -> list[dict]:
    task = "binary" if len(options) == 2 else "mcq"
    item = {
        "task": task,
        "question": "?",
        "options": list(options),
        "reference": options[0],
        "well_formed": True,
    }
    return [{"id": f"{task}{i}", "group": f"clip{i}", "correct": i < right, **item} for i in range(n)]


def test_bars_are_as_high_as_the_accuracies_and_carry_their_intervals():
    rows = {
        "base": predictions(2, 8) + predictions(1, 4, "ABCD"),
        "sft": predictions(8, 8) + predictions(2, 4, "ABCD"),
    }
    train = [{"task": "binary", "reference": "Y"}, {"task": "mcq", "reference": "B"}]
    comparison = scores.compare(rows, train)
    (ax,) = plots.accuracy_bars(comparison).axes
    heights = {}
    for bars in ax.containers:
        if hasattr(bars, "patches"):
            heights[bars.get_label()] = [bar.get_height() for bar in bars.patches]
            assert len({to_hex(bar.get_facecolor()) for bar in bars.patches}) == 1
    assert heights == {"base": [3 / 12, 2 / 8, 1 / 4], "SFT": [10 / 12, 1.0, 0.5]}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "all\nn = 12",
        "binary\nn = 8",
        "mcq\nn = 4",
    ]

    lines = {found.get_label(): found for found in ax.collections if found.get_label() in ("chance", "majority")}
    levels = {name: [segment[0][1] for segment in found.get_segments()] for name, found in lines.items()}
    assert levels == {
        "chance": [pytest.approx(5 / 12), 0.5, 0.25],
        "majority": [pytest.approx(8 / 12), 1.0, 0.0],
    }

    whiskers = next(c for c in ax.collections if c.get_label() not in lines)  # of the first model, base
    drawn = [segment[:, 1].tolist() for segment in whiskers.get_segments()]
    assert drawn[0] == pytest.approx(comparison["models"]["base"]["ci95"])


# Clips


def test_a_strip_shows_the_frames_in_order(videos):
    strip = plots.frame_strip(videos[0], fps=2.0)
    frames, _ = read_frames(videos[0], 2.0)
    assert strip.size == (8 * 112 + 7 * plots.GAP, 112 + 16)
    for place in range(8):
        left = place * (112 + plots.GAP)
        shown = np.asarray(strip.crop((left, 0, left + 112, 112)))
        assert (shown == frames[place].permute(1, 2, 0).numpy()).all()
    below = np.asarray(strip.crop((0, 112, 112, 128)))
    assert below.min() < 128, "no time stands under the first frame"


def test_a_strip_of_fewer_frames_keeps_the_first_and_the_last(videos):
    whole, short = plots.frame_strip(videos[0], 2.0), plots.frame_strip(videos[0], 2.0, count=3)
    assert short.width == 3 * 112 + 2 * plots.GAP
    for strip_left, whole_left in [(0, 0), (2 * (112 + plots.GAP), 7 * (112 + plots.GAP))]:
        box = [strip.crop((left, 0, left + 112, 112))
               for strip, left in [(short, strip_left), (whole, whole_left)]]  # fmt: skip
        assert box[0].tobytes() == box[1].tobytes()


def test_a_contact_sheet_holds_every_strip_whole(videos):
    sheet = plots.contact_sheet([(f"clip {i}\nsecond line", video) for i, video in enumerate(videos)])
    strips = [plots.frame_strip(video, 2.0) for video in videos]
    top = 8
    for strip in strips:
        top += 2 * 18
        assert sheet.crop((8, top, 8 + strip.width, top + strip.height)).tobytes() == strip.tobytes()
        top += strip.height + 8
    assert sheet.height == top
    assert isinstance(sheet, Image.Image)


def test_unreadable_and_absent_clips_are_refused(tmp_path):
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        plots.frame_strip(tmp_path / "gone.mp4", 2.0)
    with pytest.raises(ValueError, match="at least one clip"):
        plots.contact_sheet([])


@pytest.mark.fault("load")
def test_the_moving_mean_is_that_of_each_window_and_costs_the_same_for_any_window():
    values = np.random.default_rng(0).normal(size=400)
    plain = [values[max(0, i - 20) : i + 21].mean() for i in range(400)]
    np.testing.assert_allclose(plots.smooth(values, 41), plain, atol=1e-12)
    values[[3, 200]] = np.nan, np.inf
    assert np.isnan(plots.smooth(values, 5)).sum() == 5 + 5  # a gap where there is no number, and no further
    long, wide, narrow = np.zeros(1_000_000), 100_001, 3
    assert any(seconds(plots.smooth, long, wide) < 8 * seconds(plots.smooth, long, narrow) for _ in range(5))
