"""Answer formats: how a completion is written, whether it is in form, and which part of it states the answer.

Why: the prompt asks for one form, the targets are written in it, the reward pays for it and the evaluation reads it.
The contract names the form; these are the forms.

    FORMATS["think_answer"].write("They touch.", "Yes")
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# the same shape as the format reward of cosmos-rl 0.4.7: exactly one empty line between the two tags
WELL_FORMED = re.compile(r"<think>((?:(?!</?think>).)*)</think>\n\n<answer>(.*?)</answer>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


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
    "text": Format(  # the completion is the answer, such as a caption or a letter; reasoning has no place in it
        write=lambda reasoning, answer: answer,
        well_formed=lambda completion: bool(completion.strip()),
        stated=lambda completion: completion.strip() or None,
    ),
}


def choose(stated: str, options: Sequence[str]) -> str | None:
    """Returns the option that a stated answer begins with, or None where it names none.

    Case, brackets and a final full stop do not matter: "(b)", "B." and "b) rain" all state B.
    """
    first = re.match(r"[(\[\s]*(\w+)", stated)
    return next((o for o in options if first and first.group(1).lower() == o.lower()), None)
