"""A toy road world: short clips of a junction seen from above, whose right answers are known for certain.

Why: nobody can download 9,000 driving clips to learn post-training, and nobody can check labels that a person
guessed. Here a seeded script decides what happens (who drives where, what the signal shows, who hits whom), draws
it, and writes the guide's layout: `videos/{id}.camera_front_wide_120fov.mp4` and `metas/{id}.label.json`.

    python -m data_tools.worlds.road OUT --train 600 --validation 60 --test 200 --seed 0

Each clip has a *driver* (the vehicle that the questions are about), and often a second vehicle or debris.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.worlds import build_world, command_line, drawing

VERSION = 5  # raise it when the same seed gives other clips
FRAMES, FPS, SIZE = 8, 2, 112
SPLITS = ("train", "validation", "test")

CAUSES = {
    "red_signal": "driving through a red signal",
    "no_yield": "not giving way at the junction",
    "lane_change": "an unsafe lane change",
    "too_close": "following too closely",
    "debris": "debris on the lane",
}
MANEUVERS = {
    "straight": "keeps driving in its lane",
    "lane_change": "changes lanes",
    "stop": "slows down and stops",
    "waits": "stands still and waits",
}
SIGNALS = ("red", "green")
LAMPS = {"red": (255, 45, 40), "green": (50, 230, 90)}
SIGNAL_TURNS = (2, 3, 5, 6)  # the frames where a signal may turn

LANE = 0.2  # lane width; the main road has two lanes, the crossing road is 1.3 lanes wide
ROAD_Y, CROSS_X, CROSS_HALF = 0.5, 0.7, 0.13
STOP_X = CROSS_X - CROSS_HALF - 0.03


@dataclass(frozen=True)
class Actor:
    """One thing on the road: where its centre is in each frame, how long and wide it is, and how it looks."""

    color: str
    kind: str  # "vehicle" or "debris"
    xy: np.ndarray  # (frames, 2), canonical coordinates: the driver travels to the right
    length: float
    width: float
    upright: bool = False  # travels along y
    nose: int = 1  # +1: towards larger coordinates, -1: the other way


@dataclass(frozen=True)
class Clip:
    """What the script decided: the label that is stored, and what is needed to draw it."""

    label: dict
    actors: tuple[Actor, ...] = field(repr=False)
    lamp: tuple[str, ...] = ()  # the signal's colour in each frame
    turns: int = 0  # quarter turns applied to the canonical scene
    flip: bool = False


def _drive(start: float, end: float, stop_at: float = 1.0) -> np.ndarray:
    """Returns positions (frames,) that go from start to end at an even speed, reached at time stop_at (0..1]."""
    t = np.linspace(0, 1, FRAMES)
    return start + (end - start) * np.minimum(t / stop_at, 1)


def _slow_down(start: float, end: float, stop_at: float) -> np.ndarray:
    """Returns positions (frames,) of a vehicle that brakes evenly and stands at `end` from time stop_at on."""
    t = np.minimum(np.linspace(0, 1, FRAMES) / stop_at, 1)
    return start + (end - start) * (1 - (1 - t) ** 2)


def _along(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.zeros(FRAMES) + x, np.zeros(FRAMES) + y), axis=1)


@dataclass(frozen=True)
class Setting:
    """What is drawn before the scenario: two vehicles, the signal, where the driver starts, and when it may be hit."""

    colors: tuple[str, str]  # of the driver and of the other vehicle; so are the sizes
    sizes: tuple[tuple[float, float], tuple[float, float]]  # (length, width)
    signal: str
    lanes: tuple[float, float]  # the middle of the driver's lane and of the other one
    start: float
    hit: float  # time of contact, as a share of the clip

    def vehicle(self, which: int, xy: np.ndarray, **looks) -> Actor:
        return Actor(self.colors[which], "vehicle", xy, *self.sizes[which], **looks)


class Scene(NamedTuple):
    """What a scenario decides: the actors, the driver first, and what follows for the label."""

    actors: tuple[Actor, ...]
    maneuver: str = "straight"
    cause: str | None = None
    obeys: bool | None = None


def _crossing(s: Setting, collision: bool, rng: np.random.Generator) -> Scene:
    """Another vehicle comes from the crossing road, from above or from below."""
    (length, width), (length2, _) = s.sizes
    cross, maneuver = CROSS_X + rng.uniform(-0.03, 0.03), "straight"
    down = float(rng.choice([-1, 1]))  # +1: from above
    far, y, gap = 0.5 - down * 0.42, s.lanes[0], (width + length2) / 2
    if collision:
        me, you = _along(_drive(s.start, cross, s.hit), y), _along(cross, _drive(far, y - down * gap, s.hit))
    elif s.signal == "red" and rng.random() < 0.5:  # stops at the line, as it must; the other one crosses
        maneuver = "stop"
        me = _along(_slow_down(s.start, STOP_X - length / 2, rng.uniform(0.6, 0.85)), y)
        you = _along(cross, _drive(far, 0.5 + down * 0.7, 1.0))
    else:  # drives on while the other one waits; on red that is against the rules, though nobody is hit
        me = _along(_drive(s.start, 1.0 + rng.uniform(0, 0.1)), y)
        you = _along(cross, _drive(far, 0.5 - down * (LANE + 0.02 + length2 / 2), 0.6))
    cause = ("red_signal" if s.signal == "red" else "no_yield") if collision else None
    other = s.vehicle(1, you, upright=True, nose=int(down))
    return Scene((s.vehicle(0, me), other), maneuver, cause, s.signal == "green" or maneuver == "stop")


def _lane_change(s: Setting, collision: bool, rng: np.random.Generator) -> Scene:
    """Two vehicles go the same way, the driver changes lanes or stays beside the other."""
    (length, width), (_, width2) = s.sizes
    (y, y_other), begin, t = s.lanes, rng.uniform(0.2, 0.35), np.linspace(0, 1, FRAMES)
    if collision:
        contact = y_other + np.sign(y - y_other) * (width + width2) / 2
        side = y + (contact - y) * np.clip((t - begin) / (s.hit - begin), 0, 1)
        speed, beside = rng.uniform(0.3, 0.4), rng.uniform(-0.06, 0.06)
        x = _drive(s.start + 0.05, s.start + 0.05 + speed)
        stop = np.where(t < s.hit, x, np.interp(s.hit, t, x) + 0.4 * (x - np.interp(s.hit, t, x)))
        stop -= max(0, stop[-1] + length / 2 - STOP_X)  # past the line on red there would be two causes
        actors = s.vehicle(0, _along(stop, side)), s.vehicle(1, _along(stop + beside, y_other))
        return Scene(actors, "lane_change", "lane_change")
    x = _drive(s.start, s.start + rng.uniform(0.5, 0.7))
    if rng.random() < 0.5:  # a safe change: the other lane is free there
        side = y + (y_other - y) * np.clip((t - begin) / (rng.uniform(0.65, 0.8) - begin), 0, 1)
        actors = s.vehicle(0, _along(x, side)), s.vehicle(1, _along(np.maximum(x + 0.45, 0.6), y_other))
        return Scene(actors, "lane_change")
    beside = _along(x + rng.uniform(-0.08, 0.08), y_other)  # side by side, each in its own lane
    return Scene((s.vehicle(0, _along(x, y)), s.vehicle(1, beside)))


def _following(s: Setting, collision: bool, rng: np.random.Generator) -> Scene:
    """One vehicle is ahead in the lane: it waits at the line, or both drive."""
    (length, _), (length2, _) = s.sizes
    y, touch, waits = s.lanes[0], (length + length2) / 2, STOP_X - length2 / 2
    if collision:
        start = waits - touch - rng.uniform(0.12, 0.2)  # far enough to be seen driving
        me, you = s.vehicle(0, _along(_drive(start, waits - touch, s.hit), y)), s.vehicle(1, _along(waits, y))
        return Scene((me, you), cause="too_close")
    if rng.random() < 0.5:  # stops behind the waiting vehicle with room to spare
        room = rng.uniform(0.09, 0.13)
        start = min(s.start, waits - touch - room - 0.05) - 0.02
        me = s.vehicle(0, _along(_slow_down(start - 0.08, waits - touch - room, rng.uniform(0.6, 0.85)), y))
        you = s.vehicle(1, _along(waits, y))
        # sometimes the driver is the one that stands, so that "waits" is an answer too
        return Scene((you, me), "waits") if rng.random() < 0.5 else Scene((me, you), "stop")
    travel, room = rng.uniform(0.4, 0.55), rng.uniform(0.12, 0.2)
    me = _along(_drive(s.start - 0.05, s.start - 0.05 + travel), y)  # both at the same speed
    return Scene((s.vehicle(0, me), s.vehicle(1, _along(me[:, 0] + touch + room, y))))


def _debris(s: Setting, collision: bool, rng: np.random.Generator) -> Scene:
    """Something lies on the road."""
    block, at, (y, y_other) = rng.uniform(0.12, 0.15), rng.uniform(0.5, 0.6), s.lanes
    thing = Actor("debris", "debris", _along(at, y), block, block)
    if collision:
        me = _along(_drive(s.start, at - (s.sizes[0][0] + block) / 2, s.hit), y)
        return Scene((s.vehicle(0, me), thing), cause="debris")
    if rng.random() < 0.5:  # steers around it: in the free lane before it is beside it
        side = y + (y_other - y) * np.clip(np.linspace(0, 1, FRAMES) / 0.34, 0, 1)
        return Scene((s.vehicle(0, _along(_drive(s.start - 0.12, 0.88), side)), thing), "lane_change")
    me = s.vehicle(0, _along(_drive(s.start, rng.uniform(0.8, 1.0)), y))
    return Scene((me, replace(thing, xy=_along(at, y_other))))  # it lies in the other lane


SCENARIOS = {"crossing": _crossing, "lane_change": _lane_change, "following": _following, "debris": _debris}


def plan_clip(clip_id: str, scenario: str, collision: bool, rng: np.random.Generator) -> Clip:
    """Decide one clip: scenario, whether it ends in a collision, and everything that varies around it.

    Returns the clip with its full label. Raises ValueError for an unknown scenario.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"unknown scenario {scenario!r}; choose one of {', '.join(SCENARIOS)}")
    setting = Setting(
        colors=tuple(rng.choice(list(drawing.COLORS), 2, replace=False).tolist()),
        sizes=tuple((rng.uniform(0.2, 0.25), rng.uniform(0.12, 0.15)) for _ in range(2)),
        signal=str(rng.choice(SIGNALS)),
        lanes=(ROAD_Y + (lane := float(rng.choice([-1, 1]))) * LANE / 2, ROAD_Y - lane * LANE / 2),
        start=rng.uniform(0.1, 0.18),
        hit=rng.uniform(0.5, 0.7),
    )
    scene = SCENARIOS[scenario](setting, collision, rng)
    # Where nobody crosses, the signal decides nothing, so it may turn; `signal` is then what it turns to. It turns as
    # often early as late and never in the middle, so that neither the middle frame nor all of them in any order tell.
    signal, changes = setting.signal, scenario != "crossing"
    before = int(rng.choice(SIGNAL_TURNS)) if changes else 0
    lamp = (SIGNALS[signal == "red"],) * before + (signal,) * (FRAMES - before)
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    direction = (("left", "down", "right", "up") if flip else ("right", "down", "left", "up"))[turns]
    driver, other = scene.actors
    label = {
        "video_id": clip_id,
        "scenario": scenario,
        "collision": "yes" if collision else "no",
        "primary_cause": scene.cause,
        "signal": signal,
        "signal_changes": "yes" if changes else "no",
        "driver_color": driver.color,
        "other_color": other.color if other.kind == "vehicle" else None,
        "driver_maneuver": scene.maneuver,
        "driver_direction": direction,
        "follows_rules": None if scene.obeys is None else ("yes" if scene.obeys else "no"),
    }
    label["caption"] = caption(label)
    return Clip(label, scene.actors, lamp, turns, flip)


