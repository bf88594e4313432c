"""The one reader of a number and of a time span: a table, and reward and metrics that agree on every row of it."""

import math
import random

import pytest
from pace import linear, many

from cookbook.data.contract import Contract
from cookbook.data.quantities import iou, number, span
from cookbook.data.samples import Sample, message, text
from cookbook.evaluation.metrics import right
from cookbook.evaluation.metrics.structures import numbers, spans
from cookbook.training.rewards import PARTS

ROAD = Contract.load("configs/prompts/road.yaml")

NUMBERS = [
    # one number, however it is dressed
    ("4", 4), ("4.0", 4), ("the answer is 4.", 4), ("answer:4", 4), ("**4**", 4), ("\\boxed{4}", 4), ("[4]", 4),
    ("- 2", 2), ("-2", -2), ("−2", -2), ("–2 m", -2), ("+2", 2), (".5", 0.5), ("-1.25 m", -1.25), ("~4", 4),
    ("1e3", 1000), ("1E-2", 0.01), ("４", 4), ("３．５", 3.5), ("٣", 3), ("car 4", 4),
    # a comma before groups of three digits is no point
    ("1,000", 1000), ("1,000,000.5", 1_000_000.5), ("１，０００", 1000), ("3,5", 3.5), ("about 3,5 m", 3.5),
    ("0,500", 0.5), ("12,34", 12.34), ("1,23,456", None), ("1.000,5", None), ("1.234.567", None), ("1.2.3", None),
    # units are none
    ("3.5m", 3.5), ("3 m²", 3), ("3m2", 3), ("m2", None), ("20.9 m/s2", 20.9), ("3 m/s^2", 3), ("50 %", 50),
    ("50%", 50), ("20°C", 20), ("H100", None), ("5k", None), ("2nd", None), ("3D", None), ("0x10", None),
    # exactly one; said again with the same value it is still one
    ("4, so 4 m", 4), ("4 m (4.0 m)", 4), ("4\n\n**4 m**", 4), ("between 3 and 4", None), ("3 or 4", None),
    ("10-12", None), ("10–12", None), ("10 to 12", None), ("3/4", None), ("4/4", None), ("½", None), ("3½", None),
    ("10²", None), ("10^2", None), ("4 + 4", None), ("2 x 2", None), ("3*4", None), ("4 ± 1", None), ("3:4", None),
    ("0:00", None), ("1 000", None), ("1_000", None), ("3 m 20 cm", None), ("3.5 m, that is 350 cm", None),
    # nothing
    ("", None), ("far", None), ("three", None), ("not 4", None), ("it isn't 4", None), ("nan", None), ("inf", None),
    ("1e999", None), ("-1e999", None), ("9" * 10_000, None), ("1e999 or 4", None),
]  # fmt: skip

SPANS = [
    # joined
    ("3.2 - 5", (3.2, 5)), ("from 3.2 to 5", (3.2, 5)), ("3s to 5s", (3, 5)), ("3 seconds until 5 seconds", (3, 5)),
    ("0:03–0:05.5", (3, 5.5)), ("0:03 to 1:05.5", (3, 65.5)), ("00:01:15.5 to 00:01:20", (75.5, 80)),
    ("1:00:00 – 1:00:01", (3600, 3601)), ("0:03 --> 0:05", (3, 5)), ("between 3 and 5 s", (3, 5)),
    ("from about 3 s to about 5 s", (3, 5)), ("**3.0 s** to **5.5 s**", (3, 5.5)), ("３ - ５", (3, 5)),
    ("3,2 - 5,5", (3.2, 5.5)), ("−3 – 5", None), ("answer:3-5", (3, 5)),
    # beside other numbers
    ("3.0 to 5.5 s in clip 2", (3, 5.5)), ("in clip 2 from 3.0 to 5.5 s", (3, 5.5)), ("1. 3 - 5", (3, 5)),
    # a pair, or marked
    ("[3, 5]", (3, 5)), ("[3,5]", (3, 5)), ("3.2, 5", (3.2, 5)), ('["0:03", "0:05"]', (3, 5)), ("3,5", None),
    ("it starts at 3 s and ends at 5 s", (3, 5)), ("It ends at 5 s. It starts at 3 s.", (3, 5)),
    ("Start: 3 s\nEnd: 5 s", (3, 5)), ("starts at 3 s and lasts until 5 s", (3, 5)),
    ('{"start": 3, "end": 5}', (3, 5)), ('{"start":3,"end":5}', (3, 5)), ("{'end': 5.5, 'start': 3}", (3, 5.5)),
    ('```json\n{"start": "0:03", "end": "0:05"}\n```', (3, 5)), ('{"start": null, "end": 5}', None),
    ('{"start": -3, "end": 5}', None),
    # one span; said again it is still one
    ("3 to 5 s, that is 0:03-0:05", (3, 5)), ("starts at 3, ends at 5 (3.0-5.0)", (3, 5)),
    ("the clip starts at 0; the crash is from 3 to 5 s", (3, 5)), ("2 - 6 and 7 - 8", None),
    ("starts at 0 and ends at 9, the crash from 3 to 5", None), ("3 - 5 - 7", None), ("[3, 5, 7]", None),
    ('[{"start": 1, "end": 2}, {"start": 3, "end": 4}]', None), ("2024-05-06", None),
    # in order; a moment is a span
    ("5 - 3", None), ("3 - 3", (3, 3)), ("[2, 2]", (2, 2)),
    # no seconds
    ("from -3 to 5", None), ("3-5 minutes", None), ("3 to 5 m", None), ("3 to 5 frames", None), ("1:75 to 2:00", None),
    ("start frame 3, end frame 5", None), ("begins 2 s in and ends 3 s later", None), ("1.2.3 - 5", None),
    # not announced
    ("", None), ("at 5", None), ("3 and 5", None), ("3 5", None), ("never", None), ("not from 3 to 5", None),
    ("starts at 2 s and stops for 5 s", None), ("9" * 10_000 + " - 5", None),
]  # fmt: skip


