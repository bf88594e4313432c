"""The one parser: a table of raw answers, and what must hold for any words."""

import json
import random

import pytest

from cookbook.data.answers import FORMATS, choices_of, choose, lenient, plain, read_answer
from cookbook.runs import ROOT

RAW = [json.loads(line) for line in (ROOT / "tests/assets/raw_answers.jsonl").read_text().splitlines()]
LETTERS = ("A", "B", "C", "D")
WEATHER = {"A": "rain", "B": "snow", "C": "fog", "D": "clear sky"}


def texts_of(row: dict) -> dict | None:
    return row["options"] if isinstance(row["options"], dict) else None


@pytest.mark.parametrize("row", RAW, ids=lambda row: row["id"])
def test_raw_answers_are_read_as_the_table_says(row):
    options, texts = list(row["options"]), texts_of(row)
    assert read_answer("think_answer", row["output"], options, texts) == row["ours"]
    assert read_answer("think_answer", row["output"], options, texts, forgiving=True) == row["lenient"]


def test_the_table_is_large_and_varied():
    assert len(RAW) >= 200 and len({row["id"] for row in RAW}) == len(RAW)
    kinds = {"refused" if row["ours"] is None else "words" if len(row["ours"]) > 1 else row["ours"] for row in RAW}
    assert kinds >= {"A", "B", "C", "D", "refused", "words", "4"}


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("form", ["{}", "({})", "{}.", "**{}**", "Option {}", "The answer is {}.", "{}) x", "so, {}."])
def test_every_letter_is_read_in_every_form(letter, form):
    assert choose(form.format(letter), LETTERS) == letter


def test_no_words_break_the_parser_and_what_it_returns_is_an_option():
    rng = random.Random(0)
    pieces = [
        "A",
        "B)",
        "(c",
        "the answer is",
        "not",
        "or",
        "**",
        "\n",
        "<answer>",
        "$",
        "{",
        "\\boxed{",
        "rain",
        "?",
        "Ｂ",
    ]
    for _ in range(2000):
        words = " ".join(rng.choices(pieces, k=rng.randint(0, 9)))
        assert choose(words, LETTERS, WEATHER) in (*LETTERS, None)
        assert read_answer("think_answer", f"<answer>{words}", LETTERS) is None or "</answer>" in words


def test_long_answers_are_read_in_no_time():
    long = "the answer is not so clear, and " * 5000 + "the answer is (c)."
    assert choose(long, LETTERS, WEATHER) == "C"


def test_the_options_words_count_only_where_they_are_known_and_alone():
    assert choose("heavy rain", LETTERS) is None
    assert choose("heavy rain", LETTERS, WEATHER) == "A"
    assert choose("rain and snow", LETTERS, WEATHER) is None
    assert choose("not rain", LETTERS, WEATHER) is None
    assert choose("fog, not snow", LETTERS, WEATHER) == "C"


def test_a_letter_outweighs_the_words_beside_it():
    assert choose("B) rain", LETTERS, WEATHER) == "B"


def test_equal_option_texts_name_no_option():
    assert choose("rain", ("A", "B"), {"A": "rain", "B": "Rain"}) is None


def test_the_lenient_reader_knows_thought_from_answer():
    assert lenient("<think>It is A.</think>\n\nB") == "B"
    assert lenient("<think>It is A.") is None
    assert lenient("<answer>C") == "C"
    assert lenient("<answer>A</answer> or <answer>D</answer>") == "D"
    assert lenient("  ") is None


def test_plain_takes_the_marks_off():
    assert plain("$\\boxed{\\text{B}}$") == plain("**B**") == plain("Ｂ") == "B"


def test_choices_of_a_question_need_letters_in_order():
    assert choices_of("Why?\n(A) rain\n(B) snow") == ("Why?", {"A": "rain", "B": "snow"})
    assert choices_of("Why?\nA: rain\nC: snow") == ("Why?\nA: rain\nC: snow", {})


def test_every_format_states_what_it_wrote_and_finds_it_well_formed():
    for form in FORMATS:
        written = FORMATS[form].write("It is wet.", "B")
        assert read_answer(form, written, LETTERS) == "B" and FORMATS[form].well_formed(written)


@pytest.mark.parametrize(
    ("completion", "in_form", "stated"),
    [
        ("<answer>\n4\n</answer>", True, "4"),
        ("<answer>4</answer>", True, "4"),
        ("<think>It falls.</think>\n\n<answer>4</answer>", False, "4"),
        ("<answer>4</answer> <answer>5</answer>", False, "5"),
        ("So <answer>4</answer>", False, "4"),
        ("<answer>4", False, None),
        ("4", False, None),
    ],
)
def test_an_answer_without_thought_is_one_block_and_nothing_else(completion, in_form, stated):
    assert FORMATS["answer"].well_formed(completion) is in_form
    assert read_answer("answer", completion, "12345") == stated


def test_an_answer_without_thought_has_the_published_form():
    assert FORMATS["answer"].write("", "4") == "<answer>\n4\n</answer>"
