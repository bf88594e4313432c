"""Shapes that move: the scenes, questions and wordings that the tiny base model is pretrained on.

Why: post-training needs a base that can already see and answer. This world teaches general skills (colour, shape,
count, direction, path, contact, how two things move relative to each other, what a lamp shows and what it turns to,
reading options and matching text) and knows nothing of roads, vehicles, rules or causes: those are left to SFT and RL.
Used by `models/pretrain.py`.
"""

from dataclasses import dataclass

import numpy as np

from data_tools.worlds import drawing

FRAMES = 8
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
PATHS = {
    "straight": "moves straight on",
    "shift": "moves and shifts to the side",
    "stop": "moves and then stops",
    "still": "stays still",
    "back": "moves and turns back",
}
RELATIONS = {
    "across": "their paths cross",
    "same": "they move the same way",
    "opposite": "they move in opposite ways",
    "one": "only one of them moves",
    "none": "none of them moves",
}
LAMPS = {"red": (255, 45, 40), "green": (50, 230, 90), "blue": (60, 110, 255), "yellow": (255, 220, 60)}
NUMBERS = ("one", "two", "three", "four")
LETTERS = "ABCD"

THINK_PROMPTS = (
    "Think first, then answer. Write <think>your reasoning</think>, an empty line, then <answer>your answer</answer>.",
    "Reason inside <think></think>, then give only the answer inside <answer></answer>.",
    "Use this format: <think>reasoning</think>\n\n<answer>answer</answer>",
)
DIRECT_PROMPTS = ("Answer with the letter or the word only.", "Give only the answer, nothing else.")
MIX = (0.26, 0.12, 0.24, 0.38)  # shares of the tasks describe, read, pick, and questions on what is seen
DESCRIBE_PROMPT = "You watch a short video."


@dataclass
class Thing:
    """One shape: its look and its centre in each frame, (frames, 2) in unit coordinates."""

    color: str
    shape: str
    width: float
    height: float
    path: str
    direction: str | None
    xy: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.color} thing"


# ---- scenes -----------------------------------------------------------------------------------------------------


def _track(path: str, direction: str, rng: np.random.Generator) -> np.ndarray:
    """Returns centres (frames, 2) of one thing that follows the path, inside the picture."""
    t = np.linspace(0, 1, FRAMES)
    ahead = np.array(DIRECTIONS[direction], float)
    aside = ahead[::-1] * rng.choice([-1, 1])
    far, side = rng.uniform(0.35, 0.75), np.zeros(FRAMES)
    if path == "still":
        go = np.zeros(FRAMES)
    elif path == "stop":
        u = np.minimum(t / rng.uniform(0.45, 0.8), 1)
        go = far * (1 - (1 - u) ** rng.choice([1, 2]))
    elif path == "back":
        go = far * (1 - np.abs(1 - 2 * t))
    else:
        go = far * t
        if path == "shift":
            begin, end = rng.uniform(0.05, 0.35), rng.uniform(0.5, 0.85)
            side = rng.uniform(0.07, 0.26) * np.clip((t - begin) / (end - begin), 0, 1)
    xy = go[:, None] * ahead + side[:, None] * aside
    low, high = -xy.min(0) + 0.09, 0.91 - xy.max(0)
    return xy + rng.uniform(low, np.maximum(low, high))


def _gap(a: Thing, b: Thing) -> np.ndarray:
    """Returns the free space between two things in each frame (negative: they overlap)."""
    box = sum(np.array([0.0, 0.0] if t.shape == "ball" else [t.width / 2, t.height / 2]) for t in (a, b))
    d = np.abs(a.xy - b.xy) - box
    radii = sum(t.width / 2 for t in (a, b) if t.shape == "ball")
    return np.hypot(*np.maximum(d, 0).T) + np.minimum(d.max(axis=1), 0) - radii


