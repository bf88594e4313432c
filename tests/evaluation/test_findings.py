"""The sentences say what the numbers say: better only where it is sure, looking only where a control falls."""

import pytest

from cookbook.evaluation import findings


def made_up(*steps: tuple[float, float]) -> dict:
    """A comparison of base, sft, rl with these (difference, p by clip) per step; accuracies start at 40 %."""
    names = ["base", "sft", "rl"][: len(steps) + 1]
    models, paired, clustered, accuracy = {}, {}, {}, 0.4
    for i, name in enumerate(names):
        if i:
            difference, p = steps[i - 1]
            accuracy += difference
            # as single questions every step looks sure: only whole clips may decide
            paired[f"{name}_vs_{names[i - 1]}"] = {"difference": difference, "p": 1e-4, "needed": 30 * i}
            clustered[f"{name}_vs_{names[i - 1]}"] = {"difference": difference, "p": p, "ci95": [-0.1, 0.2]}
        models[name] = {"accuracy": accuracy, "ci95": [accuracy - 0.05, accuracy + 0.05]}
    return {"n": 400, "models": models, "paired": paired, "clustered": clustered}


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        ([(0.3, 1e-9), (0.05, 0.01)], "Yes, better at every step"),
        ([(0.3, 1e-9)], "Yes, better"),
        ([(0.3, 1e-9), (0.01, 0.6)], "Better with SFT; the rest is not certain"),
        ([(0.3, 1e-9), (-0.1, 0.001)], "Better with SFT, worse with RL"),
        ([(0.02, 0.4), (-0.1, 0.001)], "No, worse with RL"),
        ([(0.02, 0.4), (-0.01, 0.9)], "Not for certain"),
        ([(0.02, 0.05)], "Not for certain"),
        ([(0.3, 1e-9), (0.05, 0.04)], "Yes, better at every step"),
        ([(0.05, 0.03), (0.05, 0.04)], "Not for certain"),  # the smaller p counts twice, the larger no less
    ],
)
def test_the_short_answer_counts_sure_steps_only(steps, answer):
    assert findings.short_answer(made_up(*steps)) == answer


def test_the_short_answer_claims_nothing_on_few_questions_or_below_guessing_and_names_what_fell():
    better = made_up((0.3, 1e-9), (0.05, 0.01))
    assert findings.short_answer(better | {"n": 19}) == "Cannot be said: 19 questions, and 20 are the least"
    assert findings.short_answer(better | {"chance": 0.72}) == "Cannot be said: no model is surely above guessing"
    assert findings.short_answer(better | {"majority": 0.69}) == "Yes, better at every step"
    fell = {"rl_vs_sft": {"rules": {"verdict": "lost"}, "cause": {"verdict": "kept"}}}
    assert findings.short_answer(better, fell) == "Yes, better at every step, but rules fell"


def test_a_goal_that_is_missed_is_said_to_be_missed():
    comparison = made_up((0.3, 1e-9), (0.05, 0.2))
    gained, step, last = findings.goals(comparison, 0.2, 0.85)
    assert str(gained) == "held     SFT +20.0 points above base (+30.0)"
    assert str(step).startswith("NOT held RL surely better than SFT (p = 0.200)\n") and "short" in step.why
    assert last.words == "RL at 85.0 % or more (75.0 %)" and not last.holds
    assert findings.goals(made_up(), 0.2, 0.85) == []


def test_a_goal_names_the_weakest_tasks_and_does_not_call_a_worse_model_short_of_training():
    comparison = made_up((0.3, 1e-9), (-0.1, 0.001))
    comparison["models"]["rl"]["tasks"] = {t: {"accuracy": a} for t, a in (("a", 0.9), ("b", 0.5), ("c", 0.6))}
    _, step, last = findings.goals(comparison, 0.2, 0.85)
    assert last.why.endswith("the weakest tasks are b (50.0 %) and c (60.0 %)")
    assert not step.holds and "pays for something else" in step.why


def test_a_lost_task_is_told_with_the_answer_that_took_its_place():
    tasks, truth = ("rules", "cause", "turn", "stop"), ("Yes", "No", "No")
    rows = [{"task": t, "answer": r if t == "cause" else "Yes", "reference": r} for t in tasks[:3] for r in truth]
    rows += [{"task": "stop", "answer": "Yes", "reference": "Yes"}] * 3
    found = {"rl_vs_sft": {task: {"verdict": "kept"} for task in tasks} | {"rules": {"verdict": "lost"}}}
    assert findings.habit_words(found, {"sft": [], "rl": rows}) == (
        "It answers rules with Yes 3 times of 3; that is right 1 times. "
        "It answers turn with Yes 3 times of 3; that is right 1 times."
    )
    assert findings.habit_words({}, {"rl": rows}) == "" == findings.habit_words({"x": {}}, {"rl": rows})


def test_a_p_is_never_rounded_to_the_other_side_of_what_counts():
    shown = [findings.p_value(p) for p in (0.0004, 0.0396, 0.0497, 0.05, 0.0504)]
    assert shown == ["p < 0.001", "p = 0.040", "p = 0.0497", "p = 0.050", "p = 0.050"]


def test_the_evidence_is_one_sentence_of_computed_numbers():
    levels = {"chance": 0.25, "majority": 0.312}
    assert findings.evidence(made_up((0.3, 1e-9), (-0.021, 0.31)) | levels) == (
        "Base answers 40.0 % of 400 held-out questions right (95 % interval 35.0–45.0), "
        "where a guess earns 25.0 % and always the most frequent answer earns 31.2 %; "
        "SFT 70.0 % (65.0–75.0), that is +30.0 points against base (p < 0.001; so much takes 30 questions to find); "
        "RL 67.9 % (62.9–72.9), that is −2.1 points against SFT "
        "(p = 0.310, which luck alone can explain; so much takes 60 questions to find)."
    )
    assert "guess" not in findings.evidence(made_up((0.3, 1e-9)))


