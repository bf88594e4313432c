"""NVIDIA's RL dataset: rows with `video` and `qa_pairs`, a question with choices by letter and the right letter.

Why: `nvidia/Cosmos-Reason1-RL-Dataset` (and -Benchmark) hold no written answers: RL needs only what to compare with.
The question lists the choices; how to answer is said by the contract, whose format the reward pays for.

    read("nvidia/Cosmos-Reason1-RL-Dataset", subset="robovqa", split="rl")
    read("data/benchmark", problems=(missing := []))     # all of its datasets; many clips have to be fetched elsewhere
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cookbook.data.answers import choices_of
from cookbook.data.samples import DataError, Sample, text
from data_tools.formats import hub
from data_tools.formats.hf_sft import media_part, write_rows
from data_tools.formats.sink import tagged
from data_tools.formats.source import Find, Names, Place, Problems, conversation, make_sample, shown, skipping

PAIRS = "qa_pairs"
BENCHMARK = "_benchmark_qa_pairs.json"


def read(
    path: Place, problems: Problems | None = None, *, subset: str = "", split: Names = None, clips: Place | None = None
) -> list[Sample]:
    """Returns one sample a question, without an answer to learn: question, choices and the right letter.

    The benchmark, unpacked as DATASET/DATASET_benchmark_qa_pairs.json beside DATASET/clips, is read whole where no
    subset is named: a sample's task is then its dataset, which its id and its group begin with.
    """
    files = [] if subset else sorted(Path(path).glob(f"*/*{BENCHMARK}"))
    datasets = [file.parent.name for file in files if file.name == file.parent.name + BENCHMARK]
    samples: list[Sample] = []
    for part in datasets or [subset]:
        find = hub.Clips(path, part, clips)
        for name, place, row in hub.rows(path, part, split, problems):
            with skipping(problems, place):
                for found in _samples(row, name, find):
                    whole = {"id": f"{part}-{found.id}", "group": f"{part}/{found.group}", "task": part}
                    samples.append(replace(found, **whole) if datasets else found)
    return samples


def _samples(row: dict[str, Any], name: str, find: Find) -> Iterator[Sample]:
    several = row.get(PAIRS) if isinstance(row.get(PAIRS), list) else [row.get(PAIRS)]
    part, group = media_part(row, find)
    for number, pair in enumerate(several):
        choices, answer = _checked(pair)
        asked = text(prompt(pair["question"], choices))
        messages = conversation([{"role": "user", "content": [part, asked]}], Path)
        one = row | {PAIRS: pair, "id": row.get("id", name) if len(several) == 1 else f"{row.get('id', name)}-{number}"}
        yield make_sample(one, messages, name, group, {part["type"]}, answer=answer, options=tuple(choices))


def _checked(pair: object) -> tuple[dict[str, str], str]:
    """Returns (choices by letter, right answer)."""
    if not isinstance(pair, dict) or not isinstance(pair.get("question"), str) or not pair["question"].strip():
        raise DataError(f"{PAIRS} is not a question with index2ans and answer")
    choices, answer = pair.get("index2ans") or {}, pair.get("answer", pair.get("correct_answer"))
    if not isinstance(choices, dict):
        raise DataError("index2ans is not a table of choices by letter")
    choices = {str(letter): str(words) for letter, words in choices.items() if words is not None}
    if not isinstance(answer, str) or not answer or (choices and answer not in choices):
        raise DataError(f"the answer {shown(repr(answer))} is none of the choices {', '.join(choices)}")
    return choices, answer


def prompt(question: str, choices: Mapping[str, str]) -> str:
    """Returns the question and one choice a line."""
    return "\n".join([question, *(f"({letter}) {words}" for letter, words in choices.items())])


def write(
    samples: Iterable[Sample], path: Place, problems: Problems | None = None, *, subset: str = "data", split: str = "rl"
) -> Counter[str]:
    """Write questions about one clip each. Returns what had no place in the format, and for how many samples.

    A sample that was not read from this format must list its choices in the question, and name the right letter.
    """
    left: Counter[str] = Counter()

    def one(sample: Sample, kind: str, turns: list[dict]) -> dict:
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        if len(asked) != 1:
            raise DataError("asks more than one question")
        if not (pair := sample.extra.get(PAIRS)):
            question, choices = choices_of(asked[0])
            if sample.answer is None:
                raise DataError("has no reference answer to compare with")
            pair = {"question": question, "index2ans": choices, "answer": sample.answer}
        choices, answer = _checked(pair)
        if sample.answer not in (None, answer):
            raise DataError(f"its answer {shown(sample.answer)!r} is not that of its {PAIRS}, {shown(answer)!r}")
        lost = {
            "answer in words": turns[-1]["role"] == "assistant",
            "system": turns[0]["role"] == "system",
            "options": sample.options not in ((), tuple(choices)),
            "wording of the prompt": asked[0] != prompt(pair["question"], choices),
        }
        left.update(name for name, value in lost.items() if value)
        extra = {key: value for key, value in sample.extra.items() if key != PAIRS}
        return tagged(replace(sample, answer=None, options=(), extra=extra), {kind: "", PAIRS: pair})

    return left + write_rows(samples, Path(path), problems, f"{subset}/{subset}_{split}_qa_pairs.json", split, one)
