"""Loader of VideoPhy-2: rows of `video_url` and `pc` (1 to 5, how physical a clip looks), with the clips beside them.

Why: the published recipe names a clip by its row number, and then balances the rows: nearly every sample gets another
sample's clip. Here a clip is named by its address (`clip_name`), whatever order the rows come in.

    FOLDER/train.csv  [validation.csv  test.csv]     also .parquet, .jsonl, .json; or one file by any name
    FOLDER/videos/NAME-HASH.mp4                      `python -m data_tools.videophy2_download FOLDER` fetches both

    cosmos-rl --config configs/recipes/video_rewards_sft.toml data_tools/videophy2.py
    python data_tools/videophy2.py --config configs/recipes/video_rewards_rl.toml --check

`[custom]` takes `balance = true` (as many samples of each score, by leaving out and repeating), `media` (the folder of
the clips, if not `videos`) and `numbered = true` (the clips are the recipe's own 1.mp4, 2.mp4, …, in the order of rows
that were NOT balanced).
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError, Sample, message, text, video
from cookbook.runs import ROOT
from data_tools import loading
from data_tools.formats.hub import file_rows
from data_tools.formats.source import Problems, inside, shown, skipping
from data_tools.loading.engine import serve
from data_tools.loading.splits import balance, label_of

SCORES = ("1", "2", "3", "4", "5")
QUESTION = "How well does this clip keep to the laws of physics?"
TASK = "plausibility"
SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".parquet", ".jsonl", ".json")
OPTIONS = {"balance": bool, "media": str, "numbered": bool, "question": str}


def clip_name(url: str) -> str:
    """Returns the file name of a clip: the last part of its address, and a hash of all of it."""
    stem = re.sub(r"[^\w-]+", "_", Path(urlsplit(url).path).stem)[:60] or "clip"
    return f"{stem}-{hashlib.sha256(url.encode()).hexdigest()[:10]}.mp4"


def score_of(row: Any) -> str:
    """Returns the score as a text. Raises DataError where there is none from 1 to 5."""
    value = row.get("pc") if isinstance(row, dict) else None
    number = str(value).strip().removesuffix(".0")  # a table with gaps makes 4.0 of a 4
    if number not in SCORES:
        raise DataError(f"pc is {shown(repr(value))}; a score is a whole number from 1 to 5")
    return number


def read(
    path: Path,
    contract: Contract,
    problems: Problems | None = None,
    media: Path | None = None,
    numbered: bool = False,
    question: str = QUESTION,
) -> list[Sample]:
    """Returns one sample a row; rows whose score or clip cannot be used go into `problems` as (row, reason)."""
    folder, samples = media or path.parent / "videos", []
    for number, (name, row) in enumerate(file_rows(path, problems, 1), 1):
        with skipping(problems, name):
            score, url = score_of(row), row.get("video_url")
            if not isinstance(url, str) or not url.strip():
                raise DataError("has no video_url")
            clip = inside(folder, f"{number}.mp4" if numbered else clip_name(url.strip()))
            thought = str(row.get("thought") or "").strip()  # VideoPhy-2 has no such column, a set of your own may
            answer = message("assistant", text(contract.write_answer(thought, score)))
            turns, known = (message("user", video(clip), text(question)), answer), {"label": score, "task": TASK}
            samples.append(Sample(f"{path.stem}-{number:06d}", clip.stem, turns, score, SCORES, **known))
    return samples


def even(samples: list[Sample], seed: int = 0) -> list[Sample]:
    """Returns as many samples of each score, all of them / number of scores, as the published recipe does.

    Frequent scores are thinned out. Rare ones are repeated under ids of their own, with their own clips.
    """
    each = max(1, len(samples) // max(1, len({label_of(s) for s in samples})))
    kept, more = balance(samples, seed, each).samples, []
    for score in sorted({label_of(s) for s in kept}):
        own = [s for s in kept if label_of(s) == score]
        repeats = [(own[i % len(own)], i // len(own) + 2) for i in range(each - len(own))]
        more += [replace(sample, id=f"{sample.id}-{time}") for sample, time in repeats]
    return kept + more


def split_file(place: Path, split: str) -> Path | None:
    """Returns the file of a split; for "train" also the only file that no other split has. None where there is none."""
    if place.is_file():
        return place if split == "train" else None
    found = sorted(f for f in place.glob("*") if f.suffix.lower() in SUFFIXES and f.stem not in ("passport", "world"))
    names = {f: f.stem.rpartition("_")[2] for f in found}
    named = [f for f in found if names[f] == split]
    free = [f for f in found if names[f] not in SPLITS]
    return named[0] if named else free[0] if split == "train" and len(free) == 1 else None


def load(config: Config) -> loading.Splits:
    """Returns train, validation, and test where there is one. Raises DataError for what cannot be used."""
    stated, bound = loading.custom(config, **OPTIONS), loading.contract(config)
    place, problems = ROOT / config[f"{loading.TRAIN}.name"], []
    if not (file := split_file(place, "train")):
        raise DataError(f"{config.name}: {place} has no train.csv (or .parquet, .jsonl) with video_url and pc")
    options = {"media": loading.media(config), **{k: stated[k] for k in ("numbered", "question") if k in stated}}
    train = read(file, bound, problems, **options)
    if own := split_file(place, "validation"):
        validation = read(own, bound, problems, **options)
    else:
        train, validation = loading.held_out(config, train, config[f"{loading.TRAIN}.test_size"])
    # numbered clips are those of the training rows alone
    own = None if stated.get("numbered") else split_file(place, "test")
    test = read(own, bound, problems, **options) if own else []
    train = even(train) if stated.get("balance") else train  # before what the passport says, which sees it so
    return loading.finish(config, place, train, validation, problems, test)


if __name__ == "__main__":
    serve(load)
