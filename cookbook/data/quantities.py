"""Quantities in an answer: the one number, or the one span of time, that its words state, and the words it shares.

Why: a reward and a score that read "1,000" or "between 3 and 4" in two ways pay for one thing and measure another. Here
is the one reader of both, used by `cookbook.training.rewards` and `cookbook.evaluation.metrics`. It is strict where
words leave a choice: two numbers, two spans, a range or a denial are None, and count as wrong.

    number("about 3,5 m")                          # 3.5
    span("in clip 2 from 0:03 to 5.5 s")           # (3.0, 5.5)
"""

import re
from collections.abc import Sequence
from math import isfinite

from cookbook.data.answers import LONGEST, NOT, plain

DASHES = str.maketrans("−–", "--")
APART = re.compile(r"(?:[\s—=~≈≤≥#|;\\()\[\]{}<>\"“”‘]|(?<!\d)[':])+")  # what may stand beside a number
UNIT = r"(?:%|°[CF]?|m?s|min|h|fps|px|mph|k?g|(?:[kcm]?m|ft)(?:\^?[23]|/h|/s(?:\^?2)?)?)"
NUMBER = re.compile(
    r"([-+]?(?:(?P<grouped>(?!0)\d{1,3}(?:,\d{3})+(?:\.\d+)?)|\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
    rf"{UNIT}?[.,;:!?']*"
)
NAME = re.compile(r"[^\W\d_][^\W_]*(?:/[^\W\d_][^\W_]*)*(?:\^[23])?[.,;:!?']*")  # H100, m2, m/s^2
DENIED_NUMBER = rf"{NOT}(?:from |between )?[-−+.(\[]?\d"
BOUND = (
    r"\b(?:at least|at most|up to|(?:more|less|fewer|greater|higher|lower|other) than)\s+[-−+.(\[]?\d|[≤≥]|"
    r"[<>]=?\s*\d[\d.]*(?![\d.>])|\d\W{0,9}(?:or|and)\s+(?:more|less|fewer|higher|lower|above|below)\b"
)
# sums, ranges and fractions ("4 + 4" is not 4), powers (NFKC makes 10² 102), markdown that would glue, denials, bounds
UNSTATED = re.compile(rf"\d[ \t]*[-−–+*`$_/×÷±^:x]+[ \t]*\d|\d[⁰¹²³⁴-⁹¼-¾⅐-⅞]|{DENIED_NUMBER}|{BOUND}", re.I)


def number(words: str | None) -> float | None:
    """Returns the one number that words state, else None; said again with the same value it is still one ("4, so 4 m").

    Two different numbers are none, nor is a range, a fraction, a sum or a denial ("10-12", "3/4", "4 + 4", "not 4").
    A comma before groups of three digits is no point ("1,000" is 1000, "3,5" is 3.5, "0,500" is 0.5); "1e3" and ".5"
    are numbers, what is not finite is none. Units do not count ("50 %" is 50, "3.5m" is 3.5), nor do names with digits
    ("m2", "H100"). Any other word with a digit makes all None ("1.234.567", "2nd", "5k"), and so do a bound ("more than
    3") and an answer above answers.LONGEST characters.
    """
    found, words = set(), words if words and len(words) <= LONGEST else ""
    for word in [] if UNSTATED.search(words) else APART.split(plain(words).translate(DASHES)):
        if re.search(r"\d", word) and not NAME.fullmatch(word):
            if not (match := NUMBER.fullmatch(word)):
                return None
            found.add(float(match[1].replace(",", "" if match["grouped"] else ".")))
    return found.pop() if len(found) == 1 and isfinite(max(found)) else None


