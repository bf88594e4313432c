"""NVIDIA's benchmark as it lies on disk: one folder a dataset, its questions and its clips.

Why: published numbers are of these questions. The layout is that of `nvidia/Cosmos-Reason1-Benchmark`, unpacked:
DATASET/DATASET_benchmark_qa_pairs.json beside DATASET/clips/, for robovqa, av, agibot, bridgev2 and holoassist. Rows
are those of the RL dataset. Many clips have to be fetched elsewhere, so what is missing is told.

    samples = read("data/benchmark", problems=(missing := []))
    python -m cookbook.evaluation score predictions.jsonl --published
"""

from dataclasses import replace
from pathlib import Path

from cookbook.samples import DataError, Sample, text
from data_tools.formats import hf_rl
from data_tools.formats.source import Problems

DATASETS = ("robovqa", "av", "agibot", "bridgev2", "holoassist")
QUESTIONS = "_benchmark_qa_pairs.json"
# What NVIDIA's script adds to each question (cosmos-reason1, examples/benchmark, Apache-2.0). Numbers are published
# under these words, with the system prompt "Answer the questions.", 4 frames a second and temperature 0.6.
LETTER = "\nAnswer with the option's letter from the given choices directly."
REASONING = (
    "\nPlease answer the question in the following format: <think> your reasoning </think> "
    "<answer> your single letter answer </answer>."
)


def datasets(path: str | Path) -> list[str]:
    """Returns the names of the datasets in the folder, NVIDIA's order first. Raises DataError where there is none."""
    there = [file.parent.name for file in Path(path).glob(f"*/*{QUESTIONS}")]
    there = [name for name in there if (Path(path) / name / f"{name}{QUESTIONS}").is_file()]
    if not there:
        raise DataError(f"{path}: holds no DATASET/DATASET{QUESTIONS}, such as robovqa/robovqa{QUESTIONS}")
    return sorted(set(there), key=lambda name: (DATASETS.index(name) if name in DATASETS else len(DATASETS), name))


def read(
    path: str | Path,
    problems: Problems | None = None,
    *,
    only: str | None = None,
    official: str | None = None,
) -> list[Sample]:
    """Returns one sample a question: its task is the dataset, its group the clip in it.

    `only` names one dataset. `official` ("letter" or "reasoning") adds NVIDIA's own instructions to each question;
    without it the contract alone says how to answer. Bad rows and missing clips raise DataError, or go into `problems`.
    """
    tails = {None: "", "letter": LETTER, "reasoning": LETTER + REASONING}
    if official not in tails:
        raise DataError(f"official is 'letter', 'reasoning' or None, not {official!r}")
    found = datasets(path)
    if only and only not in found:
        raise DataError(f"{path}: has no dataset {only}; it has {', '.join(found)}")
    samples = []
    for name in [only] if only else found:
        folder = Path(path) / name
        for s in hf_rl.read(folder / f"{name}{QUESTIONS}", problems, clips=folder / "clips"):
            asked = tuple(_with_tail(turn, tails[official]) for turn in s.messages)
            samples.append(replace(s, id=f"{name}-{s.id}", group=f"{name}/{s.group}", task=name, messages=asked))
    return samples


def _with_tail(turn: dict, tail: str) -> dict:
    *parts, last = turn["content"]
    return {"role": turn["role"], "content": [*parts, text(last["text"] + tail)]}
