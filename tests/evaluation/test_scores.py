"""Scores count what the rows say, and models are compared on the same items or not at all."""

import random
from dataclasses import asdict

import pytest

from cookbook.data.contract import ContractError
from cookbook.evaluation.scores import compare, kept_skills, score, subgroups, won_and_lost
from cookbook.evaluation.statistics import interval, paired


def row(i: int, correct: bool, task: str = "collision", well_formed: bool = True, **other) -> dict:
    """One prediction; the reference alternates."""
    options = ["Yes", "No"] if task == "collision" else ["A", "B", "C", "D"]
    item = {"id": f"clip_{i}/{task}", "group": f"clip_{i}", "task": task, "question": f"{task}?"}
    item |= {"options": options, "reference": options[i % 2]}
    return {**item, "correct": correct, "well_formed": well_formed, **other}


def rows(pattern: str, task: str = "collision") -> list[dict]:
    """Predictions from a picture of them: + right, - wrong, x wrong because it is not in the format."""
    return [row(i, mark == "+", task, well_formed=mark != "x") for i, mark in enumerate(pattern)]


TRAIN = [{"task": "collision", "reference": "No"}, {"task": "cause", "reference": "A"}]


def test_score_of_a_small_case():
    found = score(rows("++-x") + rows("+-", "cause"))
    assert found["n"] == 6
    assert found["accuracy"] == 3 / 6
    assert found["format_rate"] == 5 / 6
    assert found["ci95"] == list(interval([True] * 3 + [False] * 3))
    assert found["tasks"] == {
        "cause": {"n": 2, "accuracy": 1 / 2, "ci95": list(interval([True, False]))},
        "collision": {"n": 4, "accuracy": 2 / 4, "ci95": list(interval([True, True, False, False]))},
    }


def test_order_never_changes_a_score():
    items = rows("++-x+-+") + rows("+--+", "cause")
    shuffled = random.Random(0).sample(items, len(items))
    assert shuffled != items
    assert score(shuffled) == score(items)


def test_the_accuracy_is_the_mean_of_the_tasks_weighted_by_their_items():
    found = score(rows("++-x+-+") + rows("+--+", "cause"))
    parts = found["tasks"].values()
    assert sum(part["n"] for part in parts) == found["n"]
    right = sum(part["n"] * part["accuracy"] for part in parts)
    assert right == pytest.approx(found["n"] * found["accuracy"])


def test_compare_pairs_neighbours_in_the_order_given():
    patterns = {"base": "--+-", "sft": "+-+-", "rl": "+++-"}
    found = compare({name: rows(pattern) for name, pattern in patterns.items()}, TRAIN)
    assert list(found["models"]) == ["base", "sft", "rl"]
    assert found["models"]["sft"] == score(rows("+-+-"))
    assert list(found["paired"]) == ["sft_vs_base", "rl_vs_sft"]
    right = {name: [mark == "+" for mark in pattern] for name, pattern in patterns.items()}
    assert found["paired"]["rl_vs_sft"] == asdict(paired(right["sft"], right["rl"]))
    assert (found["paired"]["rl_vs_sft"]["won"], found["paired"]["rl_vs_sft"]["lost"]) == (1, 0)


def test_compare_gives_the_levels_without_a_model_for_all_and_by_task():
    found = compare({"base": rows("----") + rows("---", "cause")}, TRAIN)
    assert (found["n"], found["paired"]) == (7, {})
    assert found["chance"] == pytest.approx((4 / 2 + 3 / 4) / 7)
    # references alternate: "No" is right on 2 of 4 collisions, "A" on 2 of 3 causes
    assert found["majority"] == pytest.approx(4 / 7)
    assert found["tasks"] == {
        "cause": {"n": 3, "chance": 1 / 4, "majority": pytest.approx(2 / 3)},
        "collision": {"n": 4, "chance": 1 / 2, "majority": 1 / 2},
    }


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (rows("++")[::-1], "base and rl did not answer the same items: in row 1 the id is 'clip_0"),
        (rows("+"), "only base has row 2, 'clip_1/collision'"),
        (rows("+++"), "only rl has row 3, 'clip_2/collision'"),
        ([row(0, True), row(1, True, question="changed?")], "in row 2 the question is 'collision.' for base"),
        ([row(0, True, reference="No"), row(1, True)], "the reference is 'Yes' for base and 'No' for rl"),
    ],
)
def test_models_that_answered_different_items_are_refused(other, says):
    with pytest.raises(ValueError, match=says):
        compare({"base": rows("++"), "sft": rows("+-"), "rl": other}, TRAIN)


