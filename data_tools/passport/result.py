"""What a passport says: facts, findings, quarantine, figures by split; as JSON with a hash, and as tables.

Why: three readers need it. A run's manifest takes the hash, training and evaluation take the quarantine, a person takes
the tables. Made by `data_tools.passport`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cookbook.data.samples import DataError, Sample
from cookbook.display.tables import Table
from cookbook.runs import write_whole
from data_tools.formats.source import parse_json, read_text, shown
from data_tools.passport.clips import ClipFacts
from data_tools.passport.findings import ERROR, Finding

Reasons = dict[str, dict[str, str]]  # by split, why each sample is left out

VERSION = 1
MOST_LABELS = 4  # shown in the table
CLIP_FIELDS = ("bytes", "sha256", "container", "codec", "width", "height", "rotation", "frames", "stated", "seconds",
               "fps", "variable_rate", "audio")  # fmt: skip


@dataclass(frozen=True)
class Quarantined:
    """A sample that training and evaluation leave out."""

    split: str
    id: str
    reason: str


@dataclass(frozen=True)
class Passport:
    """What was found; the same data gives the same passport, byte for byte, on any machine."""

    facts: tuple[ClipFacts, ...]  # every clip and image, by name
    findings: tuple[Finding, ...]  # errors first
    quarantine: tuple[Quarantined, ...]
    counts: Mapping[str, Mapping[str, Any]]  # by split: samples, usable, clips, seconds, …
    labels: Mapping[str, Mapping[str, int]]  # by split, of the usable samples
    answers: Mapping[str, Mapping[str, int]]  # the right options, likewise
    tokens: Mapping[str, Sequence[tuple[int, int]]]  # (prompt, answer) of each sample that could be counted
    digests: Mapping[str, str]  # SHA-256 of each split's samples
    max_length: int | None
    decode_seconds: Mapping[str, float]  # by split, to read each sample's clips once in one process
    folder: Path | None

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == ERROR)

    def usable(self, samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[Sample]]:
        out = {(q.split, q.id) for q in self.quarantine}
        return {split: [r for r in rows if (split, str(r.id)) not in out] for split, rows in samples.items()}

    def as_dict(self) -> dict:
        """Returns everything that depends on the data alone, ready for JSON: no clock, no place on the disk."""
        return {
            "version": VERSION,
            "splits": {split: dict(counts) for split, counts in self.counts.items()},
            "samples_sha256": dict(self.digests),
            "max_length": self.max_length,
            "labels": {split: dict(sorted(found.items())) for split, found in self.labels.items()},
            "answers": {split: dict(sorted(found.items())) for split, found in self.answers.items()},
            "findings": [vars(finding) for finding in self.findings],
            "quarantine": [vars(q) for q in self.quarantine],
            "clips": {shown(f.path, self.folder): {k: getattr(f, k) for k in CLIP_FIELDS} for f in self.facts},
        }

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any clip, sample, label or finding."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def write(self, path: str | Path) -> Path:
        """Write passport.json: the hash, what it covers, and beside it the decode times, which it does not cover.

        Raises OSError or RunError where it cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        times = {split: round(seconds, 3) for split, seconds in self.decode_seconds.items()}
        text = json.dumps({"hash": self.hash} | self.as_dict() | {"decode_seconds": times}, indent=1)
        write_whole(path, f"{text}\n".encode())
        return path

    def markdown(self) -> str:
        """Returns the tables that a person reads: figures by split, findings by kind, the hash."""
        left = f"{len(self.quarantine)} samples in quarantine; passport `{self.hash}`"
        findings = [_finding_table(self).markdown(), left] if self.findings else [f"No findings; {left}"]
        return "\n\n".join([_split_table(self).markdown(), *findings])

    def __repr__(self) -> str:
        """Returns one line; the facts of thousands of clips are for `as_dict`."""
        return f"Passport({self.hash}: {len(self.findings)} findings, {len(self.quarantine)} samples in quarantine)"

    _repr_markdown_ = markdown


def read_passport(path: str | Path) -> dict[str, Any]:
    """Returns what stands in a passport.json. Raises DataError for a file that is none."""
    try:
        found = parse_json(read_text(Path(path)))
        if not isinstance(found, dict) or not isinstance(found.get("hash"), str):
            raise DataError("it has no hash")
        for row in found["quarantine"]:
            row["split"], row["id"], row["reason"]
        _clips(found)
    except (DataError, KeyError, TypeError, AttributeError) as error:
        helps = "delete it, or make it again: python -m data_tools.passport"
        raise DataError(f"{path}: is no passport ({shown(str(error))}); {helps}") from None
    return found


def _clips(checked: Mapping[str, Any]) -> set[tuple[str, int]]:
    return {(Path(name).name, facts["bytes"]) for name, facts in checked.get("clips", {}).items()}


def read_quarantine(path: str | Path, samples: Mapping[str, Iterable[Sample]] = MappingProxyType({})) -> Reasons:
    """Returns {split: {id: reason}} of a passport.json, for loaders that run elsewhere.

    Raises DataError where it is no passport, or one of other data: where a sample that it lets pass, of a split that it
    names, shows a clip of another name or size than it has seen.
    """
    checked = read_passport(path)
    found: Reasons = {}
    for row in checked["quarantine"]:
        found.setdefault(row["split"], {})[row["id"]] = row["reason"]
    known = _clips(checked)
    for split in samples.keys() & set(checked.get("splits", ())):
        clips = {clip for row in samples[split] if row.id not in found.get(split, {}) for _, clip in row.media()}
        for clip in sorted(clips) if known else ():
            if clip.is_file() and (clip.name, clip.stat().st_size) not in known:
                helps = "make it again: python -m data_tools.passport"
                raise DataError(f"{path}: is the passport of other data, it has not seen {shown(clip)}; {helps}")
    return found


def _split_table(found: Passport) -> Table:
    head = ("split", "samples", "usable", "clips", "minutes", "to decode", "labels", "majority", "longest")
    rows = []
    for split, n in found.counts.items():
        minutes, decode = f"{n['seconds'] / 60:.1f}", f"{found.decode_seconds[split]:.1f} s"
        majority = "" if n["majority"] is None else f"{100 * n['majority']:.0f} %"
        longest = "" if n["longest"] is None else f"{n['longest']:,} tokens"
        sizes = (n["samples"], n["usable"], n["clips"])
        rows.append((split, *sizes, minutes, decode, _shares(found, split), majority, longest))
    return Table(head, rows)


def _shares(found: Passport, split: str) -> str:
    counts = Counter(found.labels[split])
    parts = [f"{shown(label)} {100 * n / counts.total():.0f} %" for label, n in counts.most_common(MOST_LABELS)]
    return ", ".join(parts + ["…"] * (len(counts) > MOST_LABELS))


def _finding_table(found: Passport) -> Table:
    numbers = Counter((finding.severity, finding.code) for finding in found.findings)
    firsts = {(finding.severity, finding.code): finding for finding in reversed(found.findings)}
    rows = [
        (code, severity, number, f"`{firsts[severity, code].name}`: {firsts[severity, code].message}")
        for (severity, code), number in numbers.items()
    ]
    return Table(("finding", "", "number", "the first"), rows)
