"""Splits, balance and subsets of samples, by clip and by seed.

Why: a clip that stands in two splits turns an evaluation into a test of memory, and a balancing step that shuffles row
numbers gives answers to other clips' questions. Here whole samples move, clips stay together, and the same seed gives
the same result in whatever order the samples come.

    parts = split_by_clip(samples, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=0)
    even = balance(parts["train"], seed=0).samples
    few = subset(even, "train[:100]")
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from cookbook.config.custom import SLICE
from cookbook.data.samples import DataError, Sample


def _draw(seed: int, name: str) -> str:
    """Returns a number, in digits, that depends on the seed and the name only."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def clusters(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Returns {name: samples} such that no group and no clip stands in two of them.

    Most are one group. Where a sample shows clips of two groups, both are one cluster, named by the first in the
    alphabet.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    samples = list(samples)
    for sample in samples:
        for _, path in sample.media():
            # the smaller root wins: then neither the order of the samples nor the place of the clips matters
            first, second = sorted((root(f"group {sample.group}"), root(f"path {path}")))
            parent[second] = first
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(root(f"group {sample.group}"), []).append(sample)
    return found


def _drawn(samples: Iterable[Sample], seed: int) -> list[list[Sample]]:
    """Returns the clusters in an order that depends on the seed and their names only."""
    found = clusters(samples)
    return [found[name] for name in sorted(found, key=lambda name: _draw(seed, name))]


def split_by_clip(samples: Iterable[Sample], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Sample]]:
    """Returns {split: samples}: every sample once, no group and no clip in two splits, each in the order it came.

    Shares are of clips and add up to 1. Raises DataError where they do not, or where there are fewer clips than splits.
    """
    if not shares or any(not share > 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1):
        raise DataError(f"the shares {dict(shares)} are not above 0 with a sum of 1")
    samples = list(samples)
    if len(order := _drawn(samples, seed)) < len(shares):
        raise DataError(f"{len(order)} clips cannot fill {len(shares)} splits; a clip never stands in two")
    names = (name for name, count in _counts(shares, len(order)).items() for _ in range(count))
    where = {id(sample): name for name, cluster in zip(names, order) for sample in cluster}
    return {name: [sample for sample in samples if where[id(sample)] == name] for name in shares}


def _counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Returns whole numbers that add up to the total: at least one each, the rest by largest remainder."""
    counts = {name: max(1, math.floor(share * total + 1e-9)) for name, share in shares.items()}
    while (gap := total - sum(counts.values())) != 0:
        step = 1 if gap > 0 else -1
        able = [name for name in counts if counts[name] + step > 0]
        counts[max(able, key=lambda name: step * (shares[name] * total - counts[name]))] += step
    return counts


def hold_out(samples: Iterable[Sample], size: int | float, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Returns (kept, held out): whole clips until there are `size` samples, or that share where it is a fraction.

    At least one clip is kept. Raises DataError where there is only one clip, or the size is negative.
    """
    samples = list(samples)
    wanted = size * len(samples) if isinstance(size, float) else size
    if wanted < 0:
        raise DataError(f"cannot hold out {size} samples")
    order = _drawn(samples, seed)
    if wanted and len(order) < 2:
        raise DataError(f"{len(order)} clip cannot be divided into training and validation; state test_size = 0")
    held: set[int] = set()
    for cluster in order[:-1]:
        if len(held) >= wanted:
            break
        held |= {id(sample) for sample in cluster}
    return [r for r in samples if id(r) not in held], [r for r in samples if id(r) in held]


@dataclass(frozen=True)
class Balanced:
    """The samples that are left, and how many there were and are of each label."""

    samples: list[Sample]
    before: Counter[str]
    after: Counter[str]

    def __str__(self) -> str:
        return "\n".join(f"{label}: {self.after[label]} of {count}" for label, count in sorted(self.before.items()))


def label_of(sample: Sample) -> str:
    """Returns what balancing counts: the label, else the reference answer where there are options to choose from."""
    label = sample.answer if sample.label is None and sample.options else sample.label
    if label is None:
        raise DataError(f"{sample.id}: has no label to balance by; name a field of its answer or of the source")
    return label


def balance(samples: Iterable[Sample], seed: int = 0, per_label: int | None = None) -> Balanced:
    """Returns as many samples of each label: of the rarest there are, or `per_label` where that is given.

    Samples are left out, never repeated or changed; a label that has fewer than `per_label` keeps what it has.
    """
    samples = list(samples)
    before = Counter(map(label_of, samples))
    most = min(before.values(), default=0) if per_label is None else per_label
    taken, kept = Counter(), set()
    for sample in sorted(samples, key=lambda r: (_draw(seed, r.id), r.id)):
        if taken[label_of(sample)] < most:
            taken[label_of(sample)] += 1
            kept.add(id(sample))
    return Balanced([r for r in samples if id(r) in kept], before, taken)


def label_by(samples: Iterable[Sample], field: str) -> list[Sample]:
    """Returns the samples labelled by a field: of the source (`extra`), else of an answer that is JSON."""
    return [replace(sample, label=_field(sample, field)) for sample in samples]


def _field(sample: Sample, field: str) -> str:
    found = sample.extra
    if field not in found:
        with suppress(ValueError):
            found = json.loads(sample.target or "null")
    if not isinstance(found, Mapping) or field not in found:
        raise DataError(f"{sample.id}: has no field {field!r}, neither beside the conversation nor in a JSON answer")
    return str(found[field])


def useful_field(samples: Iterable[Sample]) -> str:
    """Returns the field that divides the samples best: 2 to 10 values, the rarest as frequent as can be; "" for none.

    Fields are those of a JSON answer and of the source; what differs from sample to sample, as an id does, divides
    nothing. Samples with labels or options of their own need none.
    """
    samples = list(samples)
    if all(sample.label is not None or (sample.options and sample.answer) for sample in samples):
        return ""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        found = dict(sample.extra)
        with suppress(ValueError, TypeError):
            found |= json.loads(sample.target or "null")
        for name, value in found.items():
            values[name][str(value)] += 1
    useful = {
        name: min(counts.values())
        for name, counts in values.items()
        if counts.total() == len(samples) and 2 <= len(counts) <= min(10, len(samples) // 2)
    }
    return max(useful, key=useful.get, default="")


def subset(samples: Iterable[Sample], spec: str) -> list[Sample]:
    """Returns the part that a slice of the `datasets` library names: "train[:100]", "[10:20]", "[-5:]", "[:10%]".

    A name before the slice is not looked at. Raises DataError for any other text.
    """
    samples = list(samples)
    match = SLICE.fullmatch(spec)
    if not match or not spec:
        raise DataError(f"{spec!r} is no subset; write [:100], [10:20] or [:10%]")
    edges = [edge for edge in match.groups() if edge]
    percent = {edge.endswith("%") for edge in edges}
    if len(percent) > 1 or (True in percent and any(abs(int(edge[:-1])) > 100 for edge in edges)):
        raise DataError(f"{spec!r} mixes percent with numbers, or asks for more than 100 %")
    total, units = (len(samples), 100) if True in percent else (1, 1)
    return samples[slice(*(edge and round(int(edge.rstrip("%")) * total / units) for edge in match.groups()))]
