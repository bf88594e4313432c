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

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from string import ascii_uppercase
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

# the same shape as the format reward of cosmos-rl 0.4.7: exactly one empty line between the two tags
WELL_FORMED = re.compile(
    r"<think>((?:(?!</?(?:answer|think)>).)*)</think>\n\n<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL
)
ANSWER_ONLY = re.compile(r"<answer>((?:(?!</?(?:answer|think)>).)*)</answer>", re.DOTALL)
Texts = Mapping[str, str]  # the words behind options: {"A": "rain", "B": "snow"}
CHOICE = re.compile(r"^[ \t]*\(?([A-Z])[).:][ \t]+(\S(?:.*\S)?)", re.MULTILINE)
IN_LINE = re.compile(r"(?<!\S)\(([A-Z])\)\s((?:(?!,?\s\([A-Z]\)\s).)+)")


@dataclass(frozen=True)
class Format:
    """One form of completions."""

    write: Callable[[str, str], str]  # (reasoning, answer) -> the canonical completion
    well_formed: Callable[[str], bool]
    stated: Callable[[str], str | None]  # the part that states the answer; None where none does


def answer_blocks(completion: str) -> list[str]:
    """Returns what stands in each closed <answer> block, in order."""
    parts = (part.partition("<answer>") for part in completion.split("</answer>")[:-1])
    return [inside for _, tag, inside in parts if tag]


def _last_answer(completion: str) -> str | None:
    return (answer_blocks(completion) or [None])[-1]


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
    """Returns (question, choices by letter) of a text that lists them; without two that begin in order, {} for them."""
    found = listed_choices(words)
    return words[: found[0].start() if found else None].strip(), {match[1]: match[2] for match in found}


def listed_choices(words: str) -> list[re.Match]:
    """Returns (letter, words) of the choices A, B, … in order: "(A) rain", "A) rain", "A: rain", one a line.

    Where lines list none, "Which? (A) rain (B) snow" counts too, but not "Does (A) touch (B) here?".
    """
    for pattern in (CHOICE, IN_LINE):
        found = list(pattern.finditer(words))
        in_order = len(found) > 1 and ascii_uppercase.startswith("".join(match[1] for match in found))
        if in_order and words[: found[0].start()].rstrip(" \t")[-1:] in "?:.!;\n":
            return found
    return []


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
LONGEST = 10_000  # characters: of a longer answer only the end is read
BLANKS = re.compile(r"[\s\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+")  # and marks that nobody sees


def _any(words: str) -> str:
    """Returns the pattern of one of the words; "_" stands for a blank."""
    return rf"\b(?:{'|'.join(words.split()).replace('_', ' ')})\b"


