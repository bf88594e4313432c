"""What the figures of an evaluation say, in plain sentences: better or not, does it look, what was lost.

Why: a table lets everybody read what he hoped for. The rules by which figures become words stand here, once, so that
the notebook, the report and the comparison of jobs say the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from cookbook.display.tables import Verdict, label
from cookbook.evaluation.controls import TURN, circular_score
from cookbook.evaluation.scores import LEAST, by_field, kept_skills
from cookbook.evaluation.statistics import SURE, holm, interval

MUTE = 0.2  # a larger share of unread answers under a control is told: it then falls for another reason
MEANS = {  # what it says of the questions where a control does not fall to guessing
    "blind": "the words alone give the answer away",
    "other clips": "the answer does not hang on this clip",
    "single frame": "one frame is enough",
    "shuffled frames": "the order of the frames is not needed",
}
ORDERLESS = ("single frame", "shuffled frames")  # the controls that take the order of the frames away
STILL, FELL, NEVER = "above guessing", "guessing", "never above"
ORDER = "{task} asks for the order of the frames: {own} falls to {accuracy} without it, "
WITHOUT_ORDER = {
    FELL: ORDER + "to guessing, as it should.",
    STILL: ORDER + "not to guessing: something else tells the answer.",
    NEVER: ORDER + "which says nothing: it is not surely above guessing with it either.",
}


def hundred(share: float) -> str:
    """Returns a share in percent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def from_to(ci95: Sequence[float]) -> str:
    """Returns an interval of shares in percent, as in "67.6–76.2"."""
    return "–".join(map(hundred, ci95))


def points(difference: float) -> str:
    """Returns a difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Returns "p = 0.039", or "p < 0.001" for what is smaller; a digit more where p would be rounded up to SURE."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if (round(p, 3) < SURE) == (p < SURE) else f"p = {p:.4f}"


def listed(words: Sequence[str]) -> str:
    """Returns "a", "a and b", or "a, b and c"; "" of nothing."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def judged_steps(comparison: dict) -> dict[str, dict]:
    """Returns {"later_vs_earlier": {fields of Clustered, "needed", "sure"}}, as `scores.compare` has paired them.

    Interval and p are those of whole clips. Of several steps one may look sure by luck, so each p counts all of them
    (`statistics.holm`); sure is what lies below SURE.
    """
    found, paired = comparison["clustered"], comparison.get("paired", {})
    ps = holm({pair: step["p"] for pair, step in found.items()})
    return {
        pair: step | {"p": ps[pair], "needed": paired.get(pair, {}).get("needed"), "sure": ps[pair] < SURE}
        for pair, step in found.items()
    }


def in_sentences(comparison: dict) -> dict:
    """Returns the comparison by shared words where all answers are sentences, which are hardly ever right; else {}."""
    texts = comparison.get("texts", {})
    return texts if texts.get("n") == comparison["n"] else {}


def short_answer(comparison: dict, kept: Mapping[str, Mapping[str, dict]] | None = None) -> str:
    """Returns the answer to "did it get better?"; only a step that is sure counts (`judged_steps`).

    Answers in sentences are judged by shared words where there are no others (`scores.compare_texts`). Below LEAST
    questions nothing is called gained or lost; models that are not surely above guessing say nothing; tasks
    that were lost (`kept`: what `skills` found) are named, whatever the mean does.
    """
    if not comparison["paired"]:
        return "One model, nothing to compare it with"
    if comparison["n"] < LEAST:
        return f"Cannot be said: {comparison['n']} questions, and {LEAST} are the least"
    texts = in_sentences(comparison)
    guess, models = guessing(texts or comparison), (texts or comparison)["models"].values()
    if guess and all(found["ci95"][0] <= guess for found in models):
        return "Cannot be said: no model is surely above guessing"
    _, *later = map(label, comparison["models"])
    steps = judged_steps(texts or comparison).values()
    sure = [(name, step["difference"]) for name, step in zip(later, steps) if step["sure"]]
    up, down = (listed([name for name, by in sure if sign * by > 0]) for sign in (1, -1))
    if down:
        said = f"Better with {up}, worse with {down}" if up else f"No, worse with {down}"
    elif up and len(sure) == len(steps):
        said = "Yes, better at every step" if len(sure) > 1 else "Yes, better"
    else:
        said = f"Better with {up}; the rest is not certain" if up else "Not for certain"
    lost = {task for tasks in (kept or {}).values() for task, part in tasks.items() if part["verdict"] == "lost"}
    return said + (f", but {listed(sorted(lost))} fell" if lost else "")


def guessing(levels: Mapping[str, float]) -> float:
    """Returns what guessing earns: the larger one of chance and majority; 0 where neither is known."""
    return max(levels.get("chance", 0), levels.get("majority", 0))


