"""What can go wrong in a run, by the last rows of its metrics: one small check each, its likely cause and the knob.

Why: RL fails quietly, and each way of failing has a known look. A check sees a few rows only, so it can be asked after
every step; the metrics are those of both engines, and a check whose metric is not logged says nothing. Both training
loops and the engine's watcher ask them after each step, `cookbook.watch` for any run that has left its metrics.

    Watcher(run).see(step, values)          # logs what goes off at this step; returns the severe alarm, or None
    replay(read_metrics("tutorial/rl"))     # every alarm, at the step where it first went off
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import gt, itemgetter, lt
from statistics import mean, median, stdev

from cookbook.runs import KL_ALARM, Run

WINDOW = 5  # steps that a judgement rests on: one step has other prompts than the next
SPIKE = 1.0  # nats a token: below, three times the usual loss is little
LONG = 40  # steps before "flat" can be told from slow: the mean reward of 16 prompts scatters by 0.1
KL_RUNAWAY = 1.0  # nats a token
HEAD, MIDDLE, TAIL = 16, 64, 48  # rows that a check sees of a long run: the first, of those between, and the last
STALL, SHORTEST = 10, 300.0  # a stall: usual steps without a sign of life, and the seconds that are allowed at least
RL, SFT = "notebooks/rl.ipynb#How-to-read-the-curves", "notebooks/sft.ipynb#How-to-read-the-curve"

UNEARNED = ("mean", "std", "max", "min", "overlong")  # what stands behind train/reward_ and is no part to earn

KL, REWARD, ENTROPY = "train/kl_loss_avg", "train/reward_mean", "train/entropy"
FORMAT, EQUAL, CUT = "train/reward_format", "train/zero_variance_share", "rollout/cut_share"
LENGTH, NORM, LOSS = "rollout/completion_length_mean", "optimizer/grad_norm", "train/loss_avg"
ACCURACY, VAL_LOSS = "val/accuracy", "val/avg_loss"

Rows = Sequence[dict]
Check = Callable[[Rows], str | None]  # the numbers in words, None where all is well


@dataclass(frozen=True)
class Alarm:
    """One thing that can go wrong, why it may be, what to turn; once it goes off, since when and by what numbers."""

    name: str
    check: Check | None = field(repr=False)  # None for what no row of the metrics shows
    cause: str
    knob: str  # the key of the TOML
    read: str = RL  # notebook#heading
    severe: bool = False  # whether the run can only get worse from here
    step: int = 0
    message: str = ""

    def __str__(self) -> str:
        level = "severe" if self.severe else "warning"
        said = f"{self.name} ({level}, step {self.step}): {self.message}. {self.cause}."
        return f"{said} Try {self.knob}; see {self.read}"


def _values(rows: Rows, key: str) -> list[float]:
    """Returns the logged values: the loss of SFT only, and of steps with an update norm, KL and entropy."""
    logged = [row for row in rows if row.get(key) is not None]
    if key == LOSS and any(row.get(REWARD) is not None for row in rows):
        return []
    if key in (KL, ENTROPY):  # no update, and nothing measured, where no group differs
        logged = [row for row in logged if row.get(EQUAL) != 1]
    return [row[key] for row in logged if key != NORM or row[key] > 0]


def _ends(values: list[float], part: int = WINDOW) -> tuple[float, float]:
    return mean(values[:part]), mean(values[-part:])


def _compare(
    key: str, least: int, two: Callable[[list[float]], tuple[float, float]], off: Callable[..., bool], words: str
) -> Check:
    """Returns the check of one metric: from `least` values on, whether `two` numbers, before and now, are `off`."""

    def check(rows: Rows) -> str | None:
        if len(values := _values(rows, key)) < least:
            return None
        before, now = two(values)
        return words.format(before, now) if off(before, now) else None

    return check


def _above(key: str, limit: float, words: str, peaks: int = 0) -> Check:
    """Returns the check of the last steps' mean, without so many of its highest values, against a limit."""
    return _compare(key, WINDOW, lambda v: (limit, mean(sorted(v[-WINDOW:])[: WINDOW - peaks])), lt, words)


def _fallen(key: str, share: float, what: str) -> Check:
    words = what + " fell from {:.3g} to {:.3g}"
    return _compare(key, 2 * WINDOW, _ends, lambda first, now: now < share * first, words)


def not_a_number(rows: Rows) -> str | None:
    """Goes off for a value that is NaN or infinite in the last row."""
    bad = [key for key, value in rows[-1].items() if isinstance(value, float) and not math.isfinite(value)]
    return f"{bad[0]} is {rows[-1][bad[0]]}" if bad else None