OPEN, CLOSE, END = r"[(\[{<\"'“‘「『【《]*\s*", r"\s*[)\]}>\"'”’」』】》]*", r"\s*[.,:;!。]*"
SO = rf"(?:{_any('so thus therefore hence then finally overall well ok okay in_conclusion final_answer')}[,:]?\s*)*"
NAMED = r"(?:answer|choice|option|letter|selection|score|rating|grade)"
SAID = (
    r"\bI(?:'d|'ll| would| will)?\s+(?:choose|pick|select|answer|say|go with|(?:rate|give) (?:it|this)|"
    r"(?:think|believe) (?:that )?it(?: is|'s))"
)
SURE = rf"(?:{_any('most_likely likely probably clearly definitely just an? the option choice letter')}\s+){{0,5}}"
_NO = _any(r"not never neither nor cannot_be can't_be rul\w+_out eliminat\w+ exclud\w+ reject\w*")
_THAT = _any("think believe say sure certain that it_is it's an? the")
NOT = rf"(?:n't|{_NO})\s+(?:{_THAT}\s+)*"
OTHER = _any(
    "rather_than instead_of unlike except over (?:any|every)thing_but (?:more|less|fewer|higher|lower|other)_than "
    "at_least at_most up_to"
)
NEGATED = re.compile(rf"(?:{NOT}|{OTHER}\s+)(?:the\s+)?(?:option\s+)?{OPEN}$", re.I)
DENIED = re.compile(
    rf"[)\]]?\s*(?:{_any('is are was were seems? looks? can(?:_be)?')}\s*)?(?:{_any('both all clearly')}\s+)?"
    rf"(?:n't|{_any('not wrong incorrect false excluded ruled eliminated impossible unlikely out')})", re.I
)  # fmt: skip
WRONG = re.compile(
    rf"[^\S\n]*{_any('is are was were seems? looks? can_be')}\s+(?:{_any('both all clearly')}\s+)?"
    rf"{_any('not wrong incorrect false excluded ruled_out impossible unlikely out')}", re.I
)  # fmt: skip
# what may stand between two options that are both named: "B or maybe C", "A, B", "3-4"; blanks alone do it too
JOINT = (
    "or and nor to through then vs versus plus with maybe "
    "perhaps possibly probably even also but else as_well_as either"
)
BETWEEN = rf"(?:[\s)\]}}>\"'”’(\[{{“‘,;/|&+~=<\\–—∨-]|{_any(JOINT + ' option choice')}\.?|\.\.+)+"
# the words before a lone letter behind which it is an option; behind others it is a name: "car C", "lane B"
LEADS = re.compile(
    _any(
        rf"{JOINT} \w+ly is are was be of by than thus so hence both neither if unless although though while whereas "
        "because since as option choice answer letter say choose pick select between from not just still too could "
        "might may can would should must it's guess think believe prefer an? it give rate rating score about around"
    ) + rf"\s+{OPEN}$", re.I
)  # fmt: skip
WORD, MARKED = re.compile(rf"[\w'][^\S\n]+{OPEN}$"), re.compile(r"\w+[)\]:]")
# one's own correction: what stands before it is taken back
TURN = (
    rf"(?:^|[.!?;,:—–\n-])\s*(?:{_any('oh hmm but oops sorry')}[,.]?\s*)*"
    rf"(?:{_any('wait actually correction scratch_that on_second_thought I_mean')}NO)[,.:;!…]*\s+"
)
# each option's own: "A: no", "A. turn left (no)"
_YES_NO = "yes no true false right wrong correct incorrect"
VERDICT = rf"[)\].]?\s*[:=–—-]?\s*(?:{_any(_YES_NO)}|[✓✔✗✘✅❌])"
MARKED_VERDICT = (
    r"\)?\s*(?:[✓✔✗✘✅❌]|(?:->|[:=?,;|(–—→-])\s*(?:[✓✔✗✘✅❌]|(?:not )?"
    rf"{_any(_YES_NO + ' possible impossible likely unlikely excluded ruled_out')}(?!['\s]*(?-i:[a-z]))))"
)
JUDGED = re.compile(MARKED_VERDICT, re.I)