def _halt_at_contact(a: Thing, b: Thing) -> bool:
    """Stop both where they first touch (to a fraction of a frame). Returns whether they touch at all."""
    gap = _gap(a, b)
    if gap.min() > 0.0:
        return False
    i = int(np.argmax(gap <= 0))
    share = gap[i - 1] / (gap[i - 1] - gap[i])
    for thing in (a, b):
        thing.xy[i:] = thing.xy[i - 1] + share * (thing.xy[i] - thing.xy[i - 1])
    return True


def _thing(color: str, path: str, direction: str, rng: np.random.Generator) -> Thing:
    shape = str(rng.choice(["ball", "box", "bar"]))
    width = height = rng.uniform(0.12, 0.2)
    if shape == "bar":
        width, height = rng.uniform(0.19, 0.26), rng.uniform(0.11, 0.15)
        if DIRECTIONS[direction][0] == 0:
            width, height = height, width
    return Thing(
        color, shape, width, height, path, None if path == "still" else direction, _track(path, direction, rng)
    )


def plan_scene(rng: np.random.Generator) -> dict:
    """Returns the facts of one scene: things, relation of the first two, contact, and the lamp's colour in each frame.

    Nothing is ambiguous; a scene without a lamp has no colours.
    """
    colors = [str(c) for c in rng.permutation(list(drawing.COLORS))]
    lamp, before = (str(color) for color in rng.choice(list(LAMPS), 2, replace=False))
    changed = int(rng.integers(2, FRAMES - 1)) if rng.random() < 0.4 else 0  # the frame where the lamp changes
    seen = (before,) * changed + (lamp,) * (FRAMES - changed) if rng.random() < 0.6 else ()
    kind = rng.random()
    if kind < 0.4:
        count = 1 if kind < 0.25 else int(rng.integers(2, 5))
        things: list[Thing] = []
        while len(things) < count:
            path = str(rng.choice(["straight", *PATHS])) if not things else "still"
            new = _thing(colors[len(things)], path, str(rng.choice(list(DIRECTIONS))), rng)
            if all(_gap(new, old).min() > 0.04 for old in things):
                things.append(new)
        return {"things": things, "lamp": seen, "relation": None, "touch": None}

    relation = str(rng.choice(["across", "same", "opposite", "one", "none"], p=[0.34, 0.22, 0.08, 0.3, 0.06]))
    want = bool(rng.integers(2)) and relation != "none"
    while True:
        direction = str(rng.choice(list(DIRECTIONS)))
        dx, _ = DIRECTIONS[direction]
        turned = ["up", "down"] if dx else ["left", "right"]
        opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[direction]
        # contact ends every motion, so "moves and then stops" is only asked where nothing touches
        paths = ["straight", "shift"] if want else ["straight", "straight", "shift", "stop"]
        first = "still" if relation == "none" else str(rng.choice(paths))
        second = "still" if relation in ("one", "none") else str(rng.choice([p for p in paths if p != "shift"]))
        heading = {"across": str(rng.choice(turned)), "same": direction, "opposite": opposite}.get(relation, direction)
        a, b = _thing(colors[0], first, direction, rng), _thing(colors[1], second, heading, rng)
        gap = _gap(a, b)
        if gap[0] < 0.05 or (not want and gap.min() < 0.05) or (want and gap.min() > -0.01):
            continue
        if want:
            moved_before = {id(t): np.ptp(t.xy, axis=0).max() for t in (a, b)}
            _halt_at_contact(a, b)
            # a contact must come late enough to see the motion before it
            if any(moved_before[id(t)] > 0 and np.ptp(t.xy, axis=0).max() < 0.15 for t in (a, b)):
                continue
            if any(t.path == "shift" and np.ptp(t.xy, axis=0).min() < 0.06 for t in (a, b)):
                continue
        return {"things": [a, b], "lamp": seen, "relation": relation, "touch": want}


