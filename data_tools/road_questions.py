"""Questions about the toy road world, in the guide's formats: four-option MCQ and binary.

Why: a label becomes questions in one place, so that SFT targets, RL references and evaluation items cannot drift
apart. Options are shuffled by a seed, so no letter is worth guessing.

    questions(label, seed) -> [Question, …]
"""

from dataclasses import dataclass

import numpy as np

from data_tools.road_world import CAUSES, MANEUVERS

LETTERS = "ABCD"
# the written reasoning starts from what can be seen, and ends in the domain's words
SEEN = {
    "straight": "moves straight on",
    "lane_change": "moves and shifts to the side",
    "stop": "moves and then stops",
    "waits": "stays still",
}
SIGNALS = {"red": "red", "green": "green"}
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
    signal = f"The signal is {label['signal']}."
    scene = RELATIONS[label["scenario"]].format(driver=driver)
    contact = f"{driver.capitalize()} {'hits' if hit else 'stays clear of'} {other}."
    motion = SEEN[label["driver_maneuver"]]
    found: list[Question] = []

    def add(task: str, text: str, options: tuple[str, ...], answer: str, reasoning: str) -> None:
        found.append(Question(f"{clip}-{task}", clip, task, text, options, answer, reasoning))

    add(
        "collision",
        "Does this video show a collision? [Yes/No]",
        ("Yes", "No"),
        "Yes" if hit else "No",
        f"{scene} {contact}",
    )
    if hit:
        cause = CAUSES[label["primary_cause"]]
        text, letter = _mcq("What is the primary cause of the accident in this video?", cause,
                            [c for c in CAUSES.values() if c != cause], rng)  # fmt: skip
        add("cause", text, tuple(LETTERS), letter, f"{signal} {scene} The cause is {cause}.")
    if label["follows_rules"]:
        good = label["follows_rules"] == "yes"
        add("rules", "Is the driver following traffic rules? [Yes/No]", ("Yes", "No"), "Yes" if good else "No",
            f"{signal} {driver.capitalize()} {motion}. It {'follows' if good else 'breaks'} the rules.")  # fmt: skip
    truths = {
        "maneuver": (
            MANEUVERS,
            label["driver_maneuver"],
            f"{driver} {{}}",
            f"{driver.capitalize()} {motion}. It {{}}.",
        ),
        "signal": (SIGNALS, label["signal"], "the signal is {}", "The signal is {}."),
    }
    for task, (names, right, statement, reasoning) in truths.items():
        # a true and a false statement are equally likely, so neither answer is worth guessing
        true = bool(rng.random() < 0.5)
        named = names[right] if true else str(rng.choice([n for key, n in names.items() if key != right]))
        add(task, f"Is it true that {statement.format(named)}? [Yes/No]", ("Yes", "No"), "Yes" if true else "No",
            reasoning.format(names[right]))  # fmt: skip
    return found