@lru_cache(maxsize=64)
def _reader(options: tuple[str, ...]) -> SimpleNamespace:
    """Returns the patterns that find a set of options in words: letters, digits, or whole words such as yes and no."""
    some, digits = "|".join(map(re.escape, sorted(options, key=len, reverse=True))), all(map(str.isdecimal, options))
    words, name = not digits and all(len(option) > 1 for option in options), f"(?P<name>{some})"
    # "4.5" is not 4, but "4.0" is; nor is "<4" or "-4"
    bound = r"(?![\w'’]|\.\d(?!\b)|\.[1-9])" if words else r"(?![\w'’]|[.,]\d)"
    alone = r"(?<![<>≤≥])(?<![^\d]-)(?<!^-)" if digits else ""
    # "no" and "4" are no options before a thing ("no car", "4 cars"), "A" is none where it is an article
    ends = rf"(?=\s*(?:[^\w\s]|$|\d|{_any('or and if unless for to then but otherwise maybe is')}))"
    verbs = _any("is was and or nor but seems because since rather instead remains then to through vs with plus")
    article = rf"(?:(?<![AI])|(?!\s+(?!{verbs})[a-z]))"
    mention = rf"\b(?i:{some})\b(?!'){ends}"
    if not words:
        marked, free = rf"(?<=[(\[])(?i:{some})(?=[)\]])", ends if digits else article
        mention = rf"(?<![\w'’])(?<!\d[.,])(?<!\bN/){alone}(?:(?:{some}){bound}{free}|{marked})"
    why = _any("because since as rather instead due stars? points? unless if")
    mark = rf"(?:\s*[)\]>:;!。(]|\s*\.(?!\d)|\s*,(?!\d)|\s+[-–—]|\.0\b|\s+{why})"
    idle = rf"\b(?!')(?!\s+{_any('doubts? problem question idea one way matter wonder clue answer')})"
    is_it = rf"{_any('it this that')}(?: is|'s|(?: must| should| would| could)? be)\b"
    named = (
        rf"(?i:(?<!each )(?<!every ){NAMED}(?:\s+\w+){{0,3}}?\s*(?:\bis\b|\bbe\b|[:=]|->|→)|{SAID}|{is_it}"
        + ("" if words else rf"|\b{NAMED}")
        + ")"
    )
    told = f"(?i:{some}){ends}" if words else rf"(?:{some})|(?i:{some})(?=\s*(?:[)\]}}.,:;!\"']|$))"
    much = _any("the most my probably clearly definitely also")
    best = _any("correct right true best answer likely one")
    praise = rf"(?:{_any('is was seems looks must_be should_be would_be')}\s+(?:{much}\s+)*{best}|remains\b)"
    no = "" if "no" in map(str.lower, options) else r"|no(?=[,.:;!])"
    own = r"\s?[)\].:|(–—-]\s?(?:[^\n.;:=?!|→()–—✓✔✗✘✅❌-]|(?<=\w)-(?=\w)){1,60}"
    verdict = rf"(?:{MARKED_VERDICT if digits else VERDICT}|{own}{MARKED_VERDICT})"
    return SimpleNamespace(
        # nothing but the option: "(b)", "Option B."
        whole=re.compile(rf"\s*{SO}(?:{NAMED}\s*[:#]?\s*)?{OPEN}{alone}{name}(?:\.0)?{CLOSE}{END}\s*", re.I),
        lead=re.compile(rf"\s*{SO}{OPEN}(?i:{name}){idle if words else mark}"),  # the option, and then more: "B) rain"
        # announced: "the answer is B", "I would say no"
        said=re.compile(rf"{named}\s*:?\s*(?i:{SURE}){OPEN}(?P<name>{told}){bound}"),
        holds=re.compile(rf"(?<![\w'’]){name}{CLOSE}\s+{praise}"),  # praised: "C is correct"
        last=re.compile("(?!)" if words else rf"{mention}{CLOSE}{END}\s*$"),  # a letter that ends the text: "…, so B."
        group=re.compile(rf"{mention}(?:{BETWEEN}(?:{mention}))*"),
        name=re.compile(mention),
        means=_is_option if not words else lambda words, at: True,
        turn=re.compile(TURN.replace("NO", no), re.I),
        verdict=re.compile("(?!)" if words else rf"(?<![\w'’])(?<!\d[.,]){alone}{name}(?i:{verdict})"),
        top=re.compile(rf"(?<=\d)\s?\(?(?:/|(?:out )?of)\s?{max(options, key=int)}\b\)?" if digits else "(?!)"),
    )


def plain(words: str) -> str:
    """Returns the words without markdown, LaTeX and full-width forms: "**B**", "\\boxed{B}" and "Ｂ" become B.

    Several blanks are one, several line ends one line end: what looks for words then takes linear time.
    """
    # word by word, since combining marks in a row take quadratic time
    words = words if words.isascii() else re.sub(r"\S{1,256}", lambda word: normalize("NFKC", word[0]), words)
    for _ in range(2):  # one in another
        words = re.sub(r"\\(?:f?boxe?d?|(?:text|math)(?:bf|rm|it|sf|tt)?|bm)\s{0,9}\{([^{}]*)\}", r"\1", words)
    words = re.sub(r"\*+|`+|\$+|__|\\[()\[\]]|</?(?:b|i|em|strong|u|p|br|code|option|choice)\s?/?>", "", words)
    words = re.sub(r"(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)", "", words).replace("’", "'")
    return BLANKS.sub(lambda gap: "\n" if "\n" in gap[0] else " ", words).strip()


