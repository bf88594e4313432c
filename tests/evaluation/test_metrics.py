"""Metrics of every kind, against values worked out by hand."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

from cookbook.evaluation.metrics import KINDS, choices, measure, right, structures, texts
from cookbook.runs import ROOT


def made(kind: str, pairs: list[tuple[str, str | None]], options=()) -> list[dict]:
    """Rows of (reference, answer)."""
    return [
        {"id": f"{kind}{i}", "group": f"g{i}", "kind": kind, "reference": w, "answer": a, "options": list(options),
         "output": a or "", "correct": right(kind, a, w)}
        for i, (w, a) in enumerate(pairs)
    ]  # fmt: skip


# Choices


def test_multiple_choice_by_hand():
    rows = made("mcq", [("A", "A"), ("A", "B"), ("B", "B"), ("C", None)], "ABC")
    found = choices.mcq(rows)
    assert (found["accuracy"], found["unread"]) == (0.5, 0.25)
    assert found["options"]["A"] == {"n": 2, "told": 1, "recall": 0.5, "precision": 1.0}
    assert found["options"]["B"] == {"n": 1, "told": 2, "recall": 1.0, "precision": 0.5}
    assert found["options"]["C"] == {"n": 1, "told": 0, "recall": 0.0, "precision": None}
    assert found["confusion"]["A"] == {"A": 1, "B": 1, "C": 0, "(none)": 0}
    assert found["confusion"]["C"]["(none)"] == 1
    assert sum(sum(line.values()) for line in found["confusion"].values()) == len(rows)


def test_binary_by_hand():
    # Yes is positive: tp 3, fn 1, fp 2, tn 4
    pairs = [("Yes", "Yes")] * 3 + [("Yes", "No")] + [("No", "Yes")] * 2 + [("No", "No")] * 4
    found = choices.binary(made("binary", pairs, ("Yes", "No")))
    assert found["positive"] == "Yes"
    assert found["accuracy"] == 0.7
    assert found["precision"] == pytest.approx(3 / 5)
    assert found["recall"] == pytest.approx(3 / 4)
    assert found["f1"] == pytest.approx(6 / 9)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found["mcc"] == pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))


def test_always_no_looks_good_in_accuracy_only():
    found = choices.binary(made("binary", [("No", "No")] * 9 + [("Yes", "No")], ("Yes", "No")))
    assert (found["accuracy"], found["balanced_accuracy"], found["mcc"]) == (0.9, 0.5, 0.0)
    assert found["precision"] is None and found["recall"] == 0.0


def test_what_cannot_be_read_is_wrong_in_both_classes():
    found = choices.binary(made("binary", [("Yes", None), ("No", None)], ("Yes", "No")))
    assert (found["accuracy"], found["unread"], found["recall"], found["mcc"]) == (0.0, 1.0, 0.0, -1.0)


def test_grades_by_hand():
    found = choices.ordinal(made("ordinal", [("1", "2"), ("2", "2"), ("4", "5"), ("5", "3"), ("3", None)], "12345"))
    assert (found["accuracy"], found["within_1"], found["unread"]) == (1 / 5, 3 / 5, pytest.approx(1 / 5))
    assert found["mean_error"] == 0.0 and found["mean_absolute_error"] == 1.0
    # references 1 2 4 5, answers 2 2 5 3: means 3 and 3; Σxy 4·… = (−2)(−1)+(−1)(−1)+(1)(2)+(2)(0) = 5
    assert found["pearson"] == pytest.approx(5 / math.sqrt(10 * 6))
    # ranks 1 2 3 4 against 1.5 1.5 4 3: covariance (−1.5)(−1)+(−.5)(−1)+(.5)(1.5)+(1.5)(.5) = 3.5
    assert found["spearman"] == pytest.approx(3.5 / math.sqrt(5 * 4.5))


def test_a_model_that_always_says_four_has_no_correlation():
    found = choices.ordinal(made("ordinal", [("1", "4"), ("4", "4"), ("5", "4")], "12345"))
    assert found["pearson"] is found["spearman"] is None and found["accuracy"] == 1 / 3


# Structures


def test_spans_by_hand():
    rows = made("span", [("2 - 6", "2 - 6"), ("2 - 6", "4 - 8"), ("0 - 10", "never")])
    found = structures.spans(rows)
    assert found["mean_iou"] == pytest.approx((1 + 2 / 6 + 0) / 3)  # 4..6 shared of 2..8
    assert found["iou_50"] == 1 / 3 and found["unread"] == 1 / 3
    assert found["mean_absolute_error"] == (0 + 2) / 2
    assert found["mean_relative_error"] == (0 + 2 / 4) / 2
    with pytest.raises(ValueError, match="span0: its reference is no span"):
        structures.spans(made("span", [("soon", "1 - 2")]))


def test_captions_field_by_field():
    true = {"weather": "Clear", "rule_violation": False, "lanes": ["left", "right"]}
    told = "Here:\n```json\n" + json.dumps({"weather": " clear ", "rule_violation": "true", "lanes": ["right", "left"]})
    python = str({"weather": "rain", "rule_violation": False})  # the guide's str(dict)
    rows = made("json", [(json.dumps(true), told + "\n```"), (json.dumps(true), python), (json.dumps(true), "no idea")])
    found = structures.captions(rows)
    assert found["fields"]["weather"] == {"n": 3, "accuracy": 1 / 3, "missing": 1 / 3, "majority": 1.0}
    assert found["fields"]["rule_violation"]["accuracy"] == 1 / 3
    assert found["fields"]["lanes"] == {"n": 3, "accuracy": 1 / 3, "missing": 2 / 3, "majority": 1.0}
    assert (found["unread"], found["exact"], found["field_accuracy"]) == (1 / 3, 0.0, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    "words", ["", "{", "}{", "{'a': }", "[1, 2]", "{1: 2", "{" * 5000, "{'__import__': __import__}"]
)
def test_what_is_no_json_has_no_fields(words):
    assert structures.fields(words) == {}


def test_counts_by_hand():
    rows = made("counts", [('{"car": 3, "person": 1}', '{"car": 2, "bus": 1}'), ('["car"]', "1 car"), ("2", "2.")])
    found = structures.counts(rows)
    # car: 2 + 1 found, 1 missed; person 1 missed; bus 1 invented; the bare number 2 found
    assert found["things"]["car"] == {"found": 3, "missed": 1, "invented": 0}
    assert found["precision"] == 5 / 6 and found["recall"] == 5 / 7
    assert found["f1"] == pytest.approx(10 / 13)
    assert found["exact"] == 2 / 3 and found["mean_absolute_error"] == 3 / 3
    assert structures.tally("2 cars and 3 buses, 1 person")["car"] == 2


# Texts


def test_texts_by_hand():
    rows = made("text", [("The car stops.", "the car stops"), ("a b c d", "a b c d"), ("It rains", None)])
    found = texts.free_text(rows)
    assert (found["exact"], found["relaxed"]) == (1 / 3, 2 / 3)
    assert found["unread"] == 1 / 3
    assert "version" in found["bleu_signature"]


def test_bleu_and_rouge_of_known_sentences():
    def measured(told, wanted):
        return texts.free_text(made("text", [(wanted, told)]))

    same = "the cat sat on the mat today"
    assert measured(same, same)["bleu"] == pytest.approx(100)
    # 1-grams 6/7, 2-grams 5/6, 3-grams 4/5, 4-grams 3/4, equal lengths: (6/7 · 5/6 · 4/5 · 3/4)^¼ = (3/7)^¼
    assert measured("the cat sat on the mat yesterday", same)["bleu"] == pytest.approx(100 * (3 / 7) ** 0.25)
    # 4 words against 6, 4 shared in order: precision 1, recall 4/6; pairs: 2 of 3 and of 5
    found = measured("the cat the mat", "the cat sat on the mat")
    assert found["rouge1"] == pytest.approx(0.8) and found["rougeL"] == pytest.approx(0.8)
    assert measured("two cars stopping", "two car stops")["rouge1"] == pytest.approx(1)  # stems
    assert found["rouge2"] == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))


def test_rouge_of_english_is_that_of_the_rouge_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(list(texts.ROUGE), use_stemmer=True)
    words = ["The", "cats'", "running_fast", "cars,", "don't", "stopped", "12.5", "e-mail,", "x2", "lights", "A", "b"]
    rng = random.Random(0)
    for _ in range(300):
        told, wanted = (" ".join(rng.choices(words, k=k)) for k in (9, 7))
        theirs = {name: score.fmeasure for name, score in scorer.score(wanted, told).items()}
        assert texts.rouge(told, wanted) == pytest.approx(theirs)


@pytest.mark.parametrize(("wanted", "told", "share"), [
    ("красная машина стоит", "красная машина едет", 2 / 3),
    ("红车停在路口", "红车停下", 2 * 3 / 10),
    ("rötliche Ampel", "rotliche Ampel", 1 / 2),
    ("سيارة حمراء", "سيارة حمراء", 1),
    ("two_cars stop", "two cars stops", 1),
])  # fmt: skip
def test_words_of_any_script_are_shared(wanted, told, share):
    found = texts.rouge(told, wanted)
    assert found["rougeL"] == pytest.approx(share) == found["rouge1"]


@pytest.mark.parametrize(("told", "wanted"), [("5", "-5"), ("1 5", "1.5"), ("→", "←"), ("+", "-"), ("🙂", "🙁")])
def test_what_makes_another_answer_is_no_punctuation(told, wanted):
    assert not right("text", told, wanted) and right("text", f" {wanted} ", wanted)


def test_the_shipped_embeddings_know_near_from_far_and_do_not_see_a_not():
    near, far, empty, denied = texts.similarity(
        ["A bike rider makes a left turn", "A bank pays interest", "", "The car does not stop at the red light"],
        ["The cyclist turns left"] * 3 + ["The car stops at the red light"],
    )
    assert near > 0.5 > 0.2 > far and empty == 0
    assert denied > 0.8  # the limit that the module names


def test_the_embeddings_leave_everybodys_log_alone():
    """wordllama's import turns on the root logger, and with it the lines of every library."""
    code = "import logging; from cookbook.evaluation.metrics import texts; texts.similarity(['a car'], ['a bus'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; root = logging.getLogger(); assert not root.handlers and root.level == 30"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""


