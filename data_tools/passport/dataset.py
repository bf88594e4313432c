"""The passport of a dataset, made: every clip read once, every sample compared, the findings gathered."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cookbook.data.samples import DataError, Sample
from data_tools.formats import av_folder
from data_tools.formats.source import shown
from data_tools.passport import checks
from data_tools.passport.checks import Count, Facts, Item
from data_tools.passport.clips import CACHE, inspect_all
from data_tools.passport.findings import ERROR, WARNING, Finding, Limits
from data_tools.passport.result import Passport, Quarantined


class Layout(NamedTuple):
    """What a folder of the guide's layout holds: samples by split, and findings with the samples that they cost."""

    samples: dict[str, list[Sample]]
    found: list[tuple[Finding, Sequence[Item]]]


def read_layout(
    folder: str | Path, *, splits: Sequence[str] | None = None, label: str | None = None, **suffixes: str
) -> Layout:
    """Pair the clips and labels of a folder. Returns a sample for each whole pair, a finding for everything else.

    `splits` names the subfolders to look into; without it they are found. `label` names the field of the label that
    balancing counts, `suffixes` are those of `av_folder.pairs`. Raises DataError where there is no such layout at all.
    """
    layout = Layout({}, [])
    for split, home in av_folder.splits(Path(folder), splits).items():
        samples = layout.samples[split] = []
        for pair in av_folder.pairs(home, **suffixes):
            name, counted = shown(pair.file, folder), pair.label.get(label)
            if pair.code == "stray":
                layout.found.append((Finding("stray", WARNING, pair.wrong, name, split), []))
            elif pair.code:
                lost = Item(split, Sample(pair.id, pair.id, ()))
                layout.found.append((Finding(pair.code, ERROR, pair.wrong, name, split), [lost]))
            else:
                sample = av_folder.sample(pair.id, str(pair.video.absolute()), av_folder.caption(pair.label))
                samples.append(replace(sample, label=None if counted is None else str(counted)))
    return layout


def passport(
    samples: Mapping[str, Sequence[Sample]] | None = None,
    *,
    folder: str | Path | None = None,
    splits: Sequence[str] | None = None,
    layout: Layout | None = None,
    problems: Iterable[tuple[str, str]] = (),
    limits: Limits = Limits(),  # noqa: B008 - frozen
    max_length: int | None = None,
    count_tokens: Count | None = None,
    near: int = checks.NEAR,
    cache: str | Path | None = CACHE,
    workers: int = 2,
) -> Passport:
    """Check a dataset: `samples` by split, or a `folder` of the guide's layout (`splits`: its subfolders), or both.

    With `folder`, names are relative to it and clips outside of it are refused. `layout` is what `read_layout` found in
    it: its leftovers count too. `problems` are (file or row, reason) that a loader left out.
    `count_tokens(sample, facts)` returns (prompt, answer) tokens, `facts` in the order of the sample's media. `near` is
    how far apart (of 255) two looks may be to count as one clip; 0: not compared.
    Raises DataError where there is nothing to check: no samples given, and no such folder.
    """
    if samples is None and folder is None:
        raise DataError("a passport needs samples, or a folder that holds videos/ and metas/")
    folder = Path(folder) if folder is not None else None
    if samples is None:
        layout = layout or read_layout(folder, splits=splits)
        samples = layout.samples
    items = checks.items_of(samples)
    facts = _read(items, folder=folder, limits=limits, cache=cache, workers=workers)
    tokens, uncounted = _count(items, facts, count_tokens)
    found = [
        *(layout.found if layout else ()),
        *_checks(items, facts, folder, near),
        *uncounted,
        *checks.check_lengths(items, tokens, max_length),
    ]
    quarantine = _quarantine(found)
    out = {(q.split, q.id) for q in quarantine}
    good = [item for item in items if (item.split, str(item.sample.id)) not in out]
    labels, answers = _balance(samples, good)
    found += checks.check_balance({split: n for split, n in labels.items() if n}, answers)
    findings = [finding for finding, _ in found]
    findings += [Finding("left-out", ERROR, shown(reason), shown(name)) for name, reason in problems]
    findings += [
        Finding("no-samples", ERROR, "holds no sample", split, split) for split in samples if not samples[split]
    ]
    return Passport(
        facts=tuple(facts[medium] for medium in sorted(facts, key=lambda m: (str(m[1]), m[0]))),
        findings=tuple(sorted(findings, key=lambda f: (f.severity, f.name, f.code, f.message, f.split))),
        quarantine=quarantine,
        counts={split: _counts(split, items, good, facts, tokens, answers.get(split, {})) for split in samples},
        labels=labels,
        answers={split: sum(sets.values(), Counter()) for split, sets in answers.items()},
        tokens={
            split: [tokens[i] for i, x in enumerate(items) if x.split == split and i in tokens] for split in samples
        },
        digests={split: _digest([item for item in items if item.split == split], folder) for split in samples},
        max_length=max_length,
        decode_seconds={split: _decode_seconds(split, good, facts) for split in samples},
        folder=folder,
    )


