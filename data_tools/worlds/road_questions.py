"""Questions about the toy road world, in the guide's formats: four-option MCQ and binary.

Why: a label becomes questions in one place, so that SFT targets, RL references and evaluation items cannot drift
apart. Options are shuffled by a seed, so no letter is worth guessing; each statement is as often true as false, so no
word is either.

    questions(label, seed) -> [Question, …]
"""

from dataclasses import dataclass

import numpy as np

from data_tools.worlds.road import CAUSES, MANEUVERS, SIGNALS, signal_words

LETTERS = "ABCD"
# the written reasoning starts from what can be seen, and ends in the domain's words
SEEN = {
    "straight": "moves straight on",
    "lane_change": "moves and shifts to the side",
    "stop": "moves and then stops",
    "waits": "stays still",
}
SHARES = {"straight": 28, "lane_change": 8, "stop": 3, "waits": 1}  # of 40 clips of road.plan_split
RELATIONS = {
    "crossing": "Their paths cross.",
    "lane_change": "They move the same way, {driver} shifts to the side.",
    "following": "Only {driver} moves.",
    "debris": "Only {driver} moves, debris lies there.",
}


@dataclass(frozen=True)
class Question:
    """One item: what is asked of a clip, the reference answer (a letter, or Yes/No), and the written reasoning."""

    id: str
    clip: str
    task: str
    text: str
    options: tuple[str, ...]  # what may stand in <answer>
    answer: str
    reasoning: str


def _mcq(question: str, right: str, wrong: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """Returns the question with four shuffled options, and the letter of the right one."""
    options = [right, *rng.choice(wrong, 3, replace=False).tolist()]
    options = [options[i] for i in rng.permutation(4)]
    return question + "".join(f"\n{a}) {b}" for a, b in zip(LETTERS, options)), LETTERS[options.index(right)]


def questions(label: dict, seed: int = 0) -> list[Question]:
    """Returns every question that this clip can answer without doubt."""
    clip = label["video_id"]
    rng = np.random.default_rng([seed, *clip.encode()])
    driver = f"the {label['driver_color']} vehicle"
    other = f"the {label['other_color']} vehicle" if label["other_color"] else "the debris"
    hit = label["collision"] == "yes"
    signal = signal_words(label)
    scene = RELATIONS[label["scenario"]].format(driver=driver)
    contact = f"{driver.capitalize()} {'hits' if hit else 'stays clear of'} {other}."
    motion = SEEN[label["driver_maneuver"]]
    found: list[Question] = []

    def add(task: str, text: str, options: tuple[str, ...], answer: str, reasoning: str) -> None:
        found.append(Question(f"{clip}-{task}", clip, task, text, options, answer, reasoning))

    def binary(task: str, text: str, is_so: bool, reasoning: str) -> None:
        add(task, f"{text} [Yes/No]", ("Yes", "No"), "Yes" if is_so else "No", reasoning)

    binary("collision", "Does this video show a collision?", hit, f"{scene} {contact}")
    if hit:
        cause, asked = CAUSES[label["primary_cause"]], "What is the primary cause of the accident in this video?"
        text, letter = _mcq(asked, cause, [c for c in CAUSES.values() if c != cause], rng)
        add("cause", text, tuple(LETTERS), letter, f"{signal} {scene} The cause is {cause}.")
    if label["follows_rules"]:
        good = label["follows_rules"] == "yes"
        told = f"{signal} {driver.capitalize()} {motion}. It {'follows' if good else 'breaks'} the rules."
        binary("rules", "Is the driver following traffic rules?", good, told)
    names, right = MANEUVERS, label["driver_maneuver"]
    if named := _maneuver(right, rng):
        told = f"{driver.capitalize()} {motion}. It {names[right]}."
        binary("maneuver", f"Is it true that {driver} {names[named]}?", named == right, told)
    named = str(rng.choice(SIGNALS))
    task, verb = ("change", "turns") if label["signal_changes"] == "yes" else ("signal", "is")
    binary(task, f"Is it true that the signal {verb} {named}?", named == label["signal"], signal)
    return found


def _maneuver(right: str, rng: np.random.Generator) -> str | None:
    """Returns the maneuver that the question names, None where it is not asked.

    Most drivers go straight. Were each clip asked, "changes lanes" would mostly be false and "keeps driving" true, and
    the words alone would earn nine in ten. So other drivers are asked of their own maneuver or of going straight, and
    of those who go straight only as many as make each name true in half of its questions.
    """
    others = {name: share for name, share in SHARES.items() if name != "straight"}
    if right != "straight":
        return right if rng.random() < 0.5 else "straight"
    draw = rng.random() * SHARES["straight"] / sum(others.values())
    if draw < 0.5:
        return "straight"
    shares = np.array(list(others.values()))
    return str(rng.choice(list(others), p=shares / shares.sum())) if draw < 1 else None
