"""Verify a checkpoint: whole, finite, named as published, different from its base, and loadable, check by check.

Why: a checkpoint that was cut off, or whose names the library does not know, loads with random weights and answers
nonsense, and one that training never changed scores like its base. Each check here stands for a bug that somebody had.
Tensors are read one at a time, so a 7B checkpoint needs little memory.

    python -m cookbook.checkpoint verify runs/tutorial/sft --base models/tiny-base
    what_is_missing(Path("runs/x/safetensors/step_12"))        # "", or "00001.safetensors cannot be read, …"
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from cookbook.checkpoint import store
from cookbook.checkpoint.filled import load_model, load_processor, other_texts
from cookbook.checkpoint.shards import CheckpointError, Shards, few, file_problems, read_shards, require_folder
from cookbook.data.architecture import USUAL, architecture
from cookbook.data.contract import Contract
from cookbook.display.tables import ERROR, OK, WARNING, Check, as_html, as_text
from cookbook.runs import ROOT, named

TEXT_FILES = {"tokenizer": "tokenizer.json", "processor": "preprocessor_config.json"}


@dataclass(frozen=True)
class Verification:
    """What was found in a checkpoint, one check a line."""

    folder: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.status != ERROR for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def __repr__(self) -> str:
        return f"{self.folder}\n" + as_text(check.cells for check in self.checks)

    def _repr_html_(self) -> str:
        head = ("", "checked", "found", "mend it with")
        return f"<p>{self.folder}</p>" + as_html(head, (check.cells for check in self.checks))


def verify(path: str | Path, base: str | Path | None = None) -> Verification:
    """Returns what is right and wrong with a checkpoint; raises nothing for a damaged one.

    `base` is what training started from; where it is None, the start that the run's manifest names. Needs the memory
    of the largest tensor, twice.
    """
    folder = ROOT / path
    try:
        folder = store.resolve(path)
        require_folder(folder)
        store.require_weights(folder)
    except CheckpointError as error:
        return Verification(named(folder), (Check("folder", ERROR, str(error)),))
    shards, problems = read_shards(folder)
    if problems:
        found = [Check("shards", ERROR, "; ".join(problems), "copy or export the checkpoint again")]
    else:
        files = sorted(folder.glob("*.safetensors"))
        found = [Check("shards", OK, f"{len(files)}, with {len(shards)} tensors"), *_size(folder, files)]
    if problems := "; ".join(file_problems(folder)):
        found.append(Check("files", ERROR, problems))
    if shards:
        found += [*_names(folder, shards), *_tensors(folder, shards, base, whole=found[0].status == OK)]
    found += [_loads(folder), *_texts(folder, base), _contract(folder)]
    return Verification(named(folder), tuple(found))


def what_is_missing(export: Path) -> str:
    """Returns what an export lacks, "" for a whole one: weights with configuration and index, or a LoRA adapter."""
    for name in () if (export / store.ADAPTER).is_file() else ("config.json", store.INDEX):
        if not (export / name).is_file():
            return f"{name} is missing"
    return "; ".join(read_shards(export)[1])


def _size(folder: Path, files: list[Path]) -> Iterator[Check]:
    """Yields whether the index's total fits the files; early exports of this project counted the headers too."""
    try:
        said = json.loads((folder / store.INDEX).read_text(encoding="utf-8"))["metadata"]["total_size"]
    except (OSError, KeyError, TypeError):
        return
    size = sum(file.stat().st_size for file in files)
    tensors = size - sum(map(store.header_size, files))
    fits = Check("size", OK, f"{size / 1e9:.3g} GB, as the index says")
    differs = Check("size", WARNING, f"{tensors} bytes of tensors, but the index says {said}")
    yield fits if isinstance(said, int) and tensors <= said <= size else differs


def _read_tensor(shards: Shards, name: str) -> torch.Tensor:
    with safe_open(shards[name], "pt") as opened:
        return opened.get_tensor(name)