def test_the_similarity_is_the_cosine_and_equal_texts_have_one(monkeypatch):
    seen = []

    def embed(words):
        seen.extend(words)
        return np.array([[1.0, 0.0] if "x" in w else [1.0, 1.0] for w in words])

    monkeypatch.setattr(texts, "_wordllama", lambda: embed)
    assert texts.similarity(["x", "y"], ["y", "y"]) == [pytest.approx(1 / math.sqrt(2)), 1.0]
    assert seen == ["x", "y", "y", "y"]


# All together


def mixed() -> list[dict]:
    rows = made("mcq", [("A", "B"), ("B", "B")], "AB") + made("binary", [("Yes", "No"), ("No", "No")], ("Yes", "No"))
    rows += made("ordinal", [("1", "3"), ("2", "4"), ("5", "5")], "12345") + made("span", [("1 - 2", "1 - 3")])
    rows += made("json", [('{"a": 1}', '{"a": 1}')]) + made("counts", [("3", "4")])
    rows += made("number", [("3.4 m", "3.5"), ("about 2", "2.0")])
    box = json.dumps([{"bbox_3d": [0, 1, 9, 2, 2, 4, 0, 0, 0], "label": "car"}])
    camera = {"fx": 80.0, "fy": 80.0, "cx": 56.0, "cy": 56.0}
    true = json.dumps({"camera_params": camera, "annotations": json.loads(box.replace("9", "10"))})
    rows += made("boxes", [(true, box), (true, None)])
    return rows + made("text", [("one car", "a car"), ("two cars", "two cars"), ("three", None)])


