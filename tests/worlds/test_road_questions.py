"""Questions of the road world: every one has exactly one right answer, and no answer pays without looking."""

from collections import Counter

import pytest

from data_tools.worlds import road
from data_tools.worlds.road_questions import LETTERS, SHARES, questions

CLIPS = 400


@pytest.fixture(scope="module")
def labels() -> list[dict]:
    return [clip.label for clip, _ in road.plan_split("train", CLIPS, seed=0)]


@pytest.fixture(scope="module")
def asked(labels) -> list:
    """(label, question) for every question of 400 clips."""
    return [(label, question) for label in labels for question in questions(label)]


def choices(question) -> dict[str, str]:
    """The options of an MCQ as they stand in its text, by letter."""
    return dict(line.split(") ", 1) for line in question.text.splitlines()[1:])


def test_the_reference_is_always_among_the_options(asked):
    assert all(question.answer in question.options for _, question in asked)


def test_ids_are_unique_and_name_their_clip(asked):
    assert len({question.id for _, question in asked}) == len(asked)
    assert all(question.clip == label["video_id"] for label, question in asked)


def test_an_mcq_has_four_distinct_options_and_its_letter_is_the_labels(asked):
    right = {"cause": (road.CAUSES, "primary_cause"), "maneuver": (road.MANEUVERS, "driver_maneuver")}
    mcqs = [(label, question) for label, question in asked if len(question.options) == 4]
    assert "cause" in {question.task for _, question in mcqs}
    for label, question in mcqs:
        words, field = right[question.task]
        found = choices(question)
        assert "".join(found) == "".join(question.options) == LETTERS
        assert len(set(found.values())) == 4 and set(found.values()) <= set(words.values())
        assert found[question.answer] == words[label[field]]


def test_a_binary_question_says_so_and_answers_its_label(asked):
    for label, question in asked:
        if len(question.options) == 2:
            assert question.options == ("Yes", "No") and question.text.endswith(" [Yes/No]")
            truth = {
                "collision": label["collision"] == "yes",
                "rules": label["follows_rules"] == "yes",
                "maneuver": road.MANEUVERS[label["driver_maneuver"]] in question.text,
                "signal": f"signal is {label['signal']}" in question.text,
                "change": f"signal turns {label['signal']}" in question.text,
            }
            assert question.answer == ("Yes" if truth[question.task] else "No"), question


def test_only_what_a_clip_can_answer_is_asked(labels):
    for label in labels:
        tasks = {question.task for question in questions(label)}
        assert "collision" in tasks
        assert ("cause" in tasks) == (label["collision"] == "yes")
        assert "maneuver" in tasks or label["driver_maneuver"] == "straight"  # most of those are not asked
        assert ("change" in tasks) == ("signal" not in tasks) == (label["signal_changes"] == "yes")
        assert ("rules" in tasks) == (label["follows_rules"] is not None)


def test_no_letter_and_no_word_is_worth_guessing(asked):
    letters = Counter(question.answer for _, question in asked if len(question.options) == 4)
    # four standard deviations of an even letter, for about 200 questions
    assert all(0.13 < letters[letter] / letters.total() < 0.37 for letter in LETTERS), letters
    collisions = Counter(question.answer for _, question in asked if question.task == "collision")
    assert collisions == {"Yes": CLIPS // 2, "No": CLIPS // 2}
    causes = Counter(choices(q)[q.answer] for _, q in asked if q.task == "cause")
    assert max(causes.values()) < 0.3 * causes.total(), causes
    for task in {question.task for _, question in asked} - {"cause", "collision"}:
        answers = Counter(choices(q).get(q.answer, q.answer) for _, q in asked if q.task == task)
        assert max(answers.values()) < 0.7 * answers.total(), (task, answers)


def test_no_statement_is_more_often_true_than_false():
    """A model that only reads learns which words are mostly true: of 4,000 clips, each within four deviations."""
    asked = [q for clip, _ in road.plan_split("train", 4000, seed=0) for q in questions(clip.label)]
    answers = {}
    for question in (q for q in asked if q.task in ("maneuver", "signal", "change")):
        words = question.text.split(" vehicle ")[-1]  # without its colour
        answers.setdefault(words, []).append(question.answer == "Yes")
    assert len(answers) == len(road.MANEUVERS) + 4
    for words, true in answers.items():
        assert abs(sum(true) / len(true) - 0.5) < 4 * 0.5 / len(true) ** 0.5, (words, sum(true), len(true))


def test_the_shares_of_the_maneuvers_are_the_worlds():
    found = Counter(clip.label["driver_maneuver"] for clip, _ in road.plan_split("train", 4000, seed=0))
    for name, share in SHARES.items():
        expected = 100 * share
        assert abs(found[name] - expected) < 4 * expected**0.5, (name, found[name], expected)


def test_the_seed_decides_the_order_of_the_options_and_nothing_else(labels):
    assert [questions(label, 1) for label in labels] == [questions(label, 1) for label in labels]
    before, after = ([q for label in labels for q in questions(label, seed) if q.task == "cause"] for seed in (0, 1))
    assert [q.id for q in before] == [q.id for q in after]
    assert [choices(q)[q.answer] for q in before] == [choices(q)[q.answer] for q in after]
    changed = sum(b.answer != a.answer for b, a in zip(before, after))
    assert changed > 0.6 * len(before)


def test_the_written_answer_passes_the_contracts_own_parser(asked, contract):
    for _, question in asked:
        target = contract.write_answer(question.reasoning, question.answer)
        assert contract.is_well_formed(target) and contract.read_answer(target, question.options) == question.answer


def test_the_reasoning_states_the_fact_that_decides(asked):
    for label, question in asked:
        maneuver = road.MANEUVERS[label["driver_maneuver"]]
        stated = {
            "collision": "hits" if label["collision"] == "yes" else "stays clear of",
            "cause": road.CAUSES.get(label["primary_cause"]),
            "rules": f"It {'follows' if label['follows_rules'] == 'yes' else 'breaks'} the rules.",
            "signal": f"The signal is {label['signal']}.",
            "change": f"The signal turns {label['signal']}.",
            "maneuver": f"It {maneuver}.",
        }
        assert stated[question.task] in question.reasoning, question
