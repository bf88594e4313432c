"""The checks of the passport: each looks at the samples and the facts of their clips, and yields what is wrong.

Why: a dataset fails in many small ways, so there are many small checks. A check yields pairs of a finding and the items
that it keeps out of training and evaluation (none for a mere warning). A clip that stands in two splits stays where it
is worth most: test before validation before training. Used by `data_tools.passport`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cookbook.data.samples import DataError, Sample
from data_tools.formats.source import safe_id, shown
from data_tools.passport.clips import ClipFacts
from data_tools.passport.findings import ERROR, WARNING, Finding

# re-encoding moves a value of a clip's look by at most 12 of 255 (quality 28 to 45, half the size, 5 % darker, measured
# on 60 clips of the road world); any two of its 500 different clips were at least 22 apart
NEAR = 12
COUNTER = re.compile(r"(.*/)?[A-Za-z]{0,12}[-_ ]?\d{1,6}")  # a clip's name that any other data set has too
DOMINANT = 0.8  # a label that more than this share of a split carries

Media = tuple[tuple[str, Path], ...]
Facts = Mapping[tuple[str, Path], ClipFacts]
Count = Callable[[Sample, Sequence[ClipFacts]], tuple[int, int]]


@dataclass(frozen=True)
class Item:
    """One sample of a split, with what it shows, asks and answers; `broken` says why it is no sample at all.

    `control` is the control token that its words hold.
    """

    split: str
    sample: Sample
    media: Media = ()
    prompt: Sequence[Mapping[str, Any]] = ()
    target: str | None = None
    broken: str = ""
    control: str = ""
    tokens: tuple[int, int] | None = None  # of prompt and answer, where they were counted

    @property
    def name(self) -> str:
        return f"{self.split}/{shown(str(self.sample.id))}"


Check = Iterator[tuple[Finding, Sequence[Item]]]


def items_of(samples: Mapping[str, Sequence[Sample]]) -> list[Item]:
    """Returns every sample as an item; one whose messages are not in the chat format is marked as broken."""
    found = []
    for split, rows in samples.items():
        for sample in rows:
            try:
                item = Item(split, sample, tuple(sample.media()), sample.prompt, sample.target, control=sample.steers())
            except (IndexError, KeyError, TypeError, AttributeError) as error:
                item = Item(split, sample, broken=f"{type(error).__name__}: {error}")
            found.append(item)
    return found


def check_samples(items: Sequence[Item]) -> Check:
    """Yields samples that are no conversations, say nothing, or state an answer that is not among the options."""
    for item in items:
        sample, target = item.sample, item.target
        if item.broken:
            words = f"its messages are not in the chat format ({item.broken})"
            yield Finding("sample", ERROR, words, item.name, item.split), [item]
            continue
        if item.control:
            words = f"its text holds the control token {item.control}, which would steer the model; write it otherwise"
            yield Finding("control-token", ERROR, words, item.name, item.split), [item]
        if target is None and sample.answer is None:
            words = "has neither a target to learn nor a reference answer"
            yield Finding("empty-target", ERROR, words, item.name, item.split), [item]
        elif (target is not None and not target.strip()) or (sample.answer is not None and not sample.answer.strip()):
            yield Finding("empty-target", ERROR, "its target or answer is empty", item.name, item.split), [item]
        if sample.options and sample.answer is not None and sample.answer not in sample.options:
            words = f"its answer {shown(sample.answer)!r} is none of the options {', '.join(sample.options)}"
            yield Finding("answer", ERROR, words, item.name, item.split), [item]


def check_ids(items: Sequence[Item]) -> Check:
    """Yields ids that are unsafe as file names, and ids that stand for more than one sample."""
    same: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        same[item.split, str(item.sample.id)].append(item)
        try:
            safe_id(item.sample.id)  # what the loaders ask too
        except DataError as error:
            yield Finding("unsafe-id", ERROR, str(error), item.name, item.split), [item]
    for (split, _), twins in same.items():
        if len(twins) > 1:
            words = f"{len(twins)} samples have this id, so their results cannot be told apart; give each its own"
            yield Finding("duplicate-id", ERROR, words, twins[0].name, split), twins


def check_clips(items: Sequence[Item], facts: Facts, folder: Path | None) -> Check:
    """Yields the findings of each clip, once; an error keeps out every sample that shows the clip."""
    users = _users(items)
    for medium, found in facts.items():
        name, split = shown(found.path, folder), " ".join(dict.fromkeys(item.split for item in users[medium]))
        for finding in found.findings:
            yield replace(finding, name=name, split=split), users[medium] if finding.severity == ERROR else []


def check_leaks(items: Sequence[Item], facts: Facts, folder: Path | None, near: int) -> Check:
    """Yields what stands in two splits: by group, by content, or (a warning, but kept out too) by look."""
    ranks, users, groups, told = _ranks(items), _users(items), defaultdict(list), set()
    for item in items:
        groups[item.sample.group].append(item)
    for group, sharers in groups.items():
        if len({item.split for item in sharers}) > 1 and not _only_named_alike(str(group), sharers):
            told.add(group)
            yield _leak(sharers, f"the group {shown(str(group))}", ERROR, ranks)
    for media in _same(facts):
        sharers = [item for medium in media for item in users[medium]]
        if len({item.split for item in sharers}) > 1 and not _is_told(sharers, told):
            yield _leak(sharers, f"the same clip ({_names(media, facts, folder)})", ERROR, ranks)
    for one, other, distance in _alike(users, facts, near, ranks, told):
        names = _names([one, other], facts, folder)
        words = f"a clip that looks the same ({names}: no value is more than {distance} of 255 apart)"
        yield _leak(users[one] + users[other], words, WARNING, ranks)


def _only_named_alike(group: str, sharers: Sequence[Item]) -> bool:
    """Whether a group is the number of other clips in each split, 0007.mp4 or clip_12.mp4; content is looked at."""
    shown_in = {item.media[0][1]: item.split for item in sharers if item.media}
    counted = COUNTER.fullmatch(group) and all(f"/{group}." in clip.as_posix() for clip in shown_in)
    return bool(counted) and all(item.media and shown_in[item.media[0][1]] == item.split for item in sharers)


def _is_told(items: Sequence[Item], told: Collection[str]) -> bool:
    """Whether all are of one group that has been told already."""
    return len(groups := {item.sample.group for item in items}) == 1 and groups <= told


def _ranks(items: Sequence[Item]) -> dict[str, int]:
    """Returns the splits in the order of their worth, training first; of equal ones the first named first."""

    def worth(split: str) -> int:
        return 0 if split.lower().startswith("train") else 1 if split.lower().startswith(("val", "dev")) else 2

    splits = dict.fromkeys(item.split for item in items)
    return {split: rank for rank, split in enumerate(sorted(splits, key=worth))}


def _leak(sharers: Sequence[Item], what: str, severity: str, ranks: Mapping[str, int]) -> tuple[Finding, list[Item]]:
    """Returns the finding, and the items of all splits but the one that is worth most."""
    splits = sorted({item.split for item in sharers}, key=ranks.__getitem__)
    out = [item for item in sharers if item.split != splits[-1]]
    words = f"{what} stands in {' and '.join(splits)}; kept in {splits[-1]}"
    return Finding("leak" if severity == ERROR else "near-leak", severity, words, out[0].name, out[0].split), out


def _alike(users: Mapping, facts: Facts, near: int, ranks: Mapping[str, int], told: Collection[str]) -> Iterator[tuple]:
    """Yields (clip, clip of a split that is worth more, distance) where their looks are at most `near` apart.

    Each clip is told once, with the nearest. Only clips whose mean brightness is within `near` need comparing: no mean
    differs by more than the largest difference.
    """
    media = [m for m, found in facts.items() if m[0] == "video" and found.look and found.usable]
    if near <= 0 or len({item.split for medium in media for item in users[medium]}) < 2:
        return
    looks = np.array([np.frombuffer(bytes.fromhex(facts[m].look), np.uint8) for m in media]).astype(np.int16)
    order = np.argsort(looks.mean(axis=1), kind="stable")
    media, looks = [media[i] for i in order], looks[order]
    means, contents = looks.mean(axis=1), np.array([facts[m].sha256 for m in media])
    lowest, highest = (np.array([f(ranks[x.split] for x in users[m]) for m in media]) for f in (min, max))
    for i, one in enumerate(media):
        first = np.searchsorted(means, means[i] - near, side="left")
        others = np.arange(first, np.searchsorted(means, means[i] + near, side="right"))
        others = others[(highest[others] > lowest[i]) & (contents[others] != contents[i])]
        apart = np.abs(looks[others] - looks[i]).max(axis=1, initial=0)
        for k in np.argsort(apart, kind="stable")[: np.count_nonzero(apart <= near)]:
            other = media[others[k]]
            if not _is_told(users[one] + users[other], told):
                yield one, other, int(apart[k])
                break


def _same(facts: Facts) -> list[list[tuple[str, Path]]]:
    contents = defaultdict(list)
    for medium, found in facts.items():
        if found.sha256:
            contents[found.sha256].append(medium)
    return [media for media in contents.values() if len(media) > 1]


def _names(media: Sequence[tuple[str, Path]], facts: Facts, folder: Path | None) -> str:
    names = sorted(shown(facts[medium].path, folder) for medium in media)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_duplicates(items: Sequence[Item], facts: Facts, folder: Path | None) -> Check:
    """Yields (warnings) contents that lie under several names, and one question to one clip with two answers."""
    answers = defaultdict(list)
    for media in _same(facts):
        first, *others = sorted(media, key=lambda medium: shown(facts[medium].path, folder))
        words = f"the same content as {_names(others, facts, folder)}"
        yield Finding("duplicate-clip", WARNING, words, shown(facts[first].path, folder)), []
    for item in items:
        if not item.broken:
            answers[item.split, _question(item, facts)].append(item)
    for (split, _), asked in answers.items():
        if len({(item.target, item.sample.answer) for item in asked}) > 1:
            words = f"the same question about the same clip has another answer in {asked[1].name}"
            yield Finding("contradiction", WARNING, words, asked[0].name, split), []


def _question(item: Item, facts: Facts) -> tuple:
    """Returns what the model is shown, so that equal questions about equal contents are equal."""
    words = tuple(p["text"] for m in item.prompt for p in m["content"] if p["type"] == "text")
    return words, tuple(facts[medium].sha256 or str(medium[1]) for medium in item.media)


def check_token_lengths(items: Sequence[Item], max_length: int | None) -> Check:
    """Yields every sample that is longer than `max_length`, and how much of its answer would be cut off."""
    for item in items:
        prompt, answer = item.tokens or (0, 0)
        over = prompt + answer - max_length if max_length else 0
        if over > 0:
            lost = "all" if over >= answer else f"the last {over}"
            words = f"{prompt} + {answer} tokens, the limit is {max_length}: {lost} of its answer would be cut off"
            yield Finding("too-long", ERROR, words, item.name, item.split), [item]


def check_balance(labels: Mapping[str, Counter], answers: Mapping[str, Mapping[tuple, Counter]]) -> Check:
    """Yields (warnings) labels that dominate a split, and option letters that are right more often than by chance."""
    for split, counts in labels.items():
        label, most = max(counts.items(), key=lambda pair: pair[1], default=("", 0))
        if (total := counts.total()) >= 10 and most > DOMINANT * total:
            words = f"{most} of {total} samples have the label {shown(label)!r}"
            yield Finding("unbalanced", WARNING, words, split, split), []
    for split, sets in answers.items():
        for options, counts in sets.items():
            (letter, most), total, chance = counts.most_common(1)[0], counts.total(), 1 / len(options)
            # three standard deviations above an even draw, so that a small set alone is no finding
            if len(options) > 1 and most / total > chance + 3 * (chance * (1 - chance) / total) ** 0.5:
                words = f"{shown(letter)!r} is right in {most} of {total} questions with {len(options)} options"
                yield Finding("answer-habit", WARNING, words, split, split), []


def _users(items: Sequence[Item]) -> dict[tuple[str, Path], list[Item]]:
    users: dict = defaultdict(list)
    for item in items:
        for medium in dict.fromkeys(item.media):
            users[medium].append(item)
    return users
