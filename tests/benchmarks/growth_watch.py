"""Does watching stay as cheap as it was? Seconds of alarms at 1,000 and 10,000 steps, and of curves of a long file.

Why: a rule that looks at all rows at every step makes a long run slower the longer it is. Printed are seconds, and how
many times more ten times the rows take: 10 is linear, 100 quadratic. A million lines are read and drawn as well.

    python tests/benchmarks/growth_watch.py [LINES]      # LINES of the file that is drawn; default 1,000,000
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cookbook.display import plots
from cookbook.runs import read_metrics
from cookbook.training.alarms import replay

ROW = {"train/reward_mean": 0.5, "train/reward_std": 0.1, "train/reward_format": 1.0, "train/kl_loss_avg": 0.001,
       "train/entropy": 0.5, "optimizer/grad_norm": 1.0, "rollout/completion_length_mean": 20.0}  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Returns how long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def draw(rows: list[dict]) -> bytes:
    """Returns the curves of a run as a picture."""
    return plots.png(plots.rl_curves(rows))


def main(lines: int) -> None:
    rows = [{"step": step, **ROW} for step in range(1, 10_001)]
    few, many = seconds(lambda: replay(rows[:1000])), seconds(lambda: replay(rows))
    print(f"alarms     1,000 steps {few:6.2f} s    10,000 steps {many:6.2f} s    times {many / few:.0f}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        for count in (lines // 10, lines):
            with file.open("w") as out:
                out.writelines(json.dumps({"step": step, **ROW}) + "\n" for step in range(1, count + 1))
            read = seconds(partial(read_metrics, file))
            long = read_metrics(file)
            drawn = seconds(partial(draw, long))
            print(f"curves {count:9,} lines: read {read:6.2f} s, drawn {drawn:6.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