def caption(label: dict) -> str:
    """Returns the label in two plain sentences."""
    other = f"the {label['other_color']} vehicle" if label["other_color"] else "the debris"
    driver = f"The {label['driver_color']} vehicle {MANEUVERS[label['driver_maneuver']]}"
    return f"{signal_words(label)} {driver} and {'hits' if label['collision'] == 'yes' else 'stays clear of'} {other}."


def signal_words(label: dict) -> str:
    """Returns what the signal does in one sentence."""
    return f"The signal {'turns' if label['signal_changes'] == 'yes' else 'is'} {label['signal']}."


def render(clip: Clip, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Draw the clip. Returns frames (8, size, size, 3) uint8; the look varies with rng, the facts do not."""
    ground = np.array([(96, 128, 80), (176, 160, 120), (205, 210, 215), (120, 112, 104)][rng.integers(4)], float)
    ground += rng.uniform(-14, 14, 3)
    asphalt = np.full(3, rng.uniform(84, 116))
    paint = np.full(3, rng.uniform(195, 225))
    grain, glare = rng.uniform(0, 4), rng.uniform(0.92, 1.08)

    base = drawing.background(size, ground, rng, grain)
    for _ in range(rng.integers(0, 5)):  # bushes and stones beside the road
        corner = rng.choice([0.1, 0.9], 2) + rng.uniform(-0.08, 0.08, 2)
        drawing.disc(base, *corner, rng.uniform(0.03, 0.06), ground * rng.uniform(0.6, 0.85))
    drawing.box(base, CROSS_X, 0.5, 2 * CROSS_HALF, 1.2, asphalt)
    drawing.box(base, 0.5, ROAD_Y, 1.2, 2 * LANE, asphalt)
    dash = rng.uniform(0.06, 0.09)
    for x in np.arange(rng.uniform(0, dash), STOP_X - 0.02, 2 * dash):
        drawing.box(base, x, ROAD_Y, dash, 0.018, paint)
    drawing.box(base, STOP_X, ROAD_Y, 0.025, 2 * LANE, paint)
    # the signal that faces the driver stands at the near corner of the junction
    lamp_x, lamp_y = STOP_X - 0.11 + rng.uniform(-0.02, 0.02), ROAD_Y - LANE - 0.13 + rng.uniform(-0.02, 0.02)
    drawing.box(base, lamp_x, lamp_y, 0.19, 0.19, (30, 30, 34))

    frames = []
    for i in range(FRAMES):
        image = base.copy()
        drawing.disc(image, lamp_x, lamp_y, 0.075, LAMPS[clip.lamp[i]])
        for actor in reversed(clip.actors):
            _draw_actor(image, actor, *actor.xy[i])
        frames.append(_turn(image, clip.turns, clip.flip) * glare)
    return drawing.to_uint8(frames)


def _draw_actor(image: np.ndarray, actor: Actor, x: float, y: float) -> None:
    if actor.kind == "debris":
        drawing.box(image, x, y, actor.length, actor.length, (110, 70, 35))
        drawing.box(image, x, y, actor.length * 0.5, actor.length * 0.5, (165, 115, 60))
        return
    color = drawing.COLORS[actor.color]
    shade = tuple(0.3 * c + 25 for c in color)
    along = (lambda a, b: (b, a)) if actor.upright else (lambda a, b: (a, b))
    drawing.box(image, x, y, *along(actor.length, actor.width), color)
    ahead = actor.nose * actor.length * 0.2
    dx, dy = along(ahead, 0)
    drawing.box(image, x + dx, y + dy, *along(actor.length * 0.16, actor.width * 0.76), shade)  # windscreen


def _turn(image: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    """Returns the canonical picture turned clockwise by quarter turns, then mirrored left to right."""
    image = np.rot90(image, -turns)
    return image[:, ::-1] if flip else image


def plan_split(split: str, count: int, seed: int) -> list[tuple[Clip, np.random.Generator]]:
    """Returns `count` planned clips of one split: half with a collision, scenarios in equal parts, shuffled.

    Each split draws from its own random stream, so that changing the size of one leaves the others as they were.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    # crossings come twice: they hold two of the five causes, and the rules question
    kinds = [(s, c) for s in (*SCENARIOS, "crossing") for c in (True, False)]
    order = [kinds[i % len(kinds)] for i in range(count)]
    rng.shuffle(order)
    streams = rng.spawn(count)
    return [(plan_clip(f"{split}_{i:05d}", s, c, r), r) for i, ((s, c), r) in enumerate(zip(order, streams))]


def build(out: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write the world: `out/{split}/videos/*.mp4`, `out/{split}/metas/*.json`. Returns `out`."""

    def write(out: Path, split: str, count: int) -> str:
        videos, metas = out / split / "videos", out / split / "metas"
        for folder in (videos, metas):
            folder.mkdir(parents=True)
        for clip, rng in plan_split(split, count, seed):
            name = clip.label["video_id"]
            drawing.write_mp4(videos / f"{name}{VIDEO_SUFFIX}", render(clip, rng), FPS)
            (metas / f"{name}{LABEL_SUFFIX}").write_text(json.dumps(clip.label, indent=1))
        return f"{count} clips"

    return build_world(out, VERSION, counts, seed, write, size=SIZE, frames=FRAMES, fps=FPS)


if __name__ == "__main__":
    args = command_line(__doc__, dict(zip(SPLITS, (600, 60, 200))))
    build(args.out, args.counts, args.seed)
