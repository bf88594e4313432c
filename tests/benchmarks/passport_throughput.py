"""How fast the passport reads clips, next to bare PyAV decoding of the same clips, and how much memory it takes.

Why: a check that costs more than the training's own reading is skipped, and one whose memory grows with the data set
fails on the data set that needs it. Both ways take turns on the same files, and medians are compared.

    python tests/benchmarks/passport_throughput.py                      # both, two workers
    python tests/benchmarks/passport_throughput.py speed --clip a.mp4   # a clip of yours, 24 times, beside the toy ones
    python tests/benchmarks/passport_throughput.py memory --sizes 100 5000
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av

from cookbook.data.samples import Sample, message, text
from data_tools.passport.dataset import passport
from data_tools.worlds import road

ROUNDS, WORKERS = 7, 2


def sample(path: Path, key: str) -> Sample:
    """Returns a sample that shows the clip."""
    turns = (message("user", {"type": "video", "video": str(path)}, text("What?")), message("assistant", text(key)))
    return Sample(key, key, turns)


def with_passport(paths: Sequence[Path]) -> int:
    """Returns the frames that a whole passport decoded, without a cache."""
    rows = [sample(path, str(i)) for i, path in enumerate(paths)]
    return sum(facts.frames for facts in passport({"train": rows}, cache=None, workers=WORKERS).facts)


def _decode(paths: Sequence[Path]) -> int:
    count = 0
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            count += sum(1 for _ in container.decode(stream))
    return count


def bare(paths: Sequence[Path]) -> int:
    """Returns the frames that PyAV decoded in as many processes, and nothing else done."""
    chunks = [paths[i : i + 16] for i in range(0, len(paths), 16)]
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        return sum(pool.map(_decode, chunks))


def seconds(way: Callable[[Sequence[Path]], int], paths: Sequence[Path]) -> tuple[float, float]:
    """Returns how long one way takes, from the call to the result: by the clock, and in CPU time of all processes."""
    start, busy = time.perf_counter(), _cpu()
    way(paths)
    return time.perf_counter() - start, _cpu() - busy


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def copies(sources: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """Returns `count` playable copies, each with other bytes: an mp4 may end in a box that readers skip."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        paths.append(folder / f"{i:05d}.mp4")
        paths[-1].write_bytes(sources[i % len(sources)].read_bytes() + b"\0\0\0\x10free" + i.to_bytes(8, "big"))
    return paths


def speed(name: str, paths: Sequence[Path]) -> None:
    """Print the medians of both ways and their ratios; the CPU time tells the truth on a machine that others use."""
    assert with_passport(paths) == bare(paths), "both ways must read the same frames"
    rounds = [(seconds(bare, paths), seconds(with_passport, paths)) for _ in range(ROUNDS)]
    print(f"{name}: {len(paths)} clips, {WORKERS} workers")
    for place, kind in enumerate(("clock", "CPU  ")):
        plain, checked = (statistics.median(r[way][place] for r in rounds) for way in (0, 1))
        ratios = sorted(one[place] / other[place] for one, other in rounds)
        spread = f"{100 * ratios[0]:.0f} to {100 * ratios[-1]:.0f} % in single rounds"
        print(
            f"  {kind} bare {plain:.2f} s, passport {checked:.2f} s: {100 * plain / checked:.0f} % ({spread})",
            flush=True,
        )


def memory(folder: Path, count: int) -> None:
    """Print the peak memory of a passport over the first `count` clips, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "peak", "--folder", folder, "--sizes", str(count)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    found = json.loads(done.stdout)
    print(f"{count} clips, {found['frames']} frames in {found['seconds']:.1f} s: peak {found['parent']:.0f} MiB, "
          f"the largest worker {found['worker']:.0f} MiB", flush=True)  # fmt: skip


def peak(folder: Path, count: int) -> None:
    """Print, as JSON, the peak memory of this process and of its largest worker (MiB)."""
    paths = sorted(folder.iterdir())[:count]
    start = time.perf_counter()
    frames = with_passport(paths)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes there, KiB here
    mine, workers = (
        resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"frames": frames, "seconds": time.perf_counter() - start, "parent": mine, "worker": workers}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "speed", "memory", "peak"), default="all")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="read 24 copies of this mp4 too")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 5000], help="numbers of clips for the memory")
    parser.add_argument("--folder", type=Path, help="of clips (for `peak`, which `memory` runs for each size)")
    args = parser.parse_args()
    if args.what == "peak":
        return peak(args.folder, args.sizes[0])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        road.build(scratch / "world", {"train": 100})
        world = sorted((scratch / "world/train/videos").iterdir())
        if args.what != "memory":
            speed("toy clips (8 frames of 112 x 112)", copies(world, scratch / "toy", 1000))
            for clip in args.clip:
                speed(clip.name, copies([clip], scratch / clip.stem, 24))
        if args.what != "speed":
            copies(world, scratch / "many", max(args.sizes))
            for count in args.sizes:
                memory(scratch / "many", count)


if __name__ == "__main__":
    main()