def choose(stated: str, options: Sequence[str], texts: Texts | None = None) -> str | None:
    """Returns the option that a stated answer names, or None where it names none, or more than one.

    `texts` gives the words of the options ({"A": "rain"}). In this order: nothing but the option; the value of "answer"
    in JSON; the last sentence that says or announces it; a letter that ends the text; the words of exactly one option.
    A letter outweighs words. Another option that is named and not denied makes it no answer ("B or maybe C", "B,
    although C is possible"), but for one that is taken back ("A. Wait, B") or weighed before the answer is announced.
    Case, brackets, markdown and punctuation do not matter; an article ("a car") is no letter. Of an answer above
    LONGEST characters only the end is read.
    """
    if not stated or not options:
        return None
    words, reader = _end(plain(_end(stated))), _reader(tuple(options))
    by_name = {option.lower(): option for option in options}
    words = reader.top.sub("", re.sub(r"\bscale (?:of|from) \w+ ?(?:to|-|–) ?\w+", "scale", words))
    if found := reader.whole.fullmatch(words):
        return by_name[found["name"].lower()]
    if told := fields(words):
        values = [value for key, value in told.items() if re.search(rf"(?i)\b{NAMED}$", key.replace("_", " "))]
        return choose(str(values[0]), options, texts) if len(values) == 1 and not isinstance(values[0], dict) else None
    if (end := _judged(words, reader, texts or {})) and not reader.said.search(words, end):
        return None
    words = words[end:]
    words = next((part for part in reversed(reader.turn.split(words)) if part.strip()), "")
    if found := reader.whole.fullmatch(words):
        return by_name[found["name"].lower()]
    if (name := _stated(words, reader, texts or {})) is not None:
        return by_name.get(name)
    return _by_text(words, texts) if texts else None


def _judged(words: str, reader: SimpleNamespace, texts: Texts) -> int:
    """Returns where the last of several options' verdicts ends: "A. rain: no. B. snow: yes"; 0 without such."""
    found = {match["name"]: match.end() for match in reader.verdict.finditer(words)}
    for option, own in texts.items():
        at = words.lower().find(own.lower()) if own else -1
        if at >= 0 and (match := JUDGED.match(words, at + len(own))):
            found[option] = max(match.end(), found.get(option, 0))
    return max(found.values()) if len(found) > 1 else 0


def _end(words: str) -> str:
    """Returns the words, of long ones the last LONGEST characters from a blank on, with a mark that they were cut."""
    return words if len(words) <= LONGEST else "… " + "".join(words[-LONGEST:].split(maxsplit=1)[1:])


def _stated(words: str, reader: SimpleNamespace, texts: Texts) -> str | None:
    """Returns the lower-case option that the words state, "" where they leave a choice, None where they state none."""
    weak, strong, groups = [], [], _groups(words, reader, texts)

    def state(kind: list, match: re.Match, name: str | int = "name") -> None:
        at = match.start(name)
        if not _withdrawn(words, {match.start(), at}, match.end(name), texts):
            both = any(start <= at < end and len(names) > 1 for start, end, names in groups)
            kind.append((at, "" if both else match[name].lower()))

    for match in (*reader.said.finditer(words), *reader.holds.finditer(words)):
        state(strong, match)
    if match := reader.lead.match(words) or _with_text(words, reader, texts):
        state(weak, match)
    for part in re.finditer(r"(?:[^\n.!?。]|\.(?=\d))+[.!?。]*", words):  # sentences and lines
        match = reader.whole.fullmatch(words, part.start(), part.end())
        if match and not _refuted(words, match.end(), texts):
            weak.append((match.start("name"), match["name"].lower()))
    if (match := reader.last.search(words, max(0, len(words) - 99))) and reader.means(words, match.start()):
        state(weak, reader.name.search(words, match.start()), 0)
    if not (stated := strong or weak):
        return "" if any(len(names) > 1 for _, _, names in groups) else None
    place, name = max(stated)
    others = {name for _, name in stated}
    for start, _, names in groups:
        others |= names if not strong or start > place else set()
    early = {name for at, name in weak if at < place} if strong else set()
    if len(early | {name for at, _, names in groups if at < place for name in names}) == 1:
        others |= early  # more than one were weighed, or are the list of the options
    return name if others <= {name} else ""


