"""The shapes that the base is pretrained on: every fact is true of the scene, every answer is well formed."""

import re
from collections import Counter

import numpy as np
import pytest

from cookbook.data.answers import FORMATS, choose
from models import shapes_world

PHRASES = [
    "a red house",
    "two small birds",
    "the end of the road",
    "nothing at all",
    "over the hills",
    "ten green bottles",
]


@pytest.fixture(scope="module")
def scenes() -> list[dict]:
    return [shapes_world.plan_scene(np.random.default_rng(seed)) for seed in range(400)]


@pytest.fixture(scope="module")
def asked(scenes) -> list[tuple[dict, dict]]:
    """(scene, question): three questions on every scene."""
    rng = np.random.default_rng(0)
    return [(scene, shapes_world.make_question(scene, PHRASES, rng)) for scene in scenes for _ in range(3)]


def options(question: dict) -> dict[str, str]:
    """The options of a question by what stands in its answer: letters, or Yes and No."""
    if question["question"].endswith("[Yes/No]"):
        return {"Yes": "Yes", "No": "No"}
    return dict(line.split(") ", 1) for line in question["question"].splitlines()[1:])


def outline(thing) -> np.ndarray:
    """Points on the edge of a thing around its own centre (160, 2)."""
    turn = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    edge = np.stack([np.cos(turn), np.sin(turn)], 1)
    if thing.shape != "ball":
        edge = edge / np.abs(edge).max(1, keepdims=True)
    return edge * (thing.width / 2, thing.height / 2)


def gap(a, b) -> np.ndarray:
    """The shortest way between the edges of two things in each frame; about zero where they cross."""
    points = a.xy[:, None, None] + outline(a)[:, None] - b.xy[:, None, None] - outline(b)
    return np.linalg.norm(points, axis=-1).min((1, 2))


# Scenes


def test_two_things_touch_exactly_where_the_label_says(scenes):
    pairs = [scene for scene in scenes if scene["relation"]]
    for scene in pairs:
        free = gap(*scene["things"])
        if scene["touch"]:
            contact = np.argmax(free < 0.012)
            assert free[0] > 0.04 and contact > 0 and free[contact:].max() < 0.012  # and ends every motion
        else:
            assert free.min() > 0.04
    share = np.mean([scene["touch"] for scene in pairs])
    assert 0.35 < share < 0.6  # neither answer is worth guessing


def test_things_without_a_relation_never_touch(scenes):
    groups = [scene["things"] for scene in scenes if not scene["relation"]]
    assert Counter(map(len, groups)).keys() == {1, 2, 3, 4}
    assert all(gap(a, b).min() > 0.04 for things in groups for a in things for b in things if a is not b)


def test_a_thing_goes_its_way_and_stays_in_the_picture(scenes):
    for thing in (thing for scene in scenes for thing in scene["things"]):
        assert thing.xy.min() > 0 and thing.xy.max() < 1
        steps = np.diff(thing.xy, axis=0)
        if thing.path == "still":
            assert thing.direction is None and np.abs(steps).max() == 0
        elif thing.path != "back":
            ahead = steps @ np.array(shapes_world.DIRECTIONS[thing.direction])
            assert ahead.min() > -1e-9 and ahead.sum() >= 0.14


def test_a_relation_fits_the_ways_of_the_two_things(scenes):
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    fits = {
        "across": lambda a, b: a and b and b not in (a, opposite[a]),
        "same": lambda a, b: a and a == b,
        "opposite": lambda a, b: a and b == opposite[a],
        "one": lambda a, b: a and b is None,
        "none": lambda a, b: a is b is None,
    }
    pairs = [scene for scene in scenes if scene["relation"]]
    assert {scene["relation"] for scene in pairs} == set(fits)
    for scene in pairs:
        assert fits[scene["relation"]](*(thing.direction for thing in scene["things"])), scene


def test_colours_are_distinct_within_a_scene(scenes):
    for scene in scenes:
        assert len({thing.color for thing in scene["things"]}) == len(scene["things"])


