"""Verify a checkpoint: whole, finite, named as published, different from its base, and loadable, check by check.

Why: a checkpoint that was cut off, or whose names the library does not know, loads with random weights and answers
nonsense, and one that training never changed scores like its base. Each check here stands for a bug that somebody had.
Tensors are read one at a time, so a 7B checkpoint needs little memory.

    python -m cookbook.checkpoint verify runs/tutorial/sft --base models/tiny-base
    python -m cookbook.checkpoint lineage runs/tutorial/rl
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from cookbook.checkpoint import store
from cookbook.checkpoint.lineage import lineage, run_of, tree
from cookbook.checkpoint.merge import merge
from cookbook.checkpoint.shards import Shards, few, one, read_shards, stream
from cookbook.checkpoint.store import CheckpointError
from cookbook.data.contract import Contract
from cookbook.display.tables import ERROR, OK, WARNING, Check, as_html, as_text
from cookbook.runs import MANIFEST, named

PUBLISHED = re.compile(r"(visual\.|lm_head\.|model\.(?!language_model\.|visual\.))")
LOOK_AHEAD = "model(?!"
HEAD = ("", "checked", "found", "mend it with")
FILES = {"tokenizer": ("tokenizer.json", "vocab.json"), "processor": ("preprocessor_config.json",)}


@dataclass(frozen=True)
class Verdict:
    """What was found in a checkpoint, one check a line."""

    folder: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check found an error; warnings are allowed."""
        return all(check.status != ERROR for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """Returns a check by its name. Raises KeyError."""
        return {check.name: check for check in self.checks}[name]

    def as_dict(self) -> dict:
        """Returns the verdict as plain values."""
        return {"ok": self.ok, "folder": self.folder, "checks": [asdict(check) for check in self.checks]}

    def __repr__(self) -> str:
        return f"{self.folder}\n" + as_text(check.cells for check in self.checks)

    def _repr_html_(self) -> str:
        return f"<p>{self.folder}</p>" + as_html(HEAD, (c.cells for c in self.checks))


def verify(path: str | Path, base: str | Path | None = None) -> Verdict:
    """Returns what is right and wrong with a checkpoint; raises nothing for a damaged one.

    `base` is what training started from; where it is None, the start that the run's manifest names. Needs the memory
    of the largest tensor, twice.
    """
    try:
        folder = store.resolve(path)
    except CheckpointError as error:
        return Verdict(str(path), (Check("folder", ERROR, str(error)),))
    if not folder.is_dir() or (folder / store.ADAPTER).is_file() or (folder / store.STATE).is_file():
        return Verdict(named(folder), (_no_weights(folder),))
    shards, found = read_shards(folder)
    if shards:
        found += [*_names(shards), *_tensors(folder, shards, base, whole=found[0].status == OK)]
    found += [_loads(folder), *_texts(folder), _contract(folder)]
    return Verdict(named(folder), tuple(found))


def _no_weights(folder: Path) -> Check:
    try:
        store.find(folder)
    except CheckpointError as error:
        return Check("folder", ERROR, str(error) if folder.is_dir() else f"{named(folder)}: there is no such folder")
    raise AssertionError(folder)


# ---- tensors ----------------------------------------------------------------------------------------------------


def _names(shards: Shards) -> Iterator[Check]:
    """Yields whether tensors are named as published, which the engine, transformers and vLLM all read."""
    odd = [name for name in shards if not PUBLISHED.match(name)]
    if wrong := [name for name in odd if name.startswith(LOOK_AHEAD)]:
        found = (
            f"{few(wrong)}: cosmos-rl 0.4.7 wrote them with train.force_use_hf (utils/util.py, "
            "reverse_hf_checkpoint_mapping, keeps a look-ahead of transformers' mapping); nothing can read them"
        )
        fix = r"rename the tensors, model(?!\.(language_model|visual)). to model. ; train with cookbook.engine.bridge"
        yield Check("names", ERROR, found, fix)
    elif odd and all(name.startswith("model.") for name in odd):
        found = f"{few(odd)}: nested as transformers holds them; the engine reads visual.*, model.*, lm_head.*"
        yield Check("names", WARNING, found, "export again with save_pretrained")
    elif odd:
        yield Check("names", ERROR, f"{few(odd)}: published are visual.*, model.*, lm_head.*")
    else:
        yield Check("names", OK, "visual.*, model.*, lm_head.*, as published")


def _tensors(folder: Path, shards: Shards, base: str | Path | None, whole: bool) -> Iterator[Check]:
    """Yields whether all numbers are finite, and how far they are from the base; reads each tensor once.

    Where the files are not `whole`, tensors that only the base has are no news.
    """
    base = base or _start(folder)
    before = _before(base)
    broken, changes = [], {}
    strange = shards.keys() ^ before.keys() if whole else shards.keys() - before.keys()
    for name, tensor in stream(shards):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            broken.append(name)
        elif name in before:
            old = one(before, name)
            if old.shape == tensor.shape:
                changes[name] = _change(tensor, old)
            else:
                strange.add(name)
    if broken:
        fix = "take an earlier step, and train on from there with a lower optm_lr"
        yield Check("finite", ERROR, f"NaN or infinity in {few(broken)}", fix)
    else:
        yield Check("finite", OK, f"all {len(shards)} tensors")
    yield _against_base(base, before, changes, strange)


def _change(tensor: torch.Tensor, old: torch.Tensor) -> float:
    """Returns |new - old| / |old|. The old one is rounded as the new one is: an export in bfloat16 is no change."""
    old = old.to(tensor.dtype).float()
    return float((tensor.float() - old).norm() / old.norm().clamp_min(1e-30))


def _against_base(base: str | Path | None, before: Shards, changes: Mapping[str, float], strange: set[str]) -> Check:
    if base is None:
        return Check("base", WARNING, "not compared: no manifest names a start", "--base FOLDER")
    if not before:
        return Check("base", WARNING, f"not compared: {base} is no checkpoint on this disk", "--base FOLDER")
    if strange:
        return Check("base", ERROR, f"{few(strange)}: not in both, or of another shape; is {base} the base?")
    changed = {name: change for name, change in changes.items() if change > 0}
    if not changed:
        found = f"training changed nothing: all {len(changes)} tensors are those of {base}"
        return Check("base", ERROR, found, "look at the learning rate, the frozen modules, and the loss mask")
    most = max(changed, key=changed.get)
    found = (
        f"{len(changed)} of {len(changes)} tensors differ from {base}, most {most} by {changed[most]:.2g} of its norm"
    )
    return Check("base", OK, found)


def _before(base: str | Path | None) -> Shards:
    """Returns the tensors of the base, none where it is not whole or not here."""
    try:
        place = store.on_disk(base) if base else None
    except CheckpointError:
        place = None
    return read_shards(place)[0] if place else {}


def _start(folder: Path) -> str | None:
    """Returns the start that the manifest of the export's run names."""
    run = run_of(folder)
    try:
        return json.loads((run / MANIFEST).read_text(encoding="utf-8")).get("start") if run else None
    except ValueError:
        return None


# ---- loading ----------------------------------------------------------------------------------------------------


def _loads(folder: Path) -> Check:
    """Whether transformers fills every weight from the files: loaded without memory, on the `meta` device."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)  # what it would warn of is in the information
    try:
        _, told = AutoModelForImageTextToText.from_pretrained(
            folder, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    except Exception as error:  # whatever a damaged file raises is the finding
        return Check("loads", ERROR, f"transformers cannot load it: {str(error).strip().splitlines()[0]}")
    finally:
        transformers_logging.set_verbosity(level)
    kinds = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of another shape": "mismatched_keys"}
    wrong = [f"{len(told[k])} {word}: {few(set(map(str, told[k])))}" for word, k in kinds.items() if told[k]]
    if wrong:
        return Check("loads", ERROR, "; ".join(wrong) + ". transformers would fill them with random numbers")
    return Check("loads", OK, "0 missing, 0 unexpected, all of the shape that config.json gives")


def _texts(folder: Path) -> Iterator[Check]:
    """Yields whether the tokenizer's and processor's files are there and load."""
    for name, files in FILES.items():
        absent = not any((folder / file).is_file() for file in files)
        if absent:
            yield Check(name, ERROR, f"there is no {' and no '.join(files)}", "copy its files from the base")
    if any((folder / file).is_file() for file in FILES["tokenizer"]):
        try:
            processor = AutoProcessor.from_pretrained(folder, use_fast=True, local_files_only=True)
            if not (processor.chat_template or processor.tokenizer.chat_template):
                raise ValueError("there is no chat template")
            yield Check("reads text", OK, f"tokenizer of {len(processor.tokenizer)} tokens and processor load")
        except Exception as error:
            words = str(error).strip().splitlines()[0]
            yield Check("reads text", ERROR, f"the processor does not load: {words}", "copy its files from the base")


def _contract(folder: Path) -> Check:
    file = folder / store.CONTRACT
    if not file.is_file():
        return Check("contract", WARNING, f"no {file.name}: nothing says under which prompt it was trained")
    try:
        return Check("contract", OK, Contract.load(file).hash)
    except Exception as error:  # no YAML, or not of a contract
        return Check("contract", ERROR, str(error).splitlines()[0])


# ---- command line -----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cookbook.checkpoint", description="Verify, trace, merge.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="one check a line; exit 1 where one is an error")
    check.add_argument("path")
    check.add_argument("--base", help="what training started from (default: what the run's manifest says)")
    check.add_argument("--json", action="store_true")
    trace = commands.add_parser("lineage", help="base, SFT, RL: what each step was made of")
    trace.add_argument("path")
    add = commands.add_parser("merge", help="write a LoRA adapter and its base as whole weights")
    add.add_argument("adapter")
    add.add_argument("out")
    add.add_argument("--base", help="folder or name of the base (default: the one that the adapter names)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        if args.command == "lineage":
            print(tree(lineage(args.path)))
            return 0
        if args.command == "merge":
            print(named(merge(args.adapter, args.out, args.base)))
            return 0
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    found = verify(args.path, args.base)
    print(json.dumps(found.as_dict(), indent=1) if args.json else found)
    return 0 if found.ok else 1
