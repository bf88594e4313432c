"""Lineage: from a checkpoint back to its base, and what each step between was made of.

Why: "which data, which configuration, which start?" must have an answer for every number in a report. Each run's
manifest names its start; following them gives the family tree.

    print(tree(lineage("runs/tutorial/rl")))
    python -m cookbook.checkpoint lineage runs/tutorial/rl
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from cookbook.checkpoint.shards import CheckpointError, meant, require_folder
from cookbook.checkpoint.store import on_disk, resolve, run_of
from cookbook.config import Config
from cookbook.runs import ROOT, named, read_manifest

PLACES, PART = 16, 2**16  # of a file of weights, for its fingerprint: how many, and how many bytes each
KIND_NAMES = {"sft": "SFT", "grpo": "RL"}
FACTS = ("data", "passport", "contract", "seed")  # of the manifest, as they stand there


@dataclass(frozen=True)
class Stage:
    """One checkpoint of a family: where it lies, how it was made, and from what."""

    kind: str  # "base", "SFT", "RL", or the form that it was quantised to
    place: str
    facts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "  ".join([f"{self.kind}: {self.place}", *(f"{name} {value}" for name, value in self.facts.items())])


def lineage(path: str | Path) -> list[Stage]:
    """Returns the stages from the base to this checkpoint, oldest first.

    What has no manifest is a base; so is a start that is not on this disk. Raises CheckpointError for a half-written
    export and for what is neither a run nor a checkpoint, ValueError for manifests that start from each other.
    """
    require_folder(ROOT / path)
    stages, start = [], str(path)
    while start:
        folder = resolve(start) if (ROOT / start).exists() else None
        run = run_of(folder) if folder else None
        if run is None:
            if folder and not stages and not list(folder.glob("*.safetensors")):
                raise CheckpointError(f"{named(folder)}: is no run, and holds no weights.{meant(folder)}")
            stages.append(Stage("base", named(ROOT / start) if folder else start))
            break
        if named(run) in {stage.place for stage in stages}:
            raise ValueError(f"{named(run)}: its manifest leads back to itself")
        stage, start = _read(run, folder)
        stages.append(stage)
    return stages[::-1]


def _read(run: Path, folder: Path) -> tuple[Stage, str]:
    told = read_manifest(run)
    facts = {"export": folder.name} if folder != run else {}
    kind, file = str(told.get("kind", "run")), run / "config.toml"
    if file.is_file():
        text = file.read_text(encoding="utf-8")
        kind = KIND_NAMES.get(Config.parse(text, file.name).kind, kind)
        facts["config"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    facts |= {name: str(told[name]) for name in FACTS if told.get(name) is not None}
    if told.get("commit"):
        facts["commit"] = re.sub(r"^([^-]{12})[^-]*", r"\1", str(told["commit"]))  # "-dirty" may follow
    return Stage(kind, named(run), facts), str(told.get("start") or "")


def fingerprint(path: str | Path) -> str | None:
    """Returns twelve hexadecimal digits of a checkpoint's weights, by a few places of each file; None without any here.

    Any training step changes them; reading them takes no longer for 7B.
    """
    found = hashlib.sha256()
    if not (folder := on_disk(path)):
        return None
    for shard in sorted(folder.glob("*.safetensors")):
        size = shard.stat().st_size
        found.update(f"{shard.name} {size}".encode())
        with shard.open("rb") as file:
            for place in range(PLACES):
                file.seek(place * max(0, size - PART) // (PLACES - 1))
                found.update(file.read(PART))
    return found.hexdigest()[:12]


def tree(stages: list[Stage]) -> str:
    """Returns the stages as a tree, the base at its root."""
    return "\n".join("   " * (i - 1) + ("└─ " if i else "") + str(stage) for i, stage in enumerate(stages))