def asked(task: str, right: int, n: int) -> list[dict]:
    return [{"id": f"{task}-{i}", "task": task, "group": str(i), "correct": i < right} for i in range(n)]


LEVELS = {"tasks": {task: {"chance": 0.5, "majority": 0.4} for task in ("sees", "reads", "luck")}}


def test_a_control_is_held_against_guessing_task_by_task():
    own = [*asked("sees", 36, 40), *asked("reads", 36, 40), *asked("luck", 22, 40)]
    blind = [*asked("sees", 20, 40), *asked("reads", 34, 40), *asked("luck", 22, 40)]
    found = findings.against_controls(own, {"blind": blind}, LEVELS)["blind"]
    assert {task: part["verdict"] for task, part in found.items() if task != "all"} == {
        "sees": "guessing",
        "reads": "above guessing",
        "luck": "never above",
    }
    assert found["sees"]["own"] == 0.9 and found["sees"]["accuracy"] == 0.5 and found["sees"]["level"] == 0.5
    assert findings.control_words("blind", found) == (
        "blind: 78.3 % falls to 63.3 % on 120 questions. Not to guessing: reads (85.0 % where guessing earns 50.0 %). "
        "There the words alone give the answer away. Says nothing for luck: not surely above guessing with the own "
        "clip either."
    )


def test_a_control_that_does_not_fall_is_not_said_to():
    own = asked("sees", 30, 40)
    found = findings.against_controls(own, {"still": asked("sees", 32, 40)}, LEVELS)["still"]
    assert findings.control_words("still", found).startswith("still: 75.0 % does not fall (80.0 %)")
    found = findings.against_controls(own, {"still": asked("sees", 20, 40)}, LEVELS)["still"]
    assert findings.control_words("still", found).endswith("No task stays above guessing.")


def test_a_task_that_asks_for_the_order_is_said_to_fall_without_it_or_not_to():
    own = [*asked("sees", 36, 40), *asked("reads", 36, 40), *asked("luck", 22, 40)]
    mixed = [*asked("sees", 20, 40), *asked("reads", 34, 40), *asked("luck", 22, 40)]
    found = findings.against_controls(own, {"shuffled frames": mixed}, LEVELS)["shuffled frames"]
    said = findings.control_words("shuffled frames", found, ["sees", "reads", "luck", "never asked"])
    assert (
        "sees asks for the order of the frames: 90.0 % falls to 50.0 % without it, to guessing, as it should." in said
    )
    assert "reads asks for the order of the frames: 90.0 % falls to 85.0 % without it, not to guessing" in said
    assert "luck asks for the order of the frames: 55.0 % falls to 55.0 % without it, which says nothing" in said
    assert "never asked" not in said
    for control, order in (("shuffled frames", []), ("blind", ["sees"])):
        assert "asks for the order" not in findings.control_words(control, found, order)


def test_a_control_that_leaves_the_model_without_words_is_told_apart():
    own, mute = asked("sees", 36, 40), [row | {"answer": None} for row in asked("sees", 0, 40)]
    found = findings.against_controls(own, {"blind": mute}, LEVELS)["blind"]
    assert found["sees"]["unread"] == 1.0
    assert "Unread, so wrong: sees (100.0 %); there it lost its form" in findings.control_words("blind", found)


def test_a_control_of_other_questions_is_refused():
    with pytest.raises(ValueError, match="blind: 'reads-0' was never asked with its own clip"):
        findings.against_controls(asked("sees", 3, 4), {"blind": asked("reads", 3, 4)}, LEVELS)


def test_a_lost_task_is_said_to_be_lost():
    predictions = {"base": asked("sees", 0, 60), "sft": asked("sees", 50, 60), "rl": asked("sees", 30, 60)}
    found = findings.skills(predictions)
    assert {pair: part["sees"]["verdict"] for pair, part in found.items()} == {
        "rl_vs_sft": "lost",
        "rl_vs_base": "kept",
    }
    said = findings.worse_words(found)
    assert said == "RL against SFT: lost sees (−33.3). RL against base: no task is surely lost."
    assert findings.skills({"base": asked("sees", 1, 2)}) == {} and findings.worse_words({}) == ""


def test_where_all_answers_are_sentences_shared_words_decide():
    none = made_up((0.0, 1.0)) | {"chance": 0.5}
    texts = {
        "n": 400,
        "models": {"base": {"rougeL": 0.1, "ci95": [0.08, 0.12]}, "sft": {"rougeL": 0.4, "ci95": [0.35, 0.45]}},
        "clustered": {"sft_vs_base": {"difference": 0.3, "p": 1e-9, "ci95": [0.2, 0.4]}},
    }
    assert findings.short_answer(none | {"texts": texts}) == "Yes, better"
    assert findings.short_answer(none | {"texts": texts | {"n": 399}}).startswith("Cannot be said")
    lazy = none | {"texts": texts | {"majority": 0.36}}  # one answer for all
    assert findings.short_answer(lazy) == "Cannot be said: no model is surely above guessing"
    assert findings.evidence(lazy).endswith("; one answer for all earns 36.0 %.")
    assert findings.goals(lazy, 0.2, 0.85) == []
    said = findings.evidence(none | {"texts": texts})
    assert (
        "in 400 answers in sentences (ROUGE-L): base 10.0 % (8.0–12.0); SFT 40.0 % (35.0–45.0), that is +30.0" in said
    )
