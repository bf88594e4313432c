"""Controls: the same questions with less to see, or with their choices in another order.

Why: an accuracy means "it looks and understands" only if it falls when the clip is taken away, its frames are mixed up
or stand still, and if it does not come from a liking for the letter C. Each control changes the samples, or the frames
that the encoder sees; the same `predict` answers it.

    predict(model, encoder, blind(items), "rl, blind")
    predict(model, with_frames(encoder, shuffled), items, "rl, shuffled frames")
    circular_score(predict(model, encoder, circular(items), "rl, rotated"))
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cookbook.data.answers import choices_of, listed_choices
from cookbook.data.samples import MEDIA, Sample, message, text
from cookbook.evaluation.metrics.choices import letter_bias
from cookbook.evaluation.scores import by_field

if TYPE_CHECKING:
    from torch import Tensor

    from cookbook.data.encoder import Encoder

TURN = "#turn"  # marks a rotated sample's id


def blind(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the samples without clips and images: what is still right, the words give away."""

    def words(turn: Mapping[str, Any]) -> dict:
        return message(turn["role"], *(part for part in turn["content"] if part["type"] not in MEDIA))

    return [replace(s, messages=tuple(map(words, s.messages))) for s in samples]


def other_clips(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the samples, each asked of another clip; those of one clip of the next one, the one after it, and so on.

    One partner for all of a clip's questions would be a draw of its own: two clips may show the same by luck, and be
    right together. Images meet images, and a sample meets nothing that it shows itself; left out is one that no other
    clip, or none at all, is there for.
    """
    rings: dict[str, dict[Path, int]] = {}  # {kind: {path: its place}}
    for kind, path in (shown for sample in samples for shown in sample.media()):
        (ring := rings.setdefault(kind, {})).setdefault(path, len(ring))
    order, asked, found = {kind: [*ring] for kind, ring in rings.items()}, Counter(), []
    for sample in samples:
        shown = frozenset(sample.media())
        most = min((len(order[kind]) for kind, _ in shown), default=0)
        own = {(rings[kind][other] - rings[kind][path]) % len(order[kind])
               for kind, path in shown for same, other in shown if same == kind}  # fmt: skip
        if free := most - sum(step < most for step in own):
            steps = (step for step in range(most) if step not in own)
            step = next(islice(steps, asked[shown] % free, None))
            meets = {path: order[kind][(rings[kind][path] + step) % len(order[kind])] for kind, path in shown}
            found.append(sample.with_media(meets))
            asked[shown] += 1
    return found


def single_frame(frames: "Tensor", seed: int) -> "Tensor":
    """Returns a clip whose frames are all its middle one: as many tokens, no motion."""
    return frames[len(frames) // 2].expand_as(frames).clone()


def shuffled(frames: "Tensor", seed: int) -> "Tensor":
    """Returns a clip's frames in another order, drawn by the seed: everything there, no before and after."""
    places = list(range(len(frames)))
    while len(frames) > 1 and places == sorted(places):
        random.Random(seed).shuffle(places)
        seed += 1
    return frames[places]


def with_frames(encoder: "Encoder", change: Callable[["Tensor", int], "Tensor"]) -> "Encoder":
    """Returns an encoder that sees clips through `change(frames, seed)`: `single_frame`, `shuffled`, or your own.

    The seed is the clip's own, so that a clip looks the same each time. Rows name the change in `decoding`.
    """
    other = type(encoder)(encoder.processor, encoder.contract, encoder.config)

    def frames(path):
        found, *rest = encoder.frames(path)
        return change(found, int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)), *rest

    other.frames, other.variant = frames, change.__name__
    return other


def circular(samples: Sequence[Sample]) -> list[Sample]:
    """Returns each sample once per turn of its choices: (A) rain (B) snow becomes (A) snow (B) rain, its answer moved.

    Ids get "#turn0", "#turn1", …; written answers are left out. Samples whose question lists no choices come once.
    """
    turned = []
    for sample in samples:
        texts = choices_of(sample.question)[1]
        letters, words = list(texts), list(texts.values())
        listed = letters == list(sample.options) and sample.answer in letters
        turned.append(replace(sample, id=f"{sample.id}{TURN}0", messages=sample.prompt))
        for by in range(1, len(letters) if listed else 1):
            moved = dict(zip(letters, words[by:] + words[:by]))
            messages = tuple(_with_choices(turn, moved) for turn in sample.prompt)
            answer = letters[letters.index(sample.answer) - by]
            turned.append(replace(sample, id=f"{sample.id}{TURN}{by}", messages=messages, answer=answer))
    return turned


def _with_choices(turn: Mapping[str, Any], texts: Mapping[str, str]) -> dict:
    """Returns a user's turn with other words behind its letters; every other character stays."""

    def exchange(part: Mapping[str, Any]) -> Mapping[str, Any]:
        if turn["role"] != "user" or part["type"] != "text":
            return part
        words = part["text"]
        for choice in reversed(listed_choices(words)):
            words = words[: choice.start(2)] + texts[choice[1]] + words[choice.end(2) :]
        return text(words)

    return message(turn["role"], *map(exchange, turn["content"]))


def circular_score(rows: Sequence[Mapping[str, Any]]) -> dict:
    """Returns n (items), accuracy (mean over turns), circular (share right in every turn), and the letter bias.

    "Right in every turn" is CircularEval (MMBench, Liu et al. 2023): a guesser among four earns 1/256.
    """
    items = list(by_field(rows, lambda row: row["id"].rpartition(TURN)[0]).values())
    turned = [part for part in items if len(part) > 1] or items
    return {
        "n": len(items),
        "accuracy": fmean(fmean(row["correct"] for row in part) for part in items),
        "circular": fmean(all(row["correct"] for row in part) for part in items),
        "bias": letter_bias([row for part in turned for row in part]),
    }