def rounded(value):
    """Figures without what the order of a sum does to the last digit."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return round(value, 12) if isinstance(value, float) else value


def test_order_never_changes_a_metric():
    rows = mixed()
    assert {row["kind"] for row in rows} == set(KINDS)
    want = measure(rows)
    for seed in range(5):
        found = measure(random.Random(seed).sample(rows, len(rows)))
        assert rounded(found) == rounded(want)


def test_a_metric_of_your_own_is_a_function():
    def brief(rows):
        return {"share": sum(len(r["output"].split()) < 2 for r in rows) / len(rows)}

    rows = made("text", [("one car", "a car"), ("a", "a")])
    assert measure(rows, {"brief": brief})["brief"] == {"share": 0.5}
    with pytest.raises(ValueError, match="mcq: that is a kind"):
        measure(rows, {"mcq": brief})
    with pytest.raises(ValueError, match="no metric for the kind 'x'"):
        measure([rows[0] | {"kind": "x"}])


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "want"),
    [
        ("mcq", "A", "A", True),
        ("mcq", None, "A", False),
        ("text", "**The** car", "car.", True),
        ("text", "cars", "car", False),
        ("span", "2-6", "3-6", True),
        ("span", "2-3", "3-6", False),
        ("json", '{"a": "X", "b": 2}', '{"a": "x"}', True),
        ("json", "{}", '{"a": "x"}', False),
        ("counts", "2 cars", '{"car": 2}', True),
        ("counts", "3 cars", '{"car": 2}', False),
    ],
)
def test_one_answer_is_right_or_not(kind, answer, reference, want):
    assert right(kind, answer, reference) is want


# Where errors come from


def test_errors_go_with_the_weather_and_not_with_the_length():
    rows = [{"correct": i % 2 == 0, "weather": "sun" if i % 2 == 0 else "fog", "n": i // 2} for i in range(40)]
    of = {"n": lambda r: r["n"], "weather": lambda r: r["weather"], "always": lambda r: "same"}
    weather, n, always = choices.error_correlation(rows, of).rows
    assert weather == ["weather", "1.00", "3e-10", "fog 1.00 of 20, sun 0.00 of 20"]  # χ² = 40 of one degree of freedom
    assert n == ["n", "0.00", "1", "9.5 on average where wrong, 9.5 where right"]
    assert always == ["always", "–", "–", "same 0.50 of 40"]
    same = [row | {"correct": True} for row in rows]
    assert [line[1] for line in choices.error_correlation(same, of).rows] == ["–"] * 3


def test_strength_is_phi_of_two_by_two_and_the_correlation_of_a_number():
    cells = {("sun", True): 30, ("sun", False): 10, ("fog", True): 10, ("fog", False): 30}
    rows = [{"correct": right, "w": w} for (w, right), n in cells.items() for _ in range(n)]
    of = {"words": lambda r: r["w"], "number": lambda r: int(r["w"] == "fog")}
    found = choices.error_correlation(rows, of).rows
    assert [line[:2] for line in found] == [["number", "0.50"], ["words", "0.50"]]  # (30 · 30 − 10 · 10) / 1600
    assert found[0][3] == "0.75 on average where wrong, 0.25 where right"