def _checks(items: Sequence[Item], facts: Facts, folder: Path | None, near: int) -> checks.Check:
    yield from checks.check_samples(items)
    yield from checks.check_ids(items)
    yield from checks.check_clips(items, facts, folder)
    yield from checks.check_duplicates(items, facts, folder)
    yield from checks.check_leaks(items, facts, folder, near)


def _read(items: Sequence[Item], *, folder: Path | None, **how) -> Facts:
    """Returns the facts of each clip and image that any sample shows, each read once."""
    media = list(dict.fromkeys(medium for item in items for medium in item.media))
    facts = {}
    for kind in dict.fromkeys(kind for kind, _ in media):
        paths = [path for other, path in media if other == kind]
        facts |= {(kind, f.path): f for f in inspect_all(paths, kind=kind, folder=folder, **how)}
    return facts


def _count(items: Sequence[Item], facts: Facts, count: Count | None) -> tuple[dict[int, tuple[int, int]], list]:
    """Returns {place of the item: (prompt, answer) tokens}, and findings for what cannot be counted."""
    tokens, failed = {}, []
    for place, item in enumerate(items if count else ()):
        seen = [facts[medium] for medium in item.media]
        if item.broken or not all(found.usable for found in seen):
            continue
        try:
            tokens[place] = count(item.sample, seen)
        except (ValueError, KeyError, TypeError) as error:
            words = f"its tokens cannot be counted ({shown(str(error))})"
            failed.append((Finding("tokens", ERROR, words, item.name, item.split), [item]))
    return tokens, failed


def _quarantine(found: Iterable[tuple[Finding, Sequence[Item]]]) -> tuple[Quarantined, ...]:
    """Returns each sample to leave out, once, with all its reasons."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for finding, out in found:
        for item in out:
            about = "" if finding.name == item.name else f"{finding.name}: "
            reasons[item.split, str(item.sample.id)].append(f"{finding.code}: {about}{finding.message}")
    return tuple(Quarantined(*key, "; ".join(dict.fromkeys(reasons[key]))) for key in sorted(reasons))


def _balance(samples: Iterable[str], good: Sequence[Item]) -> tuple[dict[str, Counter], dict[str, dict]]:
    """Returns how often each label occurs, by split; and each right option, by split and set of options."""
    labels = {split: Counter() for split in samples}
    answers: dict[str, dict[tuple, Counter]] = {split: defaultdict(Counter) for split in samples}
    for item in good:
        if item.sample.label is not None:
            labels[item.split][item.sample.label] += 1
        if item.sample.options and item.sample.answer is not None:
            answers[item.split][item.sample.options][item.sample.answer] += 1
    return labels, answers


def _counts(split: str, items, good, facts: Facts, tokens: Mapping, answers: Mapping[tuple, Counter]) -> dict[str, Any]:
    """Returns the figures of one split; the majority: how often the most frequent option of each kind is right."""
    mine = [item for item in good if item.split == split]
    media = dict.fromkeys(medium for item in mine for medium in item.media)
    asked = sum(counts.total() for counts in answers.values())
    lengths = [sum(tokens[i]) for i, item in enumerate(items) if item.split == split and i in tokens]
    return {
        "samples": sum(item.split == split for item in items),
        "usable": len(mine),
        "clips": len(media),
        "seconds": round(sum(facts[medium].seconds for medium in media), 3),
        "majority": round(sum(max(c.values()) for c in answers.values()) / asked, 4) if asked else None,
        "longest": max(lengths, default=None),
    }


def _decode_seconds(split: str, good: Sequence[Item], facts: Facts) -> float:
    return sum(facts[medium].decode_seconds for item in good if item.split == split for medium in item.media)


def _digest(items: Sequence[Item], folder: Path | None) -> str:
    """Returns the SHA-256 of a split's samples, with files named relative to the folder."""
    digest = hashlib.sha256()
    for item in items:
        names = {str(path): shown(path, folder) for _, path in item.media}
        digest.update(json.dumps(_plain(vars(item.sample), names), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _plain(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part, names) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value
