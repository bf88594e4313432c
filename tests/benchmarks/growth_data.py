"""How the time of a passport grows with the number of labels: twice the labels, twice the time.

Why: a check that takes hours on the dataset that needs it is skipped. The clips are few and linked under many names, so
that what is measured is the labels, the samples and the comparisons, not the decoder.

    python tests/benchmarks/growth_data.py                    # 2,500 to 20,000 labels
    python tests/benchmarks/growth_data.py --sizes 100 200
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from data_tools.formats import llava
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.passport.dataset import passport, read_layout
from data_tools.worlds import road

CLIPS = 8  # different contents
SIZES = (2_500, 5_000, 10_000, 20_000)


def build(root: Path, count: int) -> list[Path]:
    """Make the guide's folder and a LLaVA file of so many labels. Returns both."""
    road.build(root / "toy", {"train": CLIPS}, 0)
    clips = sorted((root / "toy/train/videos").iterdir())
    for part in ("videos", "metas"):
        (root / "av" / part).mkdir(parents=True)
    rows = []
    for i in range(count):
        os.link(clips[i % CLIPS], root / "av/videos" / f"{i:06d}{VIDEO_SUFFIX}")
        (root / "av/metas" / f"{i:06d}{LABEL_SUFFIX}").write_text(json.dumps({"n": i}))
        turns = [{"from": "human", "value": f"<video>\nHow many, {i}?"}, {"from": "gpt", "value": str(i)}]
        rows.append({"id": f"clip{i // 4}", "video": f"av/videos/{i // 4:06d}{VIDEO_SUFFIX}", "conversations": turns})
    (root / llava.FILE).write_text(json.dumps(rows))
    return [root / "av", root / llava.FILE]


def seconds(count: int) -> list[float]:
    """Returns the CPU seconds of a passport: of so many labels in the guide's folder, and of as many LLaVA items."""
    taken = []
    with tempfile.TemporaryDirectory() as root:
        for place in build(Path(root), count):
            start = time.process_time()
            found = passport(read_layout(place), cache=Path(root, "cache"), workers=0)
            taken.append(time.process_time() - start)
            assert found.counts["train"]["usable"] == count
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    for size in parser.parse_args().sizes:
        folder, lines = seconds(size)
        told = f"{1e3 * folder / size:.2f} ms a label; LLaVA {lines:.1f} s, {1e3 * lines / size:.2f} ms an item"
        print(f"{size:,} labels: folder {folder:.1f} s, {told}")
