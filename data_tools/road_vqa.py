"""The loader of the toy road world: folders of clips and labels become samples.

Why: training, rollout and evaluation must see the same questions. This file is the one place that makes them.

    samples = load(folder, "train")
"""

import json
from pathlib import Path

import numpy as np

from cookbook.contract import write_answer
from cookbook.samples import Sample, message, text, video
from data_tools.road_questions import questions
from data_tools.road_world import LABEL_SUFFIX, VIDEO_SUFFIX

HURRIED_ERRORS = 0.25  # of the answers that stand without reasoning


def load(folder: Path, split: str, seed: int = 0, reasoned: float = 1.0) -> list[Sample]:
    """Returns all samples of a split, in the order of their clips.

    Not every annotator takes the time: `reasoned` is the share of targets with written reasoning. The others are a bare
    answer in the same format, and one in four of those is wrong, as hurried labels are. The reference `answer` is right
    in any case. Which target is which depends on the seed and the sample only.
    Raises FileNotFoundError where the split is missing or a label has no video, ValueError where it is empty.
    """
    root = Path(folder) / split
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such split; make one with: python -m data_tools.road_world {folder}")
    samples = []
    for meta in sorted((root / "metas").glob(f"*{LABEL_SUFFIX}")):
        clip = meta.name.removesuffix(LABEL_SUFFIX)
        path = root / "videos" / f"{clip}{VIDEO_SUFFIX}"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the label {meta.name} has no video")
        for q in questions(json.loads(meta.read_text(encoding="utf-8")), seed):
            target = write_answer(q.reasoning, q.answer)
            annotator = np.random.default_rng([seed, *q.id.encode()])
            if annotator.random() >= reasoned:
                slip = annotator.random() < HURRIED_ERRORS
                others = [option for option in q.options if option != q.answer]
                target = write_answer("", str(annotator.choice(others)) if slip else q.answer)
            turns = (message("user", video(path), text(q.text)), message("assistant", text(target)))
            samples.append(Sample(q.id, q.clip, turns, q.answer, q.options, label=q.answer, task=q.task))
    if not samples:
        raise ValueError(f"{root}: holds no labels in metas/*{LABEL_SUFFIX}")
    return samples
