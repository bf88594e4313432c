"""NVIDIA's rule beside ours, their folder of questions, and cards: intervals beside published values."""

import json
import math
import random

import pytest
from official_layouts import by_content, clip, json_file

from cookbook.data.samples import DataError
from cookbook.evaluation import published
from cookbook.evaluation.predictions import read, read_row
from cookbook.evaluation.published import Published, card, pearson
from cookbook.runs import ROOT, write_jsonl
from data_tools import formats
from data_tools.convert import convert, main

RAW = [json.loads(line) for line in (ROOT / "tests/assets/raw_answers.jsonl").read_text().splitlines()]


def judged(raw: dict) -> dict:
    return read_row(raw | {"group": raw["id"], "kind": "mcq"})


# The rules


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw["id"])
def test_the_published_rule_reads_as_the_table_says_and_differences_are_explained(raw):
    assert published.first_capital(raw["output"]) == raw["published"]
    row = judged(raw)
    assert (row["correct"] != published.published_right(row)) == bool(raw["why"])


@pytest.mark.parametrize(
    ("words", "letter"),
    [("The answer is B.", "T"), ("Answer: C", "A"), ("I think it is D", "I"), ("(b)", ""), ("B", "B"), ("Ä B", "B")],
)
def test_the_first_capital_is_not_the_answer(words, letter):
    """The figures of the issue: what the published script reads."""
    assert published.first_capital(f"<answer>{words}</answer>") == letter


def test_the_first_closed_block_counts_there():
    assert published.first_capital("<answer>A</answer> <answer>B</answer>") == "A"
    assert published.first_capital("<answer>A") == published.first_capital("A</answer><answer>") == ""


def test_the_score_does_not_depend_on_the_order_and_the_differences_are_those_explained():
    rows = [judged(raw) for raw in RAW]
    mixed = random.Random(0).sample(rows, len(rows))
    assert published.published_score(mixed) == published.published_score(rows)
    differ = [row for row in rows if row["correct"] != published.published_right(row)]
    assert [d["id"] for d in differ] == [raw["id"] for raw in RAW if raw["why"]]
    ours = sum(row["correct"] for row in rows)
    theirs = round(published.published_score(rows)["accuracy"] * len(rows))
    only_ours = sum(d["answer"] == d["reference"] for d in differ)
    assert ours - theirs == only_ours - (len(differ) - only_ours)


def test_the_engines_own_reward_compares_whole_strings():
    reward = pytest.importorskip("cosmos_rl.dispatcher.algo.reward").single_choice_reward_fn
    assert reward("<answer> b </answer>", "B") and not reward("<answer>(B)</answer>", "B")
    for raw in RAW:  # where it pays, so do we, unless two answers are stated: it takes the first
        pays = reward(raw["output"], raw["reference"]) and raw["output"].count("<answer>") == 1
        assert judged(raw)["correct"] or not pays


# The benchmark's folder


@pytest.fixture
def folder(tmp_path):
    """Two datasets as they lie unpacked: one pair or a list, both names of the answer, a clip that is missing."""
    choices = {"A": "lift", "B": "turn"}
    for name, videos in {"av": ["x1"], "robovqa": ["a1", "b2", "gone"]}.items():
        rows = []
        for i, video in enumerate(videos):
            pair = {"question": f"What is next in {video}?", "index2ans": choices}
            pair |= {"answer": "B"} if i % 2 == 0 else {"correct_answer": "A"}
            rows.append({"video": f"clips/{video}.mp4", "qa_pairs": [pair, pair] if video == "a1" else pair})
            if video != "gone":
                clip(tmp_path / name / "clips" / f"{video}.mp4", i)
        json_file(tmp_path / name / f"{name}_benchmark_qa_pairs.json", rows)
    return tmp_path


def test_the_benchmark_is_read_dataset_by_dataset(folder):
    missing = []
    samples = formats.read(folder, problems=missing)
    assert formats.detect(folder) == "hf_rl"
    assert [(s.task, s.group, s.answer) for s in samples] == [
        ("av", "av/clips/x1", "B"),
        ("robovqa", "robovqa/clips/a1", "B"),
        ("robovqa", "robovqa/clips/a1", "B"),
        ("robovqa", "robovqa/clips/b2", "A"),
    ]
    assert len({s.id for s in samples}) == 4 and samples[1].options == ("A", "B")
    assert samples[1].question == "What is next in a1?\n(A) lift\n(B) turn"
    assert samples[1].video == folder / "robovqa/clips/a1.mp4"
    assert len(missing) == 1 and "gone" in str(missing[0])
    with pytest.raises(DataError, match="gone"):
        formats.read(folder)