def test_nothing_to_score_is_refused():
    with pytest.raises(ValueError, match="no predictions"):
        score([])
    with pytest.raises(ValueError, match="no models"):
        compare({}, TRAIN)
    with pytest.raises(ValueError, match="at least one row"):
        compare({"base": []}, TRAIN)


# What else stands beside a score


def test_clips_unread_answers_and_errors_are_counted():
    items = rows("++-x", task="cause")
    items = [r | {"group": f"clip_{i // 2}", "answer": None if i == 3 else "A"} for i, r in enumerate(items)]
    items[3] |= {"error": "clip_1: cannot be read", "lenient_correct": True}
    found = score(items)
    assert (found["clusters"], found["unread_rate"], found["errors"]) == (2, 0.25, 1)
    assert (found["accuracy"], found["lenient_accuracy"]) == (0.5, 0.75)
    many = [
        r | {"group": f"clip_{i // 4}"} for i, r in enumerate(rows("++++----" * 10))
    ]  # clips all right or all wrong
    found = score(many)
    assert found["clusters"] == 20
    low, high = found["ci95"]
    assert found["ci95_clustered"][1] - found["ci95_clustered"][0] > 1.7 * (high - low)


def test_compare_pairs_clip_by_clip_too():
    found = compare({"base": rows("--+-" * 5), "sft": rows("+-+-" * 5)}, TRAIN)["clustered"]["sft_vs_base"]
    assert found["difference"] == 0.25 and found["clusters"] == 20
    assert found["ci95"][0] > 0 and found["p"] == pytest.approx(2 / 32, abs=0.02)  # five clips won, none lost


def under(contract: str, pattern: str, **fields) -> list[dict]:
    return [r | {"contract": contract, **fields} for r in rows(pattern)]


def test_another_contract_is_refused_by_name_unless_it_is_meant():
    predictions = {"base": under("aaa", "-+"), "base, better prompt": under("bbb", "++"), "sft": under("aaa", "++")}
    with pytest.raises(ContractError, match="base was asked under contract aaa, base, better prompt under bbb"):
        compare(predictions, TRAIN)
    found = compare(predictions, TRAIN, free={"base, better prompt"})
    assert found["contracts"] == {"base": "aaa", "base, better prompt": "bbb", "sft": "aaa"}
    with pytest.raises(ContractError, match="under several contracts"):
        compare({"base": [*under("aaa", "+"), row(1, True, contract="bbb")]}, TRAIN)


def test_a_base_that_passes_as_sft_is_refused_by_its_weights():
    predictions = {"base": under("aaa", "-+", weights="w1"), "sft": under("aaa", "-+", weights="w1")}
    with pytest.raises(ValueError, match="base and sft are one model: their weights are equal \\(w1\\)"):
        compare(predictions, TRAIN)
    apart = {"base": under("aaa", "-+", weights="w1"), "sft": under("aaa", "-+", weights="w2")}
    assert compare(apart, TRAIN)["paired"]["sft_vs_base"]["p"] == 1


