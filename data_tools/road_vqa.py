"""Loader of the toy road world: clips and labels become questions with written answers.

Why: training, rollout and evaluation must see the same questions. This file is the one place that makes them.

    python data_tools/road_vqa.py --config configs/tiny_sft.toml --check
    samples = read(folder, "test", contract)

`[custom] reasoned` is the share of targets with written reasoning, `clips` takes only so many training clips.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text, video
from cookbook.runs import ROOT, named, read_json
from data_tools import loading
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.loading.engine import serve
from data_tools.worlds import STAMP, road
from data_tools.worlds.road_questions import questions

CLIPS = {"train": 480, "validation": 40, "test": 120}
OPTIONS = {"clips": int, "reasoned": float}
HURRIED_ERRORS = 0.25  # of the answers that stand without reasoning


def make(config: Config, folder: Path, seed: int) -> Config:
    """Returns the configuration bound to the clips in a job's data folder, which are built where they are missing."""
    return config.edit({f"{loading.TRAIN}.name": named(world(folder, seed))})


def world(folder: Path, seed: int = 0, clips: Mapping[str, int] | None = None) -> Path:
    """Returns the folder with its clips: built where it is empty, or where `clips` asks for other sizes.

    Raises ValueError where the folder holds the clips of another seed or another version of the world: a comparison
    across them would mean nothing.
    """
    stamp = folder / STAMP
    if clips is not None or not stamp.exists():
        (folder / loading.PASSPORT).unlink(missing_ok=True)  # it was that of other clips
        return road.build(folder, dict(clips or CLIPS), seed)
    found = read_json(stamp, ("seed", "version"))
    for key, wanted in (("seed", seed), ("version", road.VERSION)):
        if found[key] != wanted:
            was = f"{named(folder)} holds clips of {key} {found[key]}, not {wanted}"
            raise ValueError(f"{was}; give another job name, or delete {named(folder.parent)}")
    return folder


def load(config: Config) -> dict[str, list[Sample]]:
    """Returns {"train": …, "validation": …, "test": …}. Raises DataError for what cannot be used."""
    stated = loading.custom(config, **OPTIONS)
    folder, contract = ROOT / config[f"{loading.TRAIN}.name"], loading.contract(config)
    train = first_clips(read(folder, "train", contract, stated.get("reasoned", 1.0)), stated.get("clips", -1))
    test = read(folder, "test", contract) if (folder / "test").is_dir() else []
    return loading.finish(config, folder, train, read(folder, "validation", contract), test=test)


def first_clips(samples: list[Sample], count: int) -> list[Sample]:
    """Returns the samples of the first `count` clips, in the order of their names; of all where it is negative."""
    kept = set(sorted({s.group for s in samples})[: None if count < 0 else count])
    return [s for s in samples if s.group in kept]


def read(folder: Path, split: str, contract: Contract, reasoned: float = 1.0) -> list[Sample]:
    """Returns all samples of a split, in the order of their clips; targets in the contract's answer format.

    Not every annotator takes the time: `reasoned` is the share of targets with written reasoning. The others are a bare
    answer in the same format, and one in four of those is wrong, as hurried labels are. The reference `answer` is right
    in any case. Which target is which depends on the world's seed and the sample only.
    Raises FileNotFoundError where the split is missing or a label has no video, ValueError where it is empty.
    """
    root = Path(folder) / split
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such split; make one with: python -m data_tools.worlds.road {folder}")
    seed = read_json(Path(folder) / STAMP, ("seed",))["seed"]
    samples = []
    for meta in sorted((root / "metas").glob(f"*{LABEL_SUFFIX}")):
        clip = meta.name.removesuffix(LABEL_SUFFIX)
        path = root / "videos" / f"{clip}{VIDEO_SUFFIX}"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the label {meta.name} has no video")
        for q in questions(read_json(meta), seed):
            target = contract.write_answer(q.reasoning, q.answer)
            annotator = np.random.default_rng([seed, *q.id.encode()])
            if annotator.random() >= reasoned:
                slip = annotator.random() < HURRIED_ERRORS
                others = [option for option in q.options if option != q.answer]
                target = contract.write_answer("", str(annotator.choice(others)) if slip else q.answer)
            turns = (message("user", video(path), text(q.text)), message("assistant", text(target)))
            samples.append(Sample(q.id, q.clip, turns, q.answer, q.options, label=q.answer, task=q.task))
    if not samples:
        raise ValueError(f"{root}: holds no labels in metas/*{LABEL_SUFFIX}")
    return samples


if __name__ == "__main__":
    serve(load)