def goals(comparison: dict, gain: float, accuracy: float) -> list[Verdict]:
    """Returns a verdict on each part of the goal that problem.ipynb sets: what was asked, what came.

    The first trained model is `gain` above the base, the last step is sure (p < 0.05), and ends at `accuracy` or more.
    """
    names, steps = list(comparison["models"]), list(judged_steps(comparison).values())
    if not steps or in_sentences(comparison):  # the goal is one of right answers
        return []
    first, old, new = label(names[1]), label(names[-2]), label(names[-1])
    gained, step, last = steps[0]["difference"], steps[-1], comparison["models"][names[-1]]
    tasks = sorted(last.get("tasks", {}).items(), key=lambda task: task[1]["accuracy"])[:2]
    weak = listed([f"{task} ({hundred(part['accuracy'])} %)" for task, part in tasks])
    enough = f", or {step['needed']} questions, which show such a step 8 times in 10" if step["needed"] else ""
    longer = ("the training was short, or the questions are too few to show it", f"more steps{enough}")
    gamed = ("the reward pays for something else, or the rate was too high", "read what it answers; a lower rate")
    return [
        Verdict(f"{first} {points(gain)} points above {names[0]} ({points(gained)})", gained >= gain,
                "the training was short, or evaluation asks in another way than training",
                "more epochs; read what it answers"),
        Verdict(f"{new} surely better than {old} ({p_value(step['p'])})",
                step["sure"] and step["difference"] > 0, *(longer if step["difference"] >= 0 else gamed)),
        Verdict(f"{new} at {hundred(accuracy)} % or more ({hundred(last['accuracy'])} %)", last["accuracy"] >= accuracy,
                "the training was short" + (f"; the weakest tasks are {weak}" if weak else ""),
                "more steps, then more clips of the weakest tasks"),
    ]  # fmt: skip


def evidence(comparison: dict) -> str:
    """Returns the numbers behind the short answer in one sentence: accuracies with intervals, what guessing earns.

    Of each step: difference, p, and how many questions find so large a difference 8 times in 10.
    """
    told = [(label(name), hundred(m["accuracy"]), from_to(m["ci95"])) for name, m in comparison["models"].items()]
    said = "{} answers {} % of {n} held-out questions right (95 % interval {})".format(*told[0], n=comparison["n"])
    named = {"chance": "a guess", "majority": "always the most frequent answer"}
    levels = [f"{words} earns {hundred(comparison[key])} %" for key, words in named.items() if comparison.get(key)]
    said += f", where {listed(levels)}" if levels else ""
    for (earlier, *_), (later, share, ends), step in zip(told, told[1:], judged_steps(comparison).values()):
        luck = "" if step["sure"] else ", which luck alone can explain"
        takes = f"; so much takes {step['needed']} questions to find" if step["needed"] else ""
        said += f"; {later} {share} % ({ends}), that is {points(step['difference'])} points "
        said += f"against {earlier} ({p_value(step['p'])}{luck}{takes})"
    if told := sentence_words(comparison):
        said += f". {told}"
    return said.replace("base", "Base", said.startswith("base ")) + "."  # other names stay as they are


def sentence_words(comparison: dict) -> str:
    """Returns how many words answers in sentences share with their references, in one sentence; "" without such."""
    if not (texts := comparison.get("texts")):
        return ""
    told = [f"{label(name)} {hundred(m['rougeL'])} % ({from_to(m['ci95'])})" for name, m in texts["models"].items()]
    for i, step in enumerate(judged_steps(texts).values(), 1):
        told[i] += f", that is {points(step['difference'])} points ({p_value(step['p'])})"
    told += [f"one answer for all earns {hundred(texts['majority'])} %"] if texts.get("majority") else []
    return f"Words shared with the reference in {texts['n']} answers in sentences (ROUGE-L): {'; '.join(told)}"


def against_controls(rows: Sequence[dict], controls: Mapping[str, Sequence[dict]], comparison: dict) -> dict:
    """Compare a model's rows with its rows under each control, on the same questions.

    Returns {control: {"all" and each task: {"n", "own", "accuracy", "ci95", "level", "verdict", "unread"}}}; for
    turned options what `circular_score` returns. `own` is the accuracy with the clip, `level` what guessing
    earns: the larger one of chance and majority. verdict: "above guessing" where the control's whole interval lies
    above the level, "guessing" where it reaches it, "never above" where the model is no better with its clip either.
    Raises ValueError where a control has questions that the rows have not.
    """
    own, found = {row["id"]: row for row in rows}, {}
    for control, asked in controls.items():
        parts = {"all": asked} | by_field(asked)
        if any(TURN in row["id"] for row in asked):
            found[control] = circular_score(asked)
        elif strange := [row["id"] for row in asked if row["id"] not in own]:
            raise ValueError(f"{control}: {strange[0]!r} was never asked with its own clip")
        else:
            found[control] = {task: _held_against(part, own, comparison["tasks"]) for task, part in parts.items()}
    return found