def test_a_base_that_passes_as_sft_is_refused_by_its_words():
    def said(pattern, words="It moves."):
        return [r | {"output": f"{words} {i}"} for i, r in enumerate(rows(pattern))]

    same = "+-" * 6
    with pytest.raises(ValueError, match="all 12 answers are equal, word for word"):
        compare({"base": said(same), "sft": said(same)}, TRAIN)
    compare({"base": said(same), "sft": [*said(same)[:-1], said(same, "It stops.")[-1]]}, TRAIN)
    compare({"base": said("+-"), "sft": said("+-")}, TRAIN)  # two answers prove nothing
    known = [r | {"weights": "w1"} for r in said(same)]
    compare({"base": known, "sft": [r | {"weights": "w2"} for r in known]}, TRAIN)  # RL may well change no answer
    compare({"base": known, "base, shuffled": [r | {"decoding": "shuffled"} for r in known]}, TRAIN)


# Behind a score


def marked(pattern: str, task: str = "a", clip: int = 1) -> list[dict]:
    return [
        {"id": f"{task}{i}", "group": f"{task}-{i // clip}", "task": task, "correct": mark == "+"}
        for i, mark in enumerate(pattern)
    ]


def test_items_won_and_lost_are_named():
    before, after = marked("+-+-"), marked("++--")
    assert won_and_lost(before, after) == {"won": [(before[1], after[1])], "lost": [(before[2], after[2])]}


def test_subgroups_by_field_and_by_function():
    both = marked("++--") + marked("+", "b")
    assert {k: (v["n"], v["accuracy"]) for k, v in subgroups(both, "task").items()} == {"a": (4, 0.5), "b": (1, 1.0)}
    assert set(subgroups(both, lambda row: int(row["id"][1:]) % 2)) == {"0", "1"}


def test_a_lost_skill_is_named_a_kept_one_too_and_little_data_is_not_enough():
    before = marked("+" * 100, "old") + marked("-" * 100, "new") + marked("+-" * 5, "few") + marked("+-" * 200, "same")
    after = marked("+-+-" * 25, "old") + marked("+" * 100, "new") + marked("-+" * 5, "few") + marked("+-" * 200, "same")
    found = kept_skills(before, after)
    verdicts = {task: part["verdict"] for task, part in found.items()}
    assert verdicts == {"old": "lost", "new": "kept", "few": "too few", "same": "kept"}
    assert found["old"]["difference"] == -0.5 and found["old"]["ci95"][1] < -0.3
    assert kept_skills(marked("+++"), marked("+++"))["a"]["verdict"] == "too few"  # three items prove nothing
    with pytest.raises(ValueError, match="same items"):
        kept_skills(marked("++"), marked("+"))


def test_answers_in_sentences_are_compared_by_shared_words():
    wanted = [f"car {i} stops at the red light" for i in range(24)]
    told = {"base": "a dog", "sft": "it stops at the red light", "rl": "they stop at the red light"}

    def answered(words: str, i: int) -> dict:
        item = {"id": str(i), "group": f"clip {i // 2}", "task": "text", "question": "what?", "options": []}
        item |= {"kind": "text", "reference": wanted[i], "answer": words, "output": f"{words} {i}"}
        return item | {"correct": False, "well_formed": True}

    rows = {name: [answered(words, i) for i in range(24)] for name, words in told.items()}
    rows["rl"][0] |= {"answer": None}
    train = [{"task": "text", "reference": wanted[0]}]
    found = compare(rows, train)
    assert found["models"]["sft"]["accuracy"] == 0
    texts = found["texts"]
    assert texts["n"] == 24 and texts["models"]["base"]["rougeL"] == 0
    assert texts["models"]["sft"]["rougeL"] == pytest.approx(2 * 5 / (7 + 6))  # five words are shared
    assert texts["models"]["rl"]["rougeL"] == pytest.approx(10 / 13 * 23 / 24)
    assert texts["clustered"]["sft_vs_base"]["p"] < 0.01 < texts["clustered"]["rl_vs_sft"]["p"]
    assert texts["majority"] == pytest.approx((1 + 23 * 6 / 7) / 24)  # the training answer, of seven words, for all
    some = {name: [row | {"reference": "it stops"} for row in found[:13]] + found[13:] for name, found in rows.items()}
    assert "texts" not in compare(some, train)
    assert compare({name: found[2:] for name, found in some.items()}, train)["texts"]["n"] == 22