def _names(folder: Path, shards: Shards) -> Iterator[Check]:
    """Yields whether tensors are named as published, which the engine, transformers and vLLM all read."""
    family = USUAL
    with contextlib.suppress(ValueError):  # a broken config.json: `file_problems` has said so
        family = architecture(folder)
    known = ", ".join(f"{prefix}*" for prefix in family.prefixes)
    nested = ("model.language_model.", "model.visual.")
    odd = [n for n in shards if not n.startswith(family.prefixes) or (family.native and n.startswith(nested))]
    if wrong := [name for name in odd if name.startswith("model(?!")]:
        found = (
            f"{few(wrong)}: cosmos-rl 0.4.7 wrote them with train.force_use_hf (utils/util.py, "
            "reverse_hf_checkpoint_mapping, keeps a look-ahead of transformers' mapping); nothing can read them"
        )
        fix = r"rename the tensors, model(?!\.(language_model|visual)). to model. ; train with cookbook.engine.bridge"
        yield Check("names", ERROR, found, fix)
    elif odd and all(name.startswith("model.") for name in odd) and family.native:
        found = f"{few(odd)}: nested as transformers holds them; the engine reads {known}"
        yield Check("names", WARNING, found, "export again with save_pretrained")
    elif odd:
        yield Check("names", ERROR, f"{few(odd)}: published are {known}")
    else:
        yield Check("names", OK, f"{known}, as published")


def _tensors(folder: Path, shards: Shards, base: str | Path | None, whole: bool) -> Iterator[Check]:
    """Yields whether all numbers are finite, and how far from the base, |new - old| / |old|; reads each tensor once.

    Where the files are not `whole`, tensors that only the base has are no news.
    """
    (base, place), broken, changes = store.start_of(folder, base), [], {}
    before = read_shards(place)[0] if place else {}
    strange = shards.keys() ^ before.keys() if whole else shards.keys() - before.keys()
    for name in sorted(shards, key=shards.get):  # file by file
        tensor = _read_tensor(shards, name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            broken.append(name)
        elif name in before:
            old = _read_tensor(before, name).to(tensor.dtype).float()  # an export in bfloat16 is no change
            if old.shape == tensor.shape:
                changes[name] = float((tensor.float() - old).norm() / old.norm().clamp_min(1e-30))
            else:
                strange.add(name)
    fix = "take an earlier step, and train on from there with a lower optm_lr"
    finite = Check("finite", OK, f"all {len(shards)} tensors")
    yield Check("finite", ERROR, f"NaN or infinity in {few(broken)}", fix) if broken else finite
    yield _against_base(base, before, changes, strange)


def _against_base(base: str | Path | None, before: Shards, changes: Mapping[str, float], strange: set[str]) -> Check:
    if not before:
        why = "no manifest names a start" if base is None else f"{base} is no checkpoint on this disk"
        return Check("base", WARNING, f"not compared: {why}", "--base FOLDER")
    if strange:
        return Check("base", ERROR, f"{few(strange)}: not in both, or of another shape; is {base} the base?")
    changed = {name: change for name, change in changes.items() if change > 0}
    if not changed:
        found = f"training changed nothing: all {len(changes)} tensors are those of {base}"
        return Check("base", ERROR, found, "look at the learning rate, the frozen modules, and the loss mask")
    most, by = max(changed.items(), key=lambda item: item[1])
    found = f"{len(changed)} of {len(changes)} tensors differ from {base}, most {most} by {by:.2g} of its norm"
    return Check("base", OK, found)


def _loads(folder: Path) -> Check:
    """Whether transformers fills every weight from the files: loaded without memory, on the `meta` device."""
    try:
        load_model(folder, device_map="meta")
    except CheckpointError as error:
        return Check("loads", ERROR, str(error).removeprefix(f"{named(folder)}: "))
    return Check("loads", OK, "0 missing, 0 unexpected, all of the shape that config.json gives")


def _texts(folder: Path, base: str | Path | None) -> Iterator[Check]:
    """Yields whether tokenizer and processor are there, load, and are the base's: training changes neither."""
    helps, lost = "copy its files from the base", [k for k, file in TEXT_FILES.items() if not (folder / file).is_file()]
    yield from (Check(name, ERROR, f"there is no {TEXT_FILES[name]}", helps) for name in lost)
    if "tokenizer" in lost:
        return
    try:
        processor = load_processor(folder)
        yield Check("reads text", OK, f"tokenizer of {len(processor.tokenizer)} tokens and processor load")
        name, place = store.start_of(folder, base)
        if place and (found := other_texts(processor, load_processor(place))):
            yield Check("text of the base", ERROR, f"differs from {name} in {' and '.join(found)}", helps)
    except CheckpointError as error:
        yield Check("reads text", ERROR, str(error).removeprefix(f"{named(folder)}: "), helps)


def _contract(folder: Path) -> Check:
    if not (folder / store.CONTRACT).is_file():
        return Check("contract", WARNING, f"no {store.CONTRACT}: nothing says under which prompt it was trained")
    try:
        return Check("contract", OK, Contract.load(folder / store.CONTRACT).hash)
    except Exception as error:  # no YAML, or not of a contract
        return Check("contract", ERROR, str(error).splitlines()[0])
