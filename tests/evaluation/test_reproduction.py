"""Reproduction cards: intervals beside published values, what only a plot shows, and constant answers."""

import math

import pytest

from cookbook.evaluation.predictions import save
from cookbook.evaluation.reproduction import Published, compare, pearson, read_predictions, table


def row(number, reference, answer, **more):
    said = "" if answer is None else f"<think></think>\n\n<answer>{answer}</answer>"
    return {"id": str(number), "group": str(number), "kind": "ordinal", "reference": reference, "output": said,
            "answer": answer, "correct": reference == answer, "options": list("12345")} | more  # fmt: skip


ROWS = [row(i, str(i % 5 + 1), str((i + i % 3 // 2) % 5 + 1)) for i in range(300)]


def test_a_value_inside_the_interval_agrees_and_others_say_on_which_side():
    share = sum(r["correct"] for r in ROWS) / 300
    figures = [Published("accuracy", value, 3300) for value in (share, share - 0.2, share + 0.2, None)]
    assert [line["verdict"] for line in compare(figures, ROWS)] == ["agrees", "above", "below", "cannot be compared"]
    assert compare(figures, ROWS)[3]["published"] == "plot only"
    at_least = [Published("accuracy", value, 2600, at_least=True) for value in (share - 0.2, share + 0.2)]
    assert [line["verdict"] for line in compare(at_least, ROWS)] == ["agrees", "below"]
    with pytest.raises(ValueError, match="no predictions"):
        compare(figures, [])


def test_correlation_has_an_interval_and_a_constant_judge_has_none():
    value, low, high = pearson([*ROWS, row(999, "3", None)])
    assert low < value < high and (value, low, high) == pearson(ROWS)
    constant = [row(i, str(i % 5 + 1), "4") for i in range(20)]
    assert all(map(math.isnan, pearson(constant)))
    (line,) = compare([Published("pearson", 0.4, 10)], constant)
    assert line["verdict"] == "cannot be compared" and "same" in line["yours"]


def test_stored_predictions_are_read_and_a_table_is_aligned(tmp_path):
    rows = read_predictions(save(ROWS, tmp_path / "predictions.jsonl"))
    assert [r["answer"] for r in rows] == [r["answer"] for r in ROWS]
    lines = table(compare([Published("accuracy", 0.5, 10, "a note"), Published("pearson", None, 10)], rows)).split("\n")
    assert len(lines) == 3 and lines[0].index("verdict") == lines[1].index("a", lines[1].rindex("  "))
    (tmp_path / "bad.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match="no file of predictions"):
        read_predictions(tmp_path / "bad.jsonl")