def render(scene: dict, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the scene before a random backdrop of bands, dashes and grain. Returns (8, size, size, 3) uint8."""
    base = drawing.background(size, rng.uniform(60, 215) + rng.uniform(-30, 30, 3), rng, rng.uniform(0, 5))
    for _ in range(rng.integers(0, 4)):
        drawing.disc(
            base, *rng.uniform(0, 1, 2), rng.uniform(0.03, 0.07), rng.uniform(60, 200) + rng.uniform(-25, 25, 3)
        )
    for _ in range(rng.integers(0, 3)):
        gray, at, wide = rng.uniform(70, 150), rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.45)
        across = rng.random() < 0.5
        drawing.box(base, *((at, 0.5, wide, 1.2) if across else (0.5, at, 1.2, wide)), (gray, gray, gray))
        if rng.random() < 0.6:
            dash, paint = rng.uniform(0.04, 0.1), rng.uniform(180, 235)
            for s in np.arange(rng.uniform(0, dash), rng.uniform(0.4, 1), 2 * dash):
                drawing.box(base, *((at, s, 0.02, dash) if across else (s, at, dash, 0.02)), (paint,) * 3)
        if rng.random() < 0.4:
            s, paint = rng.uniform(0.2, 0.8), rng.uniform(180, 235)
            drawing.box(base, *((at, s, wide, 0.025) if across else (s, at, 0.025, wide)), (paint,) * 3)
    if scene["lamp"]:
        # anywhere that no thing passes, else in a corner behind them
        for _ in range(20):
            x, y = rng.uniform(0.1, 0.9, 2)
            if all((np.abs(t.xy - (x, y)) > 0.19).any(1).all() for t in scene["things"]):
                break
        drawing.box(base, x, y, 0.19, 0.19, (30, 30, 34))
    frames = []
    noses = [(rng.random() < 0.5, rng.choice([-1, 1])) for _ in scene["things"]]
    for i in range(FRAMES):
        image = base.copy()
        if scene["lamp"]:
            drawing.disc(image, x, y, 0.075, LAMPS[scene["lamp"][i]])
        for thing, (mark, side) in zip(reversed(scene["things"]), noses):
            x, y = thing.xy[i]
            color = drawing.COLORS[thing.color]
            if thing.shape == "ball":
                drawing.disc(image, x, y, thing.width / 2, color)
            else:
                drawing.box(image, x, y, thing.width, thing.height, color)
            if mark and thing.shape == "bar":
                shade = tuple(0.3 * c + 25 for c in color)
                if thing.width > thing.height:
                    drawing.box(image, x + side * thing.width * 0.2, y, thing.width * 0.16, thing.height * 0.76, shade)
                else:
                    drawing.box(image, x, y + side * thing.height * 0.2, thing.width * 0.76, thing.height * 0.16, shade)
        frames.append(image)
    return drawing.to_uint8(frames)


# ---- questions --------------------------------------------------------------------------------------------------


def _path_words(thing: Thing) -> str:
    way = f" {thing.direction}" if thing.direction and thing.path != "back" else ""
    return f"The {thing.name} {PATHS[thing.path]}{'' if not way else ','}{way}."


def _lamp_words(lamp: tuple[str, ...]) -> str:
    return f"The lamp {'is' if lamp[0] == lamp[-1] else 'turns'} {lamp[-1]}."


def describe(scene: dict) -> str:
    """Returns all facts of the scene in short sentences."""
    parts = [_path_words(t) for t in scene["things"]]
    if len(parts) > 2:
        parts = [parts[0], f"There are {NUMBERS[len(parts) - 1]} things."]
    if scene["relation"]:
        parts.append(RELATIONS[scene["relation"]].capitalize() + ".")
        parts.append("They touch." if scene["touch"] else "They stay apart.")
    if scene["lamp"]:
        parts.append(_lamp_words(scene["lamp"]))
    return " ".join(parts)


def _questions(scene: dict, rng: np.random.Generator) -> list[tuple[str, str, list[str], str, str]]:
    """Returns (skill, question, wrong answers, right answer, fact) for everything this scene can be asked about."""
    things, lamp = scene["things"], scene["lamp"]
    thing = things[int(rng.integers(len(things)))] if scene["relation"] else things[0]
    colors = list(drawing.COLORS)
    out = []

    def ask(skill, wordings, options, answer, fact):
        out.append((skill, str(rng.choice(wordings)), [o for o in options if o != answer], answer, fact))

    if thing.direction and thing.path in ("straight", "stop"):
        n = thing.name
        ask("direction", [f"Which way does the {n} move?", f"Where does the {n} go?"],
            list(DIRECTIONS), thing.direction, f"The {n} moves {thing.direction}.")  # fmt: skip
    words = {k: v for k, v in PATHS.items() if k != "back" or thing.path == "back"}
    ask("path", [f"What does the {thing.name} do?", f"How does the {thing.name} move?"],
        list(words.values()), PATHS[thing.path], f"The {thing.name} {PATHS[thing.path]}.")  # fmt: skip
    if lamp and lamp[0] == lamp[-1]:
        ask("lamp", ["What color is the lamp?", "What does the lamp show?"], list(LAMPS), lamp[-1], _lamp_words(lamp))
    elif lamp:
        ask("turn", ["What color does the lamp turn?", "What does the lamp turn to?"],
            list(LAMPS), lamp[-1], _lamp_words(lamp))  # fmt: skip
        named = lamp[-int(rng.integers(2))]
        ask("turn", [f"Does the lamp turn {named}? [Yes/No]"],
            ["Yes", "No"], "Yes" if named == lamp[-1] else "No", _lamp_words(lamp))  # fmt: skip
    if scene["relation"]:
        a, b = things
        ask("relation", ["How do the two things move?", "What is true of the two things?"],
            list(RELATIONS.values()), RELATIONS[scene["relation"]],
            f"I see that {RELATIONS[scene['relation']]}.")  # fmt: skip
        said = "Yes" if scene["touch"] else "No"
        fact = (
            f"The {a.name} and the {b.name} touch." if scene["touch"] else f"The {a.name} and the {b.name} stay apart."
        )
        ask("touch", ["Do the two things touch? [Yes/No]", f"Does the {a.name} touch the {b.name}? [Yes/No]"],
            ["Yes", "No"], said, fact)  # fmt: skip
        ask("touch", ["Do they touch?", "What happens between the two things?"],
            ["they touch", "they stay apart"], "they touch" if scene["touch"] else "they stay apart", fact)  # fmt: skip
        mover = next((t for t in things if t.path != "still"), None)
        if scene["relation"] == "one" and mover:
            ask("mover", ["Which thing moves?", "What color is the thing that moves?"], colors, mover.color,
                f"The {mover.color} thing moves.")  # fmt: skip
    else:
        number = NUMBERS[len(things) - 1]
        ask("count", ["How many things are there?", "Count the things."], list(NUMBERS), number,
            "There is one thing." if len(things) == 1 else f"There are {number} things.")  # fmt: skip
        if len(things) == 1:
            ask("color", ["What color is the thing?"], colors, thing.color, f"The thing is {thing.color}.")
    return out


def _phrases(count: int, known: list[str], rng: np.random.Generator) -> list[str]:
    """Returns different phrases, known ones or two to five words in any order: matching must not need to know them."""
    words = sorted({word for phrase in known for word in phrase.split()})
    picked: list[str] = []
    while len(picked) < count:
        mixed = " ".join(rng.choice(words, rng.integers(2, 6), replace=False).tolist())
        new = str(rng.choice(known)) if rng.random() < 0.4 else mixed
        if new not in picked:
            picked.append(new)
    return picked


def _read(phrases: list[str], rng: np.random.Generator) -> tuple[str, str, list[str], str, str]:
    """Returns a question about a text, not about the clip: find the option, or answer yes or no."""
    picked = _phrases(4, phrases, rng)
    right = picked[0]
    if rng.random() < 0.25:
        same = bool(rng.integers(2))
        said = right if same else picked[1]
        fact = f"The note says {right}. {'That is the same.' if same else 'That is not the same.'}"
        answer = "Yes" if same else "No"
        return "read", f"The note says: {right}. Does it say {said}? [Yes/No]", ["No" if same else "Yes"], answer, fact
    question = str(rng.choice([f"The note says: {right}. Which option is that?", f"Find the option that says {right}.",
                               f"The note is: {right}. What is the note?"]))  # fmt: skip
    fact = str(rng.choice(["The note says {}.", "It {}.", "It is {}.", "The note is {}."])).format(right)
    return "read", question, picked[1:], right, fact


def _pick(phrases: list[str], scene: dict, rng: np.random.Generator) -> tuple[str, str, list[str], str, str]:
    """Returns a question that only its reasoning settles, for no reason: the answer must follow what was reasoned."""
    settled, *others = _phrases(4, phrases, rng)
    fact = str(rng.choice(["I pick {}.", "It {}.", "It is {}.", "The {}.", "The answer is {}.", "I see that {}."]))
    fact = fact.format(settled)
    if rng.random() < 0.6:
        facts = [c[-1] for c in _questions(scene, rng)]
        fact = f"{' '.join(rng.choice(facts, min(len(facts), int(rng.integers(1, 3))), replace=False))} {fact}"
    if rng.random() < 0.4:
        other = others[0]
        if rng.random() < 0.5:  # nearly the same: one word differs
            words = settled.split()
            words[int(rng.integers(len(words)))] = str(rng.choice(other.split()))
            other = " ".join(words)
        asked = settled if rng.random() < 0.5 else other
        answer, wrong = ("Yes", "No") if asked == settled else ("No", "Yes")
        question = str(rng.choice(["Is it true that {}?", "Is it {}?", "Do you see that {}?"])).format(asked)
        return "pick", f"{question} [Yes/No]", [wrong], answer, fact
    question = str(rng.choice(["Pick one option.", "Choose any option.", "Which option do you take?",
                               "Which option is right?"]))  # fmt: skip
    return "pick", question, others, settled, fact


def make_question(scene: dict, phrases: list[str], rng: np.random.Generator) -> dict:
    """Returns one question on the scene: {task, system, question, target, answer}.

    The style varies: described, direct, or reasoned answers; letters or yes/no; two to four options.
    `phrases` are the texts of the tasks "read" and "pick".
    """
    task = str(rng.choice(["describe", "read", "pick", "see"], p=MIX))
    if task == "describe":
        wording = str(rng.choice(["Describe what you see in this video.", "What happens in this video?"]))
        text = describe(scene)
        return {"task": "describe", "system": DESCRIBE_PROMPT, "question": wording, "target": text, "answer": text}
    if task == "read":
        skill, question, wrong, right, fact = _read(phrases, rng)
    elif task == "pick":
        skill, question, wrong, right, fact = _pick(phrases, scene, rng)
    else:
        choices = _questions(scene, rng)
        skill, question, wrong, right, fact = choices[int(rng.integers(len(choices)))]
        if rng.random() < 0.3:  # reasoning of two sentences: another fact first
            other = [c[-1] for c in _questions(scene, rng) if c[0] != skill]
            fact = f"{rng.choice(other)} {fact}" if other else fact
    answer = right
    if not question.endswith("[Yes/No]"):
        k = min(len(wrong), int(rng.choice([1, 2, 3, 3, 3, 3])))
        options = [right, *(str(w) for w in rng.choice(wrong, k, replace=False))]
        options = [options[i] for i in rng.permutation(len(options))]
        answer = LETTERS[options.index(right)]
        question += "".join(f"\n{LETTERS[i]}) {o}" for i, o in enumerate(options))
    direct = skill != "pick" and rng.random() < 0.2
    prompts = DIRECT_PROMPTS if direct else THINK_PROMPTS
    target = answer if direct else f"<think>{fact}</think>\n\n<answer>{answer}</answer>"
    return {"task": skill, "system": str(rng.choice(prompts)), "question": question, "target": target, "answer": answer}