def test_the_benchmark_can_be_converted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    report = convert(folder, out / "all", "samples_jsonl")
    assert (report.source, report.read, len(report.problems)) == ("hf_rl", 4, 1)
    one, other = formats.read(folder, problems=[]), formats.read(out / "all")
    assert by_content(one) == by_content(other)
    assert main([str(folder), str(out / "av"), "--to", "hf_rl", "--hub-subset", "av"]) == 0
    assert [s.answer for s in formats.read(out / "av")] == ["B"]


def test_a_wrong_dataset_is_named(folder):
    with pytest.raises(DataError, match="name a subset; it has av, robovqa"):
        formats.read(folder, subset="agibot")


# Cards


def row(number, reference, answer, **more):
    said = "" if answer is None else f"<think></think>\n\n<answer>{answer}</answer>"
    return {"id": str(number), "group": str(number), "kind": "ordinal", "reference": reference, "output": said,
            "answer": answer, "correct": reference == answer, "options": list("12345")} | more  # fmt: skip


ROWS = [row(i, str(i % 5 + 1), str((i + i % 3 // 2) % 5 + 1)) for i in range(300)]


def column(name, table):
    return [line[table.head.index(name)] for line in table.rows]


def test_a_value_inside_the_interval_agrees_and_others_say_on_which_side():
    share = sum(r["correct"] for r in ROWS) / 300
    figures = [Published("accuracy", value, 3300) for value in (share, share - 0.2, share + 0.2, None)]
    assert column("verdict", card(figures, ROWS)) == ["agrees", "above", "below", "cannot be compared"]
    assert column("published", card(figures, ROWS))[3] == "plot only"
    at_least = [Published("accuracy", value, 2600, at_least=True) for value in (share - 0.2, share + 0.2)]
    assert column("verdict", card(at_least, ROWS)) == ["agrees", "below"]
    with pytest.raises(ValueError, match="no predictions"):
        card(figures, [])


def test_correlation_has_an_interval_and_a_constant_judge_has_none():
    value, low, high = pearson([*ROWS, row(999, "3", None)])
    assert low < value < high and (value, low, high) == pearson(ROWS)
    constant = [row(i, str(i % 5 + 1), "4") for i in range(20)]
    assert all(map(math.isnan, pearson(constant)))
    found = card([Published("pearson", 0.4, 10)], constant)
    assert column("verdict", found) == ["cannot be compared"] and "same" in column("yours", found)[0]


def test_a_card_is_aligned_and_says_how_many_stand_behind_a_figure():
    figures = [Published("accuracy", 0.5, 10, "a note"), Published("accuracy", 0.9, 0, at_least=True)]
    head, first, second = str(card(figures, ROWS)).split("\n")
    assert head.index("verdict") == first.rindex("  ") + 2 == second.rindex("  ") + 2
    assert first.startswith("accuracy (a note)  0.500 of 10") and "  > 0.900  " in second


def test_stored_predictions_are_read_again(tmp_path):
    rows = read(write_jsonl(ROWS, tmp_path / "predictions.jsonl"))
    assert [r["answer"] for r in rows] == [r["answer"] for r in ROWS]
    (tmp_path / "bad.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match="no file of predictions"):
        read(tmp_path / "bad.jsonl")


def test_the_weighted_score_is_the_mean_of_the_kinds_and_a_distance_counts_within_a_tenth():
    """NVIDIA's weights: a quarter each, however many questions a kind has."""
    rows = [row(i, "1", "1" if i < 40 else "2", task="count") for i in range(80)]  # 0.5 of 80
    rows += [row(100 + i, "1", "1", task="mcq") for i in range(4)]  # 1 of 4
    told = ("1.1", "0.9", "1.11", None)  # the first two are near enough
    rows += [row(200 + i, "1.0", word, kind="number", task="distance", correct=False) for i, word in enumerate(told)]
    value, low, high = published.weighted(rows)
    assert value == pytest.approx((0.5 + 1 + 0.5) / 3) and low < value < high
    assert column("yours", card([Published("weighted", 0.9, 0)], rows)) == ["0.667"]
    assert published.weighted(rows[40:80] + rows[84:]) != published.weighted(rows)
    perfect = [r | {"correct": True, "kind": "mcq"} for r in rows]
    assert published.weighted(perfect) == (1, 1, 1)