# a span of time: bounded, and read on words with single blanks, so no answer, however long, takes more than linear time
TIME = r"\d(?:[\d.,:]{0,20}\d)?(?![\d:]|[.,]\d)"
OTHER = r"(?! ?(?:%|(?:m(?:et\w*|in\w*|s)?|[ck]m|h(?:ours?)?|frames?)\b))"
SECONDS = rf"(?: ?(?:s|secs?|seconds?)\b\.?)?(?!\w|(?: s\w*)? later\b){OTHER}"
ABOUT = r"(?:about |around |approximately |seconds? |~ ?|t ?= ?)?"
JOIN = rf",? ?(?:--?>?|[—~→]|(?:up )?to|until|till|through) ?{ABOUT}"
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Burmese, Khmer, kana, Han
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}_])\w)+")
JOINED = re.compile(
    rf"(?<![-\w])(?<!\d[.,:]){TIME}{SECONDS}(?:{JOIN}{TIME}{SECONDS})+"
    rf"|\bbetween {ABOUT}{TIME}{SECONDS} and {ABOUT}{TIME}{SECONDS}", re.I
)  # fmt: skip
ITEM = rf" ?[\"']?(\d[\d.:]{{0,20}}){SECONDS}[\"']? ?"
PAIR = re.compile(rf"[\[(]{ITEM}[,;]{ITEM}[\])]|^{ITEM}[,;] {ITEM}\.?$", re.I)  # "[3,5]", and "3, 5" alone
MARKED = re.compile(
    r"(?<![a-z])(?:(?P<start>start|begin)|end|finish|stop|until|till)"
    r"(?:(?!start|begin|end|finish|stop|frame|clip| for )[^\d,;{}]){0,30}"
    rf"(?<![-.])(?P<time>{TIME}){SECONDS}", re.I
)  # fmt: skip


def span(words: str | None) -> tuple[float, float] | None:
    """Returns (start, end) in seconds of the one time span that words announce, else None; equal ones are a moment.

    Announced are "3.2 - 5", "from 0:03 to 1:05.5", "between 3 and 5 s", "[3, 5]", "starts at 3 s and ends at 5 s", and
    {"start": 3, "end": 5}; other numbers do not count ("in clip 2"). None for two different spans, three times in a row
    ("3 - 5 - 7"), an end before its start, a negative time, other units than seconds ("3-5 min"), a denial, and an
    answer above answers.LONGEST characters.
    """
    words = " ".join(plain(words if words and len(words) <= LONGEST else "").translate(DASHES).split())
    marks = [(bool(mark["start"]), _seconds(mark["time"])) for mark in MARKED.finditer(words)]
    starts, ends = ({time for start, time in marks if start is wanted} for wanted in (True, False))
    spans = {(*starts, *ends)} if starts and ends else set()
    for match in JOINED.finditer(PAIR.sub(r" \1\3 - \2\4 ", words)):
        spans.add(tuple(map(_seconds, re.findall(TIME, match[0]))))
    times = spans.pop() if len(spans) == 1 and not re.search(DENIED_NUMBER, words, re.I) else ()
    return times if len(times) == 2 and None not in times and times[0] <= times[1] else None


def _seconds(time: str) -> float | None:
    """Returns the seconds of "75.5", "1:15.5" or "00:01:15.5"; None for what is no time, such as "1:75"."""
    parts = [number(part) for part in time.split(":")]
    if None in parts or len(parts) > 3 or any(part >= 60 for part in parts[1:]):
        return None
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def iou(a: tuple[float, float] | None, b: tuple[float, float] | None) -> float:
    """Returns the shared part of two spans divided by all that they cover together; 0 where one is missing."""
    if a is None or b is None:
        return 0.0
    if a == b:
        return 1.0
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared) if shared else 0.0


def words_of(text: str) -> list[str]:
    """Returns the words of a text in small letters; of a script without blanks between words each character is one."""
    return WORD.findall(text.lower())


def common_words(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence of two lists of words.

    All places of `b` are the bits of one number (Hyyrö 2004), so that 2,000 words a side take a millisecond.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << place
    full = free = (1 << len(b)) - 1
    for word in a:
        hit = free & places.get(word, 0)
        free = (free + hit | free - hit) & full
    return len(b) - free.bit_count()
