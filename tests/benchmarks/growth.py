"""How the time of what reads many rows or files grows: seconds at n and at 10 n, and the factor (10 is linear).

Why: what is quick on the tutorial's hundred rows and quadratic stands still on a real run. To add a reader, write a
function of n that prepares its input in a folder and returns what is to be timed, and list it in GROWTH.

    python tests/benchmarks/growth.py                # all, at their own n
    python tests/benchmarks/growth.py score --n 2000
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from cookbook.config.__main__ import main as main_of_config
from cookbook.evaluation.__main__ import score_files
from cookbook.runs import ROOT


def score(n: int, folder: Path) -> Callable[[], object]:
    """Score n stored answers, four to a clip."""
    said = ("A", "The answer is B.", "C) a red car", "I would say B, although C is possible", "**D**")
    rows = (
        {"id": str(i), "group": str(i // 4), "kind": "mcq", "task": f"t{i % 3}", "reference": "ABCD"[i % 4],
         "question": f"{i}?\nA) rain\nB) snow\nC) a red car\nD) none", "options": list("ABCD"),
         "output": f"<think>x</think>\n\n<answer>{said[i % 5]}</answer>"}
        for i in range(n)
    )  # fmt: skip
    file = folder / f"{n}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda: score_files([file])


def lint(n: int, folder: Path) -> Callable[[], object]:
    """Check n files, the shipped SFT configuration with a misspelt key in each."""
    text = (ROOT / "configs/sft.toml").read_text().replace("epoch =", "epochs =")
    files = [folder / f"{i}.toml" for i in range(n)]
    for file in files:
        file.write_text(text)
    with redirect_stdout(StringIO()):
        main_of_config(["lint", str(files[0])])  # what the first file loads for all
    return lambda: main_of_config(["lint", *map(str, files)])


GROWTH: dict[str, tuple[Callable[[int, Path], Callable[[], object]], int]] = {
    "score": (score, 20_000),
    "lint": (lint, 50),
}


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*GROWTH, []], help="which to time; else all")
    parser.add_argument("--n", type=int, default=0, help="rows or files; else each has its own")
    given = parser.parse_args()
    print(f"{'what':10} {'n':>9} {'s at n':>8} {'s at 10 n':>10} {'factor':>7}")
    for name in given.names or GROWTH:
        make, n = GROWTH[name]
        n, seconds = given.n or n, []
        for size in (n, 10 * n):
            with tempfile.TemporaryDirectory() as folder:
                run = make(size, Path(folder))
                began = time.perf_counter()
                with redirect_stdout(StringIO()):
                    run()
                seconds.append(time.perf_counter() - began)
        print(f"{name:10} {n:9,} {seconds[0]:8.2f} {seconds[1]:10.2f} {seconds[1] / seconds[0]:7.1f}", flush=True)


if __name__ == "__main__":
    main()