def _groups(words: str, reader: SimpleNamespace, texts: Texts) -> list[tuple[int, int, set[str]]]:
    """Returns (start, end, lower-case options) of what is named together, but for what is denied or asked."""
    found = []
    for match in reader.group.finditer(words):
        names = {each[0].lower() for each in reader.name.finditer(words, match.start(), match.end())}
        withdrawn = _withdrawn(words, {match.start()}, match.end(), texts, alone=len(names) == 1)
        if not withdrawn and (len(names) > 1 or reader.means(words, match.start())):
            found.append((match.start(), match.end(), names))
    return found


def _withdrawn(words: str, starts: set[int], end: int, texts: Texts, alone: bool = True) -> bool:
    """Whether what is named up to there is denied or, where it stands alone, asked or said to be wrong."""
    before = [words[max(0, at - 60) : at] for at in starts]  # a denial ends in a word: most need no search
    if any(part.rstrip(" \n([{<\"'“‘「『【《")[-1:].isalnum() and NEGATED.search(part) for part in before):
        return True
    asked = words[end : end + 9].lstrip(" )]\"'").startswith("?")
    return bool(DENIED.match(words, end)) or (alone and (asked or _refuted(words, end, texts)))


def _refuted(words: str, end: int, texts: Texts) -> bool:
    """Whether the option that ends there, with its own words behind it, is said to be wrong: "A) rain is wrong"."""
    at = end + len(gap := words[end : end + 9]) - len(gap.lstrip(")].: "))
    own = next((text for text in texts.values() if text and words.startswith(text, at)), "")
    return bool(own) and WRONG.match(words, at + len(own)) is not None


def _is_option(words: str, at: int) -> bool:
    """Whether the letter there stands for an option, and names no thing: "car C"."""
    before = words[max(0, at - 30) : at]
    return not WORD.search(before) or MARKED.match(words, at) is not None or LEADS.search(before) is not None


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
    words = re.sub(r"(?i)\bno\s?[,.:;!?]", " ", words)  # it denies nothing behind it
    said = _bare(re.sub(rf"(?i)^.*{NAMED}\s?(?:is|:)\s?", "", words, flags=re.DOTALL))
    by_text = {option: _bare(own) for option, own in texts.items() if _bare(own)}
    if same := [option for option, own in by_text.items() if own == said]:
        return same[0] if len(same) == 1 else None
    said, found = f" {_bare(words)} ", []
    for option, own in sorted(by_text.items(), key=lambda item: -len(item[1])):
        if (at := said.find(f" {own} ")) >= 0:
            denied = re.search(r"\b(?:not|no|never|\w+n t|without)(?: \w+)?$", said[max(0, at - 60) : at])
            found += [] if denied or WRONG.match(said, at + 1 + len(own)) else [option]
            said = said.replace(f" {own} ", "  ")  # "red car" must not count for "car" too
    return found[0] if len(found) == 1 else None


def fields(words: str) -> dict[str, Any]:
    """Returns the fields of the JSON object in a text, alone, in a code block or among words; {} where there is none.

    Python's notation ('single quotes') is read too: the guide's loader trains on it. A field that stands twice leaves a
    choice: {}. So does a text of more than 5 LONGEST characters.
    """
    words = words[words.find("{") : words.rfind("}") + 1] if len(words) <= 5 * LONGEST else ""
    with suppress(KeyError):
        for read in (partial(json.loads, object_pairs_hook=_once), _python) if words else ():
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                if isinstance(found := read(words), dict):
                    return {str(key): value for key, value in found.items()}
    return {}


def _once(pairs: list[tuple[str, Any]]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        raise KeyError("a field stands twice")
    return found


def _python(words: str) -> Any:
    tree = ast.parse(words, mode="eval")
    found = ast.literal_eval(tree)
    return _once([(key, None) for key in map(ast.literal_eval, getattr(tree.body, "keys", ()))]) and found
