"""Answer formats: how a completion is written, whether it is in form, and which option it states.

Why: the prompt asks for one form, the targets are written in it, the reward pays for it and the evaluation reads it.
The contract names the form; these are the forms, and the one parser. It is tolerant inside the stated answer ("(b)",
"**B.**", "The answer is B", the option's own words) and strict about where an answer may stand: with `think_answer`
and `answer` only a closed <answer> block counts. `lenient` finds an answer elsewhere; the evaluation reports that as a
second number. What names no option, two options or a refusal is None, and counts as wrong.

    FORMATS["think_answer"].write("They touch.", "Yes")
    choose("The answer is (b).", ["A", "B"])                       # "B"
    choose("heavy rain", ["A", "B"], {"A": "rain", "B": "snow"})   # "A"
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

# the same shape as the format reward of cosmos-rl 0.4.7: exactly one empty line between the two tags
WELL_FORMED = re.compile(r"<think>((?:(?!</?think>).)*)</think>\n\n<answer>(.*?)</answer>", re.DOTALL)
ANSWER_ONLY = re.compile(r"<answer>((?:(?!</?(?:answer|think)>).)*)</answer>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
Texts = Mapping[str, str]  # the words behind options: {"A": "rain", "B": "snow"}
CHOICE = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Format:
    """One form of completions."""

    write: Callable[[str, str], str]  # (reasoning, answer) -> the canonical completion
    well_formed: Callable[[str], bool]
    stated: Callable[[str], str | None]  # the part that states the answer; None where none does


def _last_answer(completion: str) -> str | None:
    """Returns what stands in the last <answer> block."""
    found = ANSWER.findall(completion)
    return found[-1] if found else None


FORMATS = {
    "think_answer": Format(
        write=lambda reasoning, answer: f"<think>{reasoning}</think>\n\n<answer>{answer}</answer>",
        well_formed=lambda completion: WELL_FORMED.fullmatch(completion) is not None,
        stated=_last_answer,
    ),
    "answer": Format(  # SFT on labels that come without reasoning: an empty <think> would teach not to think
        write=lambda reasoning, answer: f"<answer>\n{answer}\n</answer>",
        well_formed=lambda completion: ANSWER_ONLY.fullmatch(completion) is not None,
        stated=_last_answer,
    ),
    "text": Format(  # the completion is the answer, such as a caption or a letter; reasoning has no place in it
        write=lambda reasoning, answer: answer,
        well_formed=lambda completion: bool(completion.strip()),
        stated=lambda completion: completion.strip() or None,
    ),
}


def lenient(completion: str) -> str | None:
    """Returns where a forgiving reader would look for the answer; None where there is only unfinished thought.

    The last <answer> block, else what follows a tag that was never closed, else what follows the thought.
    """
    if (found := _last_answer(completion)) is not None:
        return found
    rest = completion.rpartition("<answer>")[2] if "<answer>" in completion else completion
    if "<think>" in rest and "</think>" not in rest:
        return None
    return rest.rpartition("</think>")[2].strip() or None


def choices_of(words: str) -> tuple[str, dict[str, str]]:
    """Returns (question, choices by letter) of a text that lists them line by line: "(A) rain", "A) rain", "A: rain".

    Without at least two lines that begin with A, B, … in order, the choices are {}.
    """
    found = list(CHOICE.finditer(words))
    letters = [match[1] for match in found]
    if len(found) < 2 or letters != [chr(ord("A") + i) for i in range(len(found))]:
        return words.strip(), {}
    return words[: found[0].start()].strip(), {match[1]: match[2] for match in found}


def option_texts(question: str, options: Sequence[str]) -> dict[str, str] | None:
    """Returns the words behind the options where the question lists exactly those, else None."""
    found = choices_of(question)[1]
    return found if found and set(found) == set(options) else None


def read_answer(
    form: str, completion: str, options: Sequence[str] = (), texts: Texts | None = None, forgiving: bool = False
) -> str | None:
    """Returns the option that a completion in this format states, or None; without options, the stated words.

    `forgiving` looks for the answer as `lenient` does, wherever the format wants it.
    """
    stated = lenient(completion) if forgiving else FORMATS[form].stated(completion)
    if stated is None:
        return None
    return choose(stated, options, texts) if options else stated.strip()


# from the words of an answer to an option
OPEN, CLOSE, END = r"[(\[{<\"'“‘]*\s*", r"\s*[)\]}>\"'”’]*", r"\s*[.,:;!。]*"
SO = r"(?:(?:so|thus|therefore|hence|then|finally|overall|well|ok|okay|in conclusion|final answer)\b[,:]?\s*)*"
NAMED = r"(?:answer|choice|option|letter|selection|score|rating)"
SAID = (
    r"\bI(?:'d|'ll| would| will)?\s+(?:choose|pick|select|answer|say|go with|(?:think|believe) (?:that )?it(?: is|'s))"
)
SURE = r"(?:(?:most likely|likely|probably|clearly|definitely|just|the|option|choice|letter)\s+)*"
NOT = r"(?:\bnot|n't|\bnever|\bneither|\bnor|\bcannot be|\brule out|\beliminate|\bexclude)\s+(?:the\s+)?"
NEGATED = re.compile(NOT + "$", re.I)
DENIED = re.compile(r"\s*(?:is|are|was|seems?|looks?|can(?: be)?)?\s*(?:not\b|n't|wrong|incorrect|false|excluded|ruled|impossible|unlikely)", re.I)  # fmt: skip  # noqa: E501


@lru_cache(maxsize=64)
def _reader(options: tuple[str, ...]) -> SimpleNamespace:
    """Returns the patterns that find a set of options in words."""
    name = "(?P<name>" + "|".join(map(re.escape, sorted(options, key=len, reverse=True))) + ")"
    words = all(len(option) > 1 for option in options)
    # a bare "a" before another word is an article; "4.5" is not 4, but "4/5", "4.0" and "4 out of 5" are
    mark = r"(?:\s*[)\]}>:;!。]|\s*\.(?!\d)|\s*,|\s+[-–—]|\.0\b|\s*/\s*\d|\s+out of \d)"
    lead = rf"{SO}{OPEN}(?i:{name})" + (r"\b(?!')" if words else mark)
    bound = r"(?![\w'’]|\.\d(?!\b)|\.[1-9])" if words else r"(?![\w'’]|\.[1-9])"
    named = rf"(?i:{NAMED}(?:\s+\w+){{0,3}}?\s*(?:\bis\b|\bbe\b|[:=]|->|→)|{SAID}" + (
        ")" if words else rf"|\b(?:it|this|that)(?: is|'s)\b|\b{NAMED})"
    )
    some = name.replace("?P<name>", "?:")
    either = rf"(?:(?i:{name})" if words else rf"(?:{name}"
    small = "" if words else rf"|(?i:{some})(?=\s*(?:[)\]}}.,:;!\"']|$))"
    said = rf"{named}\s*:?\s*(?i:{SURE}){OPEN}(?P<found>{either.replace('?P<name>', '?:')}{small})){bound}{CLOSE}"
    either_or = r"\s*(?:,|/|\bor\b|\band\b|&)+"
    return SimpleNamespace(
        # nothing but the option: "(b)", "Option B."
        whole=re.compile(rf"\s*{SO}(?:{NAMED}\s*[:#]?\s*)?{OPEN}{name}(?:\.0|\s*/\s*\d+)?{CLOSE}{END}\s*", re.I),
        lead=re.compile(rf"\s*{lead}"),  # the option, and then more: "B) rain", "Yes, they touch"
        said=re.compile(said),  # announced: "the answer is B", "I would say no"
        # a letter that ends the text: "…, so B."
        last=re.compile(r"(?!)" if words else rf"(?<![\w'’])(?<!\d\.)(?P<found>{some}|[(\[](?i:{some})[)\]]){END}\s*$"),
        # at the start of a line, as in a list of the options
        listed=re.compile(rf"^\s*{OPEN}(?i:{name})(?:\s*[)\]:]|\s*\.(?!\d)|\s*$)", re.M),
        marked=re.compile(rf"(?<!\w)(?i:{name})\s*[)\]]"),  # with a bracket, anywhere
        # another option right behind: "A or B"; and the same from its other end
        hedge=re.compile(rf"{CLOSE}{either_or}\s*(?:option\s+)?{OPEN}(?i:{name})(?!\w)"),
        beside=re.compile(rf"(?<!\w)(?:{some}){CLOSE}{either_or}\s*[(\[]*$"),
    )


def plain(words: str) -> str:
    """Returns the words without markdown, LaTeX and full-width forms: "**B**", "\\boxed{B}" and "Ｂ" become B."""
    words = unicodedata.normalize("NFKC", words)
    for _ in range(2):  # one in another
        words = re.sub(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", words)
    return re.sub(r"\*+|`+|\$+|__", "", words).replace("’", "'").strip()


def choose(stated: str, options: Sequence[str], texts: Texts | None = None) -> str | None:
    """Returns the option that a stated answer names, or None where it names none, or more than one.

    `texts` gives the words of the options ({"A": "rain"}). In this order: nothing but the option; the last sentence
    that says or announces it; a letter that ends the text; the words of exactly one option. A letter outweighs words.
    Case, brackets, markdown and punctuation do not matter; an article ("a car") is no letter.
    """
    words, reader = plain(stated), _reader(tuple(options))
    if not words or not options:
        return None
    by_name = {option.lower(): option for option in options}
    if found := reader.whole.fullmatch(words):
        return by_name[found["name"].lower()]
    if statements := _statements(words, reader, len(options), texts or {}):
        return by_name.get(max(statements)[1])
    found = reader.last.search(words)
    if found and not NEGATED.search(words[: found.start()]) and not reader.beside.search(words[: found.start()]):
        return by_name[found["found"].strip("()[]").lower()]
    return _by_text(words, texts) if texts else None


def _statements(words: str, reader: SimpleNamespace, count: int, texts: Texts) -> list[tuple[int, str]]:
    """Returns (place, lower-case option) of each statement; the option is "" where the statement names two."""
    found = []
    for match in reader.said.finditer(words):
        if not NEGATED.search(words[: match.start()]) and not DENIED.match(words, match.end()):
            both = reader.hedge.match(words, match.end())
            found.append((match.start(), "" if both else match["found"].strip("()[] ").lower()))
    if _is_list(words, reader, count):
        return found
    if (match := reader.lead.match(words)) or (match := _with_text(words, reader, texts)):
        first = match["name"].lower()
        both = reader.hedge.match(words, match.end("name"))
        found.append((0, "" if both and both["name"].lower() != first else first))
    for part in re.finditer(r"[^\n]+?(?:[.!?。]+(?=\s|$)|(?=\n)|$)", words):  # sentences and lines
        if match := reader.whole.fullmatch(part[0]):
            found.append((part.start(), match["name"].lower()))
    return found


def _is_list(words: str, reader: SimpleNamespace, count: int) -> bool:
    """Whether the words only repeat the `count` options: then only an announced one counts."""
    lines, marks = ({m["name"].lower() for m in pattern.finditer(words)} for pattern in (reader.listed, reader.marked))
    return len(lines) > 1 or (len(marks) == count > 2)


def _with_text(words: str, reader: SimpleNamespace, texts: Texts) -> re.Match | None:
    """Returns the match of a capital letter that opens the answer without a mark: "B rain", "A rain" (not "A car")."""
    match = re.match(r"(?P<name>[A-Z])\s+(?P<rest>\S.*)", words, re.DOTALL)
    if not match or not reader.whole.fullmatch(match["name"]):
        return None
    own = texts.get(match["name"], "")
    # without the words, "B rain" is taken for B, but "A car" and "I see" are English
    fits = _bare(match["rest"]).startswith(_bare(own)) if own else match["name"] not in "AI"
    return match if fits else None


def _bare(words: str) -> str:
    """Returns words for comparison: lower case, no punctuation, no article in front."""
    words = " ".join(re.sub(r"[^\w\s]", " ", plain(words)).lower().split())
    return re.sub(r"^(?:a|an|the) ", "", words)


def _by_text(words: str, texts: Texts) -> str | None:
    """Returns the option whose words the answer repeats, or holds as the only one, not denied."""
    said = _bare(re.sub(rf"(?i)^.*{NAMED}\s*(?:is|:)\s*", "", words, flags=re.DOTALL))
    by_text = {option: _bare(own) for option, own in texts.items() if _bare(own)}
    if same := [option for option, own in by_text.items() if own == said]:
        return same[0] if len(same) == 1 else None
    said, found = f" {_bare(words)} ", []
    for option, own in sorted(by_text.items(), key=lambda item: -len(item[1])):
        if (at := said.find(f" {own} ")) >= 0:
            denied = re.search(r"\b(?:not|no|never|isn t|without)(?: \w+)?$", said[:at])
            found += [] if denied else [option]
            said = said.replace(f" {own} ", "  ")  # "red car" must not count for "car" too
    return found[0] if len(found) == 1 else None