def short(value) -> str:
    return repr(value)[:30]


def earned(part: str, words: str, reference: str) -> float:
    given = Sample("s", "g", (message("user", text("?")),), reference, (), extra={"tolerance": 0})
    return PARTS[part](ROAD.write_answer("", words), given, ROAD)


@pytest.mark.parametrize(("words", "value"), NUMBERS, ids=short)
def test_a_number_is_read_by_the_table_and_so_by_reward_and_metric(words, value):
    assert number(words) == value
    wanted, row = str(float(value or 0)), {"id": "a", "answer": words}
    assert earned("numeric", words, wanted) == earned("ordinal", words, wanted) == (value is not None)
    found = numbers([row | {"reference": wanted}])
    assert (found["exact"], found["unread"]) == (value is not None, value is None)
    assert right("number", words, wanted) == (value is not None) and not right("number", "far", words)
    if value is None:
        assert earned("numeric", "0", words) == 0  # nor is it a reference
        with pytest.raises(ValueError, match="its reference is no number"):
            numbers([row | {"reference": words}])


@pytest.mark.parametrize(("words", "value"), SPANS, ids=short)
def test_a_span_is_read_by_the_table_and_so_by_reward_and_metric(words, value):
    assert span(words) == value
    start, end = value or (0, 1)
    row, wanted = {"id": "a", "answer": words}, f"{start} - {end}"
    assert earned("span_iou", words, wanted) == (value is not None) == right("span", words, wanted)
    other = f"{start} - {end + 4}"  # partly right is the same for both
    shared = spans([row | {"reference": other}])["mean_iou"]
    assert earned("span_iou", words, other) == shared == iou(value, span(other))
    assert spans([row | {"reference": wanted}])["unread"] == (value is None)
    if value is None:
        with pytest.raises(ValueError, match="its reference is no span"):
            spans([row | {"reference": words}])


def test_the_shared_part_of_two_spans():
    assert iou((2, 6), (4, 8)) == 2 / 6 and iou((0, 1), (2, 3)) == 0 == iou(None, (2, 3))
    assert iou((1, 1), (1, 1)) == 1 and iou((1, 1), (2, 2)) == 0 == iou((1, 1), (0, 2))


BETWEEN = [" ", ", ", " or ", " and ", " to ", "\n", "-", " - ", "–", "—", "/", ":", ";", "|", "~", "*", "$", "^",
           "$ $", "..", "_", "+", "=", "(", "'", "\u200b", " m ", "x", "and", "²"]  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN)
def test_two_numbers_are_none_whatever_stands_between(between):
    for first, second in (("3", "4"), ("4", "3"), ("3.5", "4")):
        assert number(first + between + second) is None
        if not (between.isalnum() or between in "*$^"):  # "mx4" is a name, "m^3" a unit
            assert number(f"It is {first} m{between}{second} m") is None


def test_what_python_writes_is_read_back():
    rng = random.Random(0)
    for value in (rng.choice([-1, 1]) * 10 ** rng.uniform(-30, 30) for _ in range(300)):
        assert number(repr(value)) == number(f"about {value!r} m") == value
        assert number(f"{value:,.3f}") == float(f"{value:.3f}")
    for start, end in (sorted((rng.uniform(0, 99), rng.uniform(0, 99))) for _ in range(100)):
        assert span(f"from {start!r} to {end!r} s") == span(str([start, end])) == (start, end)
        assert span(str({"start": start, "end": end})) == (start, end)


PIECES = ["1", "9,999", "1.", "1:", "-", "not ", "n't ", " ", "\n", "start ", "start 1 end ", "3 to ", "3 - 5 ", "1-",
          "[1, ", "between 1 ", "4 4 ", "\\boxed{", '"start": 1, ', "*1", "²", "1²", "1e", "1 s ", "x", "a/",
          "starts at 3 s and "]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_long_answers_are_read_in_no_time(piece):
    for head in ("", "1", "start 1 ", "3 to "):
        for read in (number, span):
            assert linear(read, many(piece, head), 100_000), (head, read)


def test_any_words_give_a_finite_number_and_an_ordered_span():
    rng, pieces = random.Random(1), [*PIECES, "e5", "0", "%", "start: ", "end", "]", ":00", "½", "\x00"]
    for _ in range(3000):
        words = "".join(rng.choices(pieces, k=rng.randint(0, 9)))
        assert (told := number(words)) is None or math.isfinite(told), words
        assert (found := span(words)) is None or 0 <= found[0] <= found[1] < math.inf, words
