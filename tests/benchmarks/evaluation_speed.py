"""How much faster evaluation is in batches than one clip at a time, and whether the answers are the same.

Why: 500 clips one by one keep a GPU idle and a laptop busy for minutes. One at a time is the plain loop, without the
threads and files of `predict`. Clips are read afresh for each way; the answers must be equal, word for word. The ways
take turns, because a machine is not equally fast all the time; what counts is the median of the rounds.

    python tests/benchmarks/evaluation_speed.py --clips 500
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from cookbook import checkpoint
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.evaluation.predict import predict
from cookbook.model.generation import generate
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.worlds import road

LIMIT = 48  # new tokens


def one_at_a_time(model, encoder: Encoder, items: list[Sample]) -> list[str]:
    """Returns the answers: each clip is read, asked about and answered before the next one."""
    answers = []
    for item in items:
        out = generate(model, encoder.prompt_batch([item]), LIMIT)
        answers.append(encoder.tokenizer.decode(out.tokens[0], skip_special_tokens=True))
    return answers


def in_batches(model, encoder: Encoder, items: list[Sample], size: int) -> list[str]:
    """Returns the answers of `predict`."""
    return [row["output"] for row in predict(model, encoder, items, "base", size, LIMIT)]


def measure(clips: int, size: int, rounds: int) -> dict:
    """Returns the seconds of both ways, how many times faster batches are, and how many answers are equal."""
    contract = Contract.load(ROOT / "configs/prompts/road.yaml")
    model, processor = checkpoint.load("models/tiny-base")
    seconds, equal = {"one at a time": [], "in batches": []}, []
    with tempfile.TemporaryDirectory() as folder:
        world = road.build(Path(folder), {"train": 1, "validation": 1, "test": clips}, seed=1)
        items = list({s.group: s for s in road_vqa.read(world, "test", contract)}.values())
        for _ in range(rounds):
            answers = []
            for name, way in (("one at a time", one_at_a_time), ("in batches", partial(in_batches, size=size))):
                encoder, start = Encoder(processor, contract, model.config), time.perf_counter()
                answers.append(way(model, encoder, items))
                seconds[name].append(time.perf_counter() - start)
            equal.append(sum(a == b for a, b in zip(*answers)))
    times = [one / many for one, many in zip(*seconds.values())]
    return {
        "clips": len(items),
        "batch": size,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "times_faster": {"median": median(times), "rounds": times},
        "equal_answers": min(equal),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--size", type=int, default=128, help="the batch")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(json.dumps(measure(given.clips, given.size, given.rounds), indent=1))