def never_earned(rows: Rows) -> str | None:
    """Goes off for a part of the reward that no completion earned in two windows."""
    parts = [k for k in rows[-1] if k.startswith("train/reward_") and k[13:] not in UNEARNED]
    zero = [k for k in parts if len(v := _values(rows, k)[-2 * WINDOW :]) == 2 * WINDOW and max(v) == 0]
    return f"no completion of the last {2 * WINDOW} steps earned {zero[0][13:]}" if zero else None


def flat_reward(rows: Rows) -> str | None:
    """Goes off where the second half of LONG steps is not above the first, and there is room above."""
    values, right = _values(rows, REWARD)[-LONG:], _values(rows, "train/reward_single_choice")[-LONG:]
    if len(values) < LONG or (right and mean(right) > 0.8):
        return None
    early, late = _ends(values, LONG // 2)
    noise = math.hypot(stdev(values[: LONG // 2]), stdev(values[LONG // 2 :])) / math.sqrt(LONG // 2)
    return f"reward {early:.3f}, then {late:.3f} over {LONG} steps" if late - early <= noise else None


def reward_without_accuracy(rows: Rows) -> str | None:
    """Goes off where the reward rises and the held-out accuracy has fallen twice."""
    right, values = _values(rows, ACCURACY), _values(rows, REWARD)
    if len(right) < 3 or len(values) < 2 * WINDOW or max(right[-2:]) > max(right) - 0.05:
        return None
    first, now = _ends(values, WINDOW)
    said = f"held-out accuracy {max(right):.3f}, now {right[-1]:.3f}; reward {first:.3f}, now {now:.3f}"
    return said if now > first else None


def validation_rises(rows: Rows) -> str | None:
    """Goes off where two measurements in a row lie 2 % above the best, each higher than the one before it."""
    values = _values(rows, VAL_LOSS)
    if len(values) < 3 or not values[-1] > values[-2] > 1.02 * min(values):
        return None
    return f"validation loss {min(values):.3f} at its best, now {values[-1]:.3f}"


# k3 has a long tail: one peak is no distance
FAR = f"the KL of the last {WINDOW} steps is {{1:.2f}} without its peak, above {{0}}"
RULES = (
    Alarm("nan", not_a_number, "The update was too large, or a clip is broken", "train.optm_lr", severe=True),
    Alarm("kl", _above(KL, KL_ALARM, FAR, peaks=1),
          "Nothing holds the policy near its start", "train.train_policy.kl_beta"),
    Alarm("kl-runaway", _above(KL, KL_RUNAWAY, FAR, peaks=1),
          "The policy has left its start: rate too high, or no KL term", "train.optm_lr", severe=True),
    Alarm("equal-groups", _above(EQUAL, 0.9, "in {1:.0%} of the last groups all earn the same"),
          "All right or all wrong: the prompts are too easy or too hard", "rollout.n_generation"),
    Alarm("never-earned", never_earned, "Prompt and reward may disagree: run python -m cookbook.gym",
          "train.train_policy.reward_function"),
    Alarm("reward-flat", flat_reward, "Too few groups teach, or the steps are too small", "train.optm_lr"),
    Alarm("reward-lost",
          _compare(REWARD, WINDOW + 1, lambda v: (mean(v[:-WINDOW][:WINDOW]), mean(v[-WINDOW:])),
                   lambda first, now: now < 0.1 * first, "the reward was {:.3f}, and is {:.3f}"),
          "The policy is broken: the rate is too high", "train.optm_lr", severe=True),
    Alarm("entropy-collapse", _fallen(ENTROPY, 0.2, "entropy"), "The policy has stopped trying other answers",
          "train.train_policy.epsilon_high"),
    Alarm("shorter", _fallen(LENGTH, 0.5, "mean completion length"),
          "The reasoning is being dropped: it earns nothing, or short completions weigh more",
          "train.train_policy.loss_type"),
    Alarm("cut", _above(CUT, 0.2, "{1:.0%} of the last completions are cut at the limit"),
          "What is cut earns nothing, whatever it would have said", "rollout.max_response_length"),
    Alarm("format-lost",
          _compare(FORMAT, 2 * WINDOW,
                   lambda v: (max(mean(v[i : i + WINDOW]) for i in range(len(v) - WINDOW + 1)), mean(v[-WINDOW:])),
                   lambda best, now: best > 0.8 and now < 0.5, "the format is kept by {1:.0%}, and was by {0:.0%}"),
          "The format is not paid for, or the rate is too high", "train.optm_lr", severe=True),
    Alarm("gradients",
          _compare(NORM, WINDOW + 3, lambda v: (median(v[:-3]), median(v[-3:])),
                   lambda before, now: now > 10 * before, "the gradient norm is {1:.3g}, and was {0:.3g}"),
          "The rate is too high, or a batch is odd", "train.optm_grad_norm_clip"),
    Alarm("reward-not-accuracy", reward_without_accuracy,
          "The reward is being gamed, or the training prompts are learned by heart",
          "train.train_policy.reward_function"),
    Alarm("overfitting", validation_rises, "The training answers are being learned by heart", "train.epoch", SFT),
    Alarm("loss-spike",
          _compare(LOSS, 10, lambda v: (median(v[-23:-3]), min(v[-3:])), lambda usual, now: now > max(3 * usual, SPIKE),
                   "the loss was {:.3f}, and is at least {:.3f} for three steps"),
          "The update was too large, or the data changed", "train.optm_lr", SFT, severe=True),
    Alarm("loss-flat",
          _compare(LOSS, 20, lambda v: _ends(v, len(v) // 4), lambda first, last: last > 0.98 * first,
                   "loss {:.3f}, and now {:.3f}"),
          "Nothing is learned: the rate is too low, or no label counts", "train.optm_lr", SFT),
)  # fmt: skip


class TrainingStopped(RuntimeError):
    """A run that was ended by a severe alarm; `alarm` says which."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(str(alarm))
        self.alarm = alarm


def standing(rows: Rows) -> list[Alarm]:
    """Returns the alarms that stand at the last row."""
    found = ((rule, rule.check(rows)) for rule in RULES) if rows else ()
    return [replace(rule, step=rows[-1]["step"], message=said) for rule, said in found if said]


class History:
    """The rows that are looked at, so that step 10,000 costs what step 100 does: at most HEAD + MIDDLE + TAIL, and two.

    These are the first and the last rows, evenly some of those between, and the best by each held-out measure.
    """

    def __init__(self) -> None:
        self.head, self.middle, self.tail, self.best = [], [], deque(), {}
        self.passed, self.stride = 0, 1

    def add(self, row: dict) -> None:
        self.tail.append(row)
        if len(self.tail) <= TAIL:
            return
        old = self.tail.popleft()
        for key, better in ((ACCURACY, gt), (VAL_LOSS, lt)):
            if old.get(key) is not None and (key not in self.best or better(old[key], self.best[key][key])):
                self.best[key] = old
        if len(self.head) < HEAD:
            self.head.append(old)
            return
        if self.passed % self.stride == 0:
            self.middle.append(old)
        self.passed += 1
        if len(self.middle) == MIDDLE:
            self.middle, self.stride = self.middle[::2], 2 * self.stride

    def rows(self) -> list[dict]:
        kept = {id(row): row for row in (*self.head, *self.middle, *self.best.values(), *self.tail)}
        return sorted(kept.values(), key=itemgetter("step"))


def replay(rows: Rows, history: History | None = None) -> list[Alarm]:
    """Returns every alarm of a run, once, at the step where it first went off; `history` takes in its rows."""
    first, history = {}, history or History()
    for row in rows:
        history.add(row)
        for alarm in standing(history.rows()):
            first.setdefault(alarm.name, alarm)
    return list(first.values())


def usual_step(times: Sequence[float]) -> float:
    """Returns the usual seconds between two steps, from the time of each; 0 where there are fewer than two."""
    return median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0


def allowed_silence(times: Sequence[float]) -> float:
    """Returns how many seconds may pass without a sign of life, after steps at these times."""
    return max(STALL * usual_step(times), SHORTEST)


def stalled(times: Sequence[float], now: float) -> Alarm | None:
    """Returns an alarm where the last step is longer ago than is allowed; None before the second."""
    if len(times) < 2 or now - times[-1] <= allowed_silence(times):
        return None
    said = f"nothing for {now - times[-1]:.0f} s, and a step took {usual_step(times):.1f} s"
    cause = "A process has died, or waits for another"
    return Alarm("stall", None, cause, "rollout.batch_size", RL, True, len(times), said)


class Watcher:
    """Looks at a run while it is written, and logs each alarm once."""

    def __init__(self, run: Run) -> None:
        self.run, self.history, self.seen, self.last = run, History(), set(), 0

    def remember(self, rows: Sequence[dict]) -> None:
        """Take the rows of a run that goes on for seen: what went off in them was logged then."""
        self.seen = {alarm.name for alarm in replay(rows, self.history)}

    def see(self, step: int, values: Mapping[str, float]) -> Alarm | None:
        """Log what goes off at this step. Returns the severe alarm, None where there is none."""
        self.history.add({"step": step, **values})
        self.last = step
        new = [alarm for alarm in standing(self.history.rows()) if alarm.name not in self.seen]
        for alarm in new:
            self.seen.add(alarm.name)
            self.run.log(f"ALARM {alarm}")
        return next((alarm for alarm in new if alarm.severe), None)
