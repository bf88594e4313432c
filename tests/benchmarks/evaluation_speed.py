"""How much faster evaluation is in batches than one clip at a time, and whether the answers are the same.

Why: 500 clips one by one keep a GPU idle and a laptop busy for minutes. Clips are read afresh for each way; the answers
must be equal, word for word.

    python tests/benchmarks/evaluation_speed.py --clips 500
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from cookbook import checkpoint, evaluation
from cookbook.contract import Contract
from cookbook.encoder import Encoder
from cookbook.runs import ROOT
from data_tools import road_vqa, road_world


def measure(clips: int, size: int) -> dict:
    """Returns the seconds of both ways, how many times faster batches are, and how many answers are equal."""
    contract = Contract.load(ROOT / "configs/prompts/road.yaml")
    model, processor = checkpoint.load("models/tiny-base")
    with tempfile.TemporaryDirectory() as folder:
        world = road_world.build(Path(folder), {"train": 1, "validation": 1, "test": clips}, seed=1)
        items = list({s.group: s for s in road_vqa.read(world, "test", contract)}.values())
        rows, seconds = {}, {}
        for batch in (size, 1):
            encoder, start = Encoder(processor, contract, model.config), time.perf_counter()
            rows[batch] = evaluation.predict(model, encoder, items, "base", size=batch)
            seconds[batch] = time.perf_counter() - start
    return {
        "clips": len(items),
        "seconds": seconds,
        "times_faster": seconds[1] / seconds[size],
        "equal_answers": sum(a["output"] == b["output"] for a, b in zip(rows[1], rows[size])),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--size", type=int, default=64, help="the batch")
    given = parser.parse_args()
    print(json.dumps(measure(given.clips, given.size), indent=1))