def test_the_same_generator_draws_the_same_clip(scenes):
    for scene in scenes[:5]:
        first, second = (shapes_world.render(scene, np.random.default_rng(1), 56) for _ in range(2))
        assert first.shape == (shapes_world.FRAMES, 56, 56, 3) and first.dtype == np.uint8
        assert np.array_equal(first, second)


# Questions


def test_every_answer_is_among_distinct_options(asked):
    for _, question in asked:
        if question["task"] != "describe":
            found = options(question)
            assert question["answer"] in found and len(set(found.values())) == len(found) >= 2, question


def test_a_target_has_the_form_that_its_prompt_asks_for(asked):
    forms = Counter()
    for _, question in asked:
        if question["task"] == "describe":
            form = "described"
            assert question["target"] and question["system"] == shapes_world.DESCRIBE_PROMPT
        elif question["system"] in shapes_world.DIRECT_PROMPTS:
            form = "direct"
            assert question["target"] == question["answer"]
        else:
            form = "reasoned"
            answers, target = FORMATS["think_answer"], question["target"]
            assert question["system"] in shapes_world.THINK_PROMPTS and answers.well_formed(target)
            assert choose(answers.stated(target), tuple(options(question))) == question["answer"]
        forms[form] += 1
    assert forms.keys() == {"described", "direct", "reasoned"}


def test_answers_are_true_of_the_scene(asked):
    seen = Counter()
    for scene, question in asked:
        task, things = question["task"], scene["things"]
        said = options(question)[question["answer"]] if task != "describe" else ""
        thing = next((t for t in things if t.name in question["question"]), things[0])
        truth = {
            "count": shapes_world.NUMBERS[len(things) - 1],
            "color": things[0].color,
            "lamp": scene["lamp"][-1] if scene["lamp"] else None,
            "direction": thing.direction,
            "path": shapes_world.PATHS[thing.path],
            "relation": shapes_world.RELATIONS.get(scene["relation"]),
            "mover": next((t.color for t in things if t.path != "still"), None),
        }
        if task in truth:
            assert said == truth[task], (said, truth[task], question)
        elif task == "turn":
            before, after = scene["lamp"][0], scene["lamp"][-1]
            assert before != after and said in ("Yes", "No", after)
            assert "turn" in question["target"] or "<think>" not in question["target"]
            assert said == after or (said == "Yes") == (f"turn {after}?" in question["question"])
        elif task == "touch":
            assert (said in ("Yes", "they touch")) == scene["touch"]
        seen[task] += 1
    assert {*truth, "turn", "touch", "read", "pick", "describe"} <= set(seen)


def test_reasoning_about_a_text_ends_with_the_text_that_is_asked_for(asked):
    texts = [q for _, q in asked if q["task"] == "read" and not q["question"].endswith("[Yes/No]")]
    assert texts
    for question in texts:
        said = options(question)[question["answer"]]
        assert said in question["question"].split("\n")[0]
        if question["target"] != question["answer"]:
            assert question["target"].split("</think>")[0].endswith(f" {said}."), question


def test_a_pick_is_settled_by_its_reasoning_alone(asked):
    picks = [q for _, q in asked if q["task"] == "pick"]
    claims = [q for q in picks if q["question"].endswith("[Yes/No]")]
    assert claims and len(claims) < len(picks)
    for question in picks:
        asks, reasoning = question["question"].split("\n")[0], question["target"].split("</think>")[0]
        if question in claims:
            claim = re.fullmatch(r"(?:Is it true that|Do you see that|Is it) (.*)\? \[Yes/No\]", asks)[1]
            assert reasoning.endswith((f" {claim}.", f">{claim}.")) == (question["answer"] == "Yes"), question
        else:
            named = [letter for letter, text in options(question).items() if reasoning.endswith(f" {text}.")]
            assert question["answer"] in named
            assert not any(text in asks for text in options(question).values())
    said = Counter(q["answer"] for q in claims)
    assert 0.35 < said["Yes"] / len(claims) < 0.65


def test_letters_are_not_worth_guessing(asked):
    four = [q["answer"] for _, q in asked if q["task"] != "describe" and len(options(q)) == 4]
    found = Counter(four)
    assert all(0.17 < found[letter] / len(four) < 0.33 for letter in "ABCD"), found
