"""The one parser: a table of raw answers, and what must hold for any words."""

import json
import random

import pytest
from pace import linear, many

from cookbook.data.answers import FORMATS, choices_of, choose, fields, lenient, option_texts, plain, read_answer
from cookbook.data.contract import Contract
from cookbook.data.quantities import number, span
from cookbook.data.samples import Sample, message, text
from cookbook.evaluation.metrics.structures import tally
from cookbook.evaluation.metrics.texts import free_text, relaxed
from cookbook.evaluation.predictions import judge
from cookbook.evaluation.published import first_capital
from cookbook.runs import ROOT
from cookbook.training.rewards import PARTS

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
    assert choices_of("Why? (A) rain, (B) wet snow") == ("Why?", {"A": "rain", "B": "wet snow"})
    assert choices_of("Does (A) touch (B) here?")[1] == {} == choices_of("Why? (B) rain (A) snow")[1]


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


# ---- the table: kind of options, what is read ("-" for nothing), the words with Python's escapes ----------------

TABLE = [
    line.split("\t")
    for line in (ROOT / "tests/assets/answers.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
WORDS = {"A": "rain", "B": "snow", "C": "a red car", "D": "none of these"}
LISTED = "What is it?\n" + "\n".join(f"{letter}) {words}" for letter, words in WORDS.items())
OPTIONS = {
    "letters": (tuple(WORDS), LISTED),
    "yesno": (("Yes", "No"), "Do they touch?"),
    "score": (tuple("12345"), "?"),
}
ROAD = Contract.load("configs/prompts/road.yaml")


@pytest.mark.parametrize(("kind", "expected", "escaped"), TABLE, ids=[f"{k}-{w[:40]}" for k, _, w in TABLE])
def test_reward_and_row_read_an_answer_as_the_table_says(kind, expected, escaped):
    words, (options, question) = escaped.encode().decode("unicode_escape"), OPTIONS[kind]
    expected, contract = None if expected == "-" else expected, ROAD
    for wanted in options:
        sample = Sample("s", "g", (message("user", text(question)),), wanted, options)
        strict = contract.write_answer("", words)
        row = judge(sample, strict, contract)
        assert (row["answer"], row["correct"]) == (expected, expected == wanted)
        assert PARTS["single_choice"](strict, sample, contract) == (expected == wanted)
        if "answer>" not in words:
            loose = judge(sample, words, contract)  # without its block it is read by the lenient reader only
            assert (loose["answer"], loose["lenient"], loose["lenient_correct"]) == (None, expected, expected == wanted)
            assert PARTS["single_choice"](words, sample, contract) == 0
            assert read_answer("text", words, options, option_texts(question, options)) == expected


def test_the_table_of_answers_is_large_and_its_lines_differ():
    assert len(TABLE) >= 300 and len({(kind, words) for kind, _, words in TABLE}) == len(TABLE)
    assert sum(expected == "-" for _, expected, _ in TABLE) > 100


def test_two_answer_blocks_are_no_form():
    for form in ("think_answer", "answer"):
        written = FORMATS[form].write("It is wet.", "B")
        assert not FORMATS[form].well_formed(written + "<answer>C</answer>")
        assert not FORMATS[form].well_formed(written.replace("B", "B</answer><answer>C"))


READERS = {
    "choose": lambda words: choose(words, LETTERS, WEATHER),
    "yes or no": lambda words: choose(words, ("Yes", "No")),
    "score": lambda words: choose(words, tuple("12345")),
    "formats": lambda words: [f.well_formed(f.write(words, words)) or f.stated(words) for f in FORMATS.values()],
    "lenient": lenient, "published": first_capital, "number": number, "span": span, "json": fields, "counts": tally,
    "relaxed": relaxed, "options": lambda words: option_texts(words, LETTERS),
}  # fmt: skip
UNITS = ["The answer is ", "answer ", "option option ", "not ", "A) rain\n", "A: no, ", "B\n", "yes or ", "(", "**",
         ".", "! ", "<", "<answer>", "</answer>", "\\boxed{", " ", "\n", "\u00a0", "[[[", "{'a': ", "'\\", "1", "1 ",
         "1-", "A? ", "A! ", "A. rain is ", "start 1 ", "\u0300\u0316", "\ufdfa", "y",
         "(A) x ", ",", "x. (A) "]  # fmt: skip


@pytest.mark.fault("load")
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_linear_time(reader):
    for unit in UNITS:
        for head in ("", "The answer is", "[1"):
            assert linear(READERS[reader], many(unit, head), 100_000), (head, unit)


@pytest.mark.fault("load")
@pytest.mark.parametrize("unit", ["word ", "y", "a ", "\u0300\u0316", "9,", "!"])
def test_text_metrics_take_linear_time(unit):
    free_text([{"answer": "a", "reference": "b"}])  # the imports

    def long_answer(size: int) -> list[dict]:
        return [{"answer": unit * (size // len(unit)), "reference": unit * (size // len(unit)) + "x"}]

    assert linear(free_text, long_answer, 100_000)
