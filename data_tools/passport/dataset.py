"""The passport of a dataset, made: every clip read once, every sample compared, the findings gathered.

Why: here facts, samples and checks meet. Used by `python -m data_tools.passport`, the pipeline and data.ipynb.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cookbook.data.samples import DataError, Sample
from data_tools import formats
from data_tools.formats import av_folder, hub
from data_tools.formats.source import shown
from data_tools.passport import checks
from data_tools.passport.checks import Count, Facts, Item
from data_tools.passport.clips import inspect_all
from data_tools.passport.findings import ERROR, WARNING, Finding
from data_tools.passport.result import Passport, Quarantined


class Layout(NamedTuple):
    """What is to be checked: samples by split, and findings of their folder with the samples that they cost."""

    folder: Path | None
    samples: Mapping[str, Sequence[Sample]]
    found: Sequence[tuple[Finding, Sequence[Item]]] = ()


def read_layout(
    folder: str | Path,
    *,
    format: str = "",
    splits: Sequence[str] | None = None,
    label: str | None = None,
    **options: Any,
) -> Layout:
    """Read a dataset of any format that a loader takes. Returns a sample for each whole row, findings for the others.

    `splits` names the subfolders of the guide's layout to look into; without it they are found. `label` names the field
    of the label or row that balancing counts; `options` are those of `av_folder.pairs`, or of another format's `read`.
    Raises DataError where nothing is recognised.
    """
    place = Path(folder).resolve()
    if (name := format or ("av_folder" if splits else format_of(folder))) == "av_folder":
        return _pairs(Path(folder), splits, label, options)
    subset = options.get("subset") or ""
    there = {split: home for split in formats.SPLITS if (home := formats.home(place, split, name, subset))}
    homes = there if "train" in there else {"train": (folder, {})}  # as the loaders look for them
    samples, found = {}, []
    for split, (home, more) in homes.items():
        if name in formats.BY_FILE and "clips" not in options:
            hub.unpack_clips(home, subset)
        rows = formats.read(home, name, bad := [], **more, **options)
        samples[split] = [replace(row, label=str(row.extra[label])) if label in row.extra else row for row in rows]
        found += [(Finding("left-out", ERROR, reason, row, split), []) for row, reason in bad]
    place = place if place.is_dir() else place.parent
    paths = (path for rows in samples.values() for row in rows for _, path in row.media())
    return Layout(place if all(path.is_relative_to(place) for path in paths) else None, samples, found)


def format_of(folder: str | Path) -> str:
    """Returns the format of a folder, or of the splits in it. Raises DataError that says what was looked for."""
    why = DataError()
    for home in (folder, Path(folder, "train")):
        try:
            return formats.detect(home)
        except DataError as error:
            why = why if why.args else error
    try:
        av_folder.splits(Path(folder))
    except DataError as error:
        raise DataError(f"{error}; {why}") from None
    return "av_folder"


def _pairs(folder: Path, splits: Sequence[str] | None, label: str | None, suffixes: Mapping[str, str]) -> Layout:
    samples, found = {}, []
    for split, home in av_folder.splits(folder, splits).items():
        rows = samples[split] = []
        for pair in av_folder.pairs(home, **suffixes):
            name, counted = shown(pair.file, folder), pair.label.get(label)
            if pair.code:
                severity, lost = (ERROR, [Item(split, Sample(pair.id, pair.id, ()))]) if pair.id else (WARNING, [])
                found.append((Finding(pair.code, severity, pair.wrong, name, split), lost))
            else:
                sample = av_folder.sample(pair.id, str(pair.video.absolute()), av_folder.label_json(pair.label))
                rows.append(replace(sample, label=None if counted is None else str(counted)))
    return Layout(folder, samples, found)


def passport(
    data: Mapping[str, Sequence[Sample]] | Layout | None = None,
    *,
    folder: str | Path | None = None,
    problems: Iterable[tuple[str, str]] = (),
    max_length: int | None = None,
    count_tokens: Count | None = None,
    near: int = checks.NEAR,
    **reading: Any,
) -> Passport:
    """Check a dataset: samples by split, what `read_layout` found, or a `folder` of any format.

    With a folder, names are relative to it and clips outside of it are refused. `problems` are (file or row, reason)
    that a loader left out. `count_tokens(sample, facts)` returns (prompt, answer) tokens, `facts` in the order of the
    sample's media. `near` is how far apart (of 255) two looks may be to count as one clip; 0: not compared. `reading`
    goes to `inspect_all`: limits, cache, workers.
    Raises DataError where there is nothing to check: no samples given, and no such folder.
    """
    if data is None and folder is None:
        raise DataError("a passport needs samples, or the folder of a dataset")
    data = read_layout(folder) if data is None else data
    folder, samples, found = data if isinstance(data, Layout) else Layout(folder and Path(folder), data)
    items = checks.items_of(samples)
    facts = _read(items, folder=folder, **reading)
    items, uncounted = _count(items, facts, count_tokens)
    found = [
        *found,
        *checks.check_samples(items),
        *checks.check_ids(items),
        *checks.check_clips(items, facts, folder),
        *checks.check_duplicates(items, facts, folder),
        *checks.check_leaks(items, facts, folder, near),
        *uncounted,
        *checks.check_token_lengths(items, max_length),
    ]
    quarantine = _quarantine(found)
    out = {(q.split, q.id) for q in quarantine}
    parts = {split: [item for item in items if item.split == split] for split in samples}
    good = {split: [x for x in rows if (split, str(x.sample.id)) not in out] for split, rows in parts.items()}
    labels = {s: Counter(x.sample.label for x in rows if x.sample.label is not None) for s, rows in good.items()}
    answers = {split: _answers(rows) for split, rows in good.items()}
    findings = [finding for finding, _ in (*found, *checks.check_balance(labels, answers))]
    findings += [Finding("left-out", ERROR, shown(reason), shown(name)) for name, reason in problems]
    findings += [Finding("no-samples", ERROR, "holds no sample", s, s) for s, rows in samples.items() if not rows]
    return Passport(
        facts=tuple(facts[medium] for medium in sorted(facts, key=lambda m: (str(m[1]), m[0]))),
        findings=tuple(sorted(findings, key=lambda f: (f.severity, f.name, f.code, f.message, f.split))),
        quarantine=quarantine,
        counts={split: _counts(parts[split], good[split], facts, answers[split]) for split in samples},
        labels=labels,
        answers={split: sum(sets.values(), Counter()) for split, sets in answers.items()},
        tokens={split: [item.tokens for item in rows if item.tokens] for split, rows in parts.items()},
        digests={split: _digest(rows, folder) for split, rows in parts.items()},
        max_length=max_length,
        decode_seconds={s: sum(facts[m].decode_seconds for x in rows for m in x.media) for s, rows in good.items()},
        folder=folder,
    )


def _read(items: Sequence[Item], **how: Any) -> Facts:
    media, facts = list(dict.fromkeys(medium for item in items for medium in item.media)), {}
    for kind in dict.fromkeys(kind for kind, _ in media):
        paths = [path for other, path in media if other == kind]
        facts |= {(kind, found.path): found for found in inspect_all(paths, kind=kind, **how)}
    return facts


def _count(items: Sequence[Item], facts: Facts, count: Count | None) -> tuple[list[Item], list]:
    """Returns the items with their (prompt, answer) tokens, and findings for those that cannot be counted."""
    counted, failed = [], []
    for item in items:
        seen = [facts[medium] for medium in item.media]
        if count and not (item.broken or item.control) and all(found.usable for found in seen):
            try:
                item = replace(item, tokens=count(item.sample, seen))
            except (ValueError, KeyError, TypeError) as error:
                words = f"its tokens cannot be counted ({shown(str(error))})"
                failed.append((Finding("tokens", ERROR, words, item.name, item.split), [item]))
        counted.append(item)
    return counted, failed


def _quarantine(found: Iterable[tuple[Finding, Sequence[Item]]]) -> tuple[Quarantined, ...]:
    reasons: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for finding, out in found:
        for item in out:
            about = "" if finding.name == item.name else f"{finding.name}: "
            reasons[item.split, str(item.sample.id)][f"{finding.code}: {about}{finding.message}"] = None
    return tuple(Quarantined(*key, "; ".join(reasons[key])) for key in sorted(reasons))


def _answers(items: Iterable[Item]) -> dict[tuple, Counter]:
    answers: dict[tuple, Counter] = defaultdict(Counter)
    for item in items:
        if item.sample.options and item.sample.answer is not None:
            answers[item.sample.options][item.sample.answer] += 1
    return answers


def _counts(all_of: Sequence[Item], good: Sequence[Item], facts: Facts, answers: Mapping[tuple, Counter]) -> dict:
    """Returns the figures of one split; the majority: how often the most frequent option of each kind is right."""
    media = dict.fromkeys(medium for item in good for medium in item.media)
    asked = sum(counts.total() for counts in answers.values())
    return {
        "samples": len(all_of),
        "usable": len(good),
        "clips": len(media),
        "seconds": round(sum(facts[medium].seconds for medium in media), 3),
        "majority": round(sum(max(c.values()) for c in answers.values()) / asked, 4) if asked else None,
        "longest": max((sum(item.tokens) for item in all_of if item.tokens), default=None),
    }


def _digest(items: Sequence[Item], folder: Path | None) -> str:
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