def _held_against(asked: Sequence[dict], own: Mapping[str, dict], tasks: Mapping[str, dict]) -> dict:
    level = guessing({key: fmean(tasks[row["task"]][key] for row in asked) for key in ("chance", "majority")})
    without, seen = [row["correct"] for row in asked], [own[row["id"]]["correct"] for row in asked]
    low, high = interval(without)
    return {
        "n": len(asked),
        "own": fmean(seen),
        "accuracy": fmean(without),
        "ci95": [low, high],
        "level": level,
        "verdict": NEVER if interval(seen)[0] <= level else STILL if low > level else FELL,
        "unread": fmean(row.get("answer", "") is None for row in asked),
    }


def control_words(control: str, found: Mapping[str, dict], order: Sequence[str] = ()) -> str:
    """Returns one sentence a control: how far it falls, which tasks stay above guessing, and what that says of them.

    `order` names the tasks that nothing but the order of the frames should answer: whether they fall without it is said
    of each. The others may be answered by a still, and a control that they pass is no fault.
    """
    if "bias" in found:
        turns, every, off = map(hundred, (found["accuracy"], found["circular"], found["bias"]["distance"]))
        said = f"{control}: {turns} % of the turns are right, and {every} % of {found['n']} questions in every turn; "
        return said + f"{off} % of the answers would have to change for each letter to be told as often as it is right."
    shares = ("own", "accuracy", "level", "unread")
    tasks = {task: part | {key: f"{hundred(part[key])} %" for key in shares} for task, part in found.items()}
    whole, fell = tasks.pop("all"), found["all"]["accuracy"] < found["all"]["own"]
    falls = f"falls to {whole['accuracy']}" if fell else f"does not fall ({whole['accuracy']})"
    stay, never = ([task for task, part in tasks.items() if part["verdict"] == verdict] for verdict in (STILL, NEVER))
    above = [f"{task} ({tasks[task]['accuracy']} where guessing earns {tasks[task]['level']})" for task in stay]
    mute = [f"{task} ({part['unread']})" for task, part in tasks.items() if found[task]["unread"] > MUTE]
    means = MEANS.get(control, "what was taken away is not needed")
    ordered = [tasks[task] | {"task": task} for task in order if control in ORDERLESS and task in tasks]
    said = [
        (whole, f"{control}: {whole['own']} {falls} on {whole['n']} questions."),
        (stay, f"Not to guessing: {listed(above)}. There {means}."),
        (not stay and len(never) < len(tasks), "No task stays above guessing."),
        (never, f"Says nothing for {listed(never)}: not surely above guessing with the own clip either."),
        *((part, WITHOUT_ORDER[part["verdict"]].format(**part)) for part in ordered),
        (mute, f"Unread, so wrong: {listed(mute)}; there it lost its form, which tells nothing of the words."),
    ]
    return " ".join(sentence for told, sentence in said if told)


def skills(predictions: Mapping[str, Sequence[dict]]) -> dict[str, dict[str, dict]]:
    """Returns {"later_vs_earlier": kept_skills} of the last step, and of first to last where that is another one."""
    names = list(predictions)
    pairs = dict.fromkeys([(names[-2], names[-1]), (names[0], names[-1])]) if names[1:] else {}
    return {f"{b}_vs_{a}": kept_skills(predictions[a], predictions[b]) for a, b in pairs}


def worse_words(found: Mapping[str, Mapping[str, dict]]) -> str:
    """Returns one sentence on the tasks that were lost, and on those of which it is not certain."""
    said = []
    for pair, tasks in found.items():
        later, earlier = map(label, pair.split("_vs_"))
        lost = [f"{task} ({points(part['difference'])})" for task, part in tasks.items() if part["verdict"] == "lost"]
        unsure = [task for task, part in tasks.items() if part["verdict"] in ("not certain", "too few")]
        words = f"lost {listed(lost)}" if lost else "no task is surely lost"
        said.append(f"{later} against {earlier}: {words}" + f"; not certain for {listed(unsure)}" * bool(unsure) + ".")
    return " ".join(said)


def habit_words(found: Mapping[str, Mapping[str, dict]], predictions: Mapping[str, Sequence[dict]]) -> str:
    """Returns the last model's usual answer to each task that its last step lost, and to each that it answers alike.

    And how often that answer is right.
    """
    said = []
    for task, part in next(iter(found.values()), {}).items():
        rows = [row for row in list(predictions.values())[-1] if row["task"] == task]
        answer, count = Counter(row["answer"] for row in rows).most_common(1)[0]
        right = sum(row["reference"] == answer for row in rows)
        if part["verdict"] == "lost" or right < count == len(rows):
            said.append(f"It answers {task} with {answer} {count} times of {len(rows)}; that is right {right} times.")
    return " ".join(said)
