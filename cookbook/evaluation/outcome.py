"""What a training came to, by its own metrics: did the reward rise or the loss fall, and which alarms went off.

Why: "no alarm" is no success yet, and a curve is read as one hopes. One rule says it, so that the checks of sft.ipynb
and rl.ipynb, `python -m cookbook.watch` and the report agree about a run. Whether the model is better on unseen clips
only the evaluation can tell (`findings`).

    verdicts(training_verdicts(read_metrics("tutorial/rl")))
    doubts({"rl": rows}, {"rl": "stopped"}, {"rl": replay(rows)})     # what a page says before any score
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from cookbook.display.tables import Verdict, label
from cookbook.evaluation.findings import listed
from cookbook.runs import FINISHED
from cookbook.training.alarms import LOSS, REWARD, VAL_LOSS, Alarm, replay

RIGHT, MOSTLY = "train/reward_single_choice", 0.8  # a reward that starts so high has little room, as in the alarms
LOWER = 0.98  # of a loss: less is no fall, as for the alarm `loss-flat`


def outcome(rows: Sequence[Mapping]) -> Verdict:
    """Returns whether a training did what it is for: the reward rose, or the loss fell.

    The reward: the mean of the last third of the steps lies two standard errors above that of the first; open between
    one and two, below six steps, and where MOSTLY right answers were its start. The loss: that of validation where it
    was measured twice, else of the first and the last quarter of training.
    """
    rewards = [row[REWARD] for row in rows if row.get(REWARD) is not None]
    if not rewards:
        return _loss_fell(rows)
    if (part := len(rewards) // 3) < 2:
        why = "each step has other prompts, so the rewards of few steps scatter"
        return Verdict(f"whether the reward rose cannot be told of {len(rewards)} steps", None, why, "more steps")
    first, last = rewards[:part], rewards[-part:]
    noise, rise = math.hypot(stdev(first), stdev(last)) / math.sqrt(part), fmean(last) - fmean(first)
    words = f"the reward rose: {fmean(first):.2f} in the first third of {len(rewards)} steps, {fmean(last):.2f} in the"
    words, right = f"{words} last", [row[RIGHT] for row in rows[:part] if row.get(RIGHT) is not None]
    if rise <= 2 * noise and right and fmean(right) > MOSTLY:
        return Verdict(words, None, "most answers were right from the start", "harder prompts, or end it here")
    if noise < rise <= 2 * noise:
        return Verdict(words, None, "it rose hardly more than its steps scatter", "more steps")
    why = "too few groups differ in what they earn, or the steps are too small or too few"
    return Verdict(words, rise > noise, why, "look at its equal groups, then more steps or a higher rate")


def _loss_fell(rows: Sequence[Mapping]) -> Verdict:
    seen, losses = ([row[key] for row in rows if row.get(key) is not None] for key in (VAL_LOSS, LOSS))
    name, values, part = ("validation", seen, 1) if len(seen) > 1 else ("training", losses, max(1, len(losses) // 4))
    if len(values) < 2:
        return Verdict(f"whether the loss fell cannot be told of {len(values)} steps", None, do="more steps")
    before, now = fmean(values[:part]), fmean(values[-part:])
    words = f"the {name} loss fell: {before:.2f} at first, {now:.2f} at last"
    why = "the rate is too low, the steps are too few, or no label counts"
    return Verdict(words, now < LOWER * before, why, "a higher rate or more epochs; look at the labels in data.ipynb")


def training_verdicts(rows: Sequence[Mapping]) -> list[Verdict]:
    """Returns what a run came to, and the alarms that went off in it, by the rows of its metrics."""
    alarms = [
        Verdict(f"no alarm went off ({a.name}, step {a.step}: {a.message})", False, a.cause, f"{a.knob}; see {a.read}")
        for a in replay(rows)
    ]
    return [outcome(rows), *(alarms or [Verdict(f"no alarm went off in {len(rows)} steps", True)])]


def doubts(
    trainings: Mapping[str, Sequence[Mapping]], ended: Mapping[str, str], alarms: Mapping[str, Sequence[Alarm]]
) -> list[str]:
    """Returns what to know of trainings before any score, in sentences: not at its end, an alarm, no progress.

    By name: the rows of their metrics, the `outcome` of their manifests ("" where one has none), and their alarms.
    """
    said = [f"{label(run)} is not at its end ({how})." for run, how in ended.items() if how not in ("", FINISHED)]
    for run, rows in trainings.items():
        told = [f"{a.name} ({'severe, ' * a.severe}from step {a.step} on)" for a in alarms[run]]
        said += [f"{label(run)} set off an alarm: {listed(told)}."] if told else []
        if (found := outcome(rows)).holds is False:
            said.append(f"It does not hold of {label(run)} that {found.words}.")
    return said
