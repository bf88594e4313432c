"""How much faster evaluation is in batches than one clip at a time, and whether the answers are the same.

Why: 500 clips one by one keep a GPU idle and a laptop busy for minutes. One at a time is the plain loop, without the
threads and files of `predict`. Clips are read afresh for each way; the answers must be equal, word for word. The ways
take turns, because a machine is not equally fast all the time; what counts is the median of the rounds. With `--large`
the loops are those of transformers' own `generate`, one at a time and in batches, as other evaluators run it; then all
answers are equally long, and equal as far as 16 bits of random weights go.

    python tests/benchmarks/evaluation_speed.py --clips 500
    python tests/benchmarks/evaluation_speed.py --clips 32 --size 16 --rounds 2 --large     # a GPU, 7B's shape
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
import yaml
from random_models import write_model
from rollout_speed import NEVER, PAD, make, stock
from transformers import GenerationConfig

from cookbook import checkpoint
from cookbook.checkpoint.filled import load_processor
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.evaluation.predict import predict
from cookbook.model.decoding import GROUPED
from cookbook.model.generation import generate, to
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.worlds import road

LIMIT = 48  # new tokens
PIXELS = 313_600  # of a frame of the large model's clips; 8 of 560 x 560 are 1,600 tokens


def one_at_a_time(model, encoder: Encoder, items: list[Sample]) -> list[str]:
    """Returns the answers: each clip is read, asked about and answered before the next one."""
    answers = []
    for item in items:
        out = generate(model, encoder.prompt_batch([item]), LIMIT)
        answers.append(encoder.tokenizer.decode(out.tokens[0], skip_special_tokens=True))
    return answers


def transformers_own(model, encoder: Encoder, items: list[Sample], size: int) -> list[str]:
    """Returns the answers of transformers' `generate` to so many at once, LIMIT tokens each."""
    answers = []
    for i in range(0, len(items), size):
        rows = stock(model, to(model, encoder.prompt_batch(items[i : i + size])), 1, LIMIT)
        assert {len(row) for row in rows} == {LIMIT}
        answers += encoder.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return answers


def in_batches(model, encoder: Encoder, items: list[Sample], size: int) -> list[str]:
    """Returns the answers of `predict`."""
    return [row["output"] for row in predict(model, encoder, items, "base", size, LIMIT)]


def ways(large: bool, folder: Path, size: int) -> tuple[dict, object, Contract]:
    """Returns {way: function of (encoder, items)}, the processor, and the contract that all are asked under."""
    if not large:
        model, processor = checkpoint.load("models/tiny-base")
        made = {"one at a time": partial(one_at_a_time, model), "in batches": partial(in_batches, model, size=size)}
        return made, processor, Contract.load(ROOT / "configs/prompts/road.yaml")
    limits = {"fps": 2, "min_pixels": PIXELS, "max_pixels": PIXELS}
    stated = {"system": "", "answer_format": "think_answer", "video": limits}
    (file := folder / "contract.yaml").write_text(yaml.safe_dump(stated))
    model = write_model(folder / "model")
    plain, ours = (make(model, kind, torch.bfloat16, "cuda", large=True) for kind in ("sdpa", GROUPED))
    ours.generation_config = GenerationConfig(eos_token_id=NEVER, pad_token_id=PAD)
    batch_vision(ours)
    own = {f"transformers, {n} at once": partial(transformers_own, plain, size=n) for n in (1, size)}
    return own | {"predict": partial(in_batches, ours, size=size)}, load_processor(model), Contract.load(file)


def measure(clips: int, size: int, rounds: int, large: bool) -> dict:
    """Returns the seconds of each way, how many times faster the last is, and how many answers are equal."""
    with tempfile.TemporaryDirectory() as folder:
        made, processor, contract = ways(large, Path(folder), size)
        world = road.build(Path(folder) / "road", {"train": 1, "validation": 1, "test": clips}, seed=1)
        items = list({s.group: s for s in road_vqa.read(world, "test", contract)}.values())
        seconds, equal = {name: [] for name in made}, []
        for _ in range(rounds):
            answers = []
            for name, way in made.items():
                model = next(iter(way.args))
                encoder, start = Encoder(processor, contract, model.config), time.perf_counter()
                answers.append(way(encoder, items))
                seconds[name].append(time.perf_counter() - start)
            equal.append(sum(a == b for a, b in zip(answers[0], answers[-1])))
    *others, last = seconds
    found = {name: [one / many for one, many in zip(seconds[name], seconds[last])] for name in others}
    return {
        "clips": len(items),
        "batch": size,
        "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name() if large else "CPU",
        "seconds": seconds,
        "tokens_a_second": {name: len(items) * LIMIT / median(took) for name, took in seconds.items()} if large else {},
        f"{last}: times_faster_than": {
            name: {"median": median(times), "rounds": times} for name, times in found.items()
        },
        "equal_answers": min(equal),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--size", type=int, default=128, help="the batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="random weights of Cosmos-Reason1-7B's shape, on a GPU")
    given = parser.parse_args()
    print(json.dumps(measure(given.clips, given.size, given.rounds, given.large), indent=1))
