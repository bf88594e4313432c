"""Checkpoints: find one that a run has left, load it, and export one in the engine's layout.

Why: SFT's export is RL's start and evaluation's subject. The layout is that of cosmos-rl 0.4.7,
`safetensors/step_N/{00000.safetensors, model.safetensors.index.json, config.json, tokenizer and processor files}`,
so that both engines, transformers and vLLM read it.

    model, processor = load("runs/tutorial/sft")               # its last export
    keep(run.path, count=2, best=40)                           # after export(model, encoder, run.path, step)
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from cookbook.checkpoint import shards
from cookbook.checkpoint.adapters import whole_weights
from cookbook.checkpoint.filled import explained, load_model, load_processor, other_texts, require_finite
from cookbook.checkpoint.shards import ADAPTER, INDEX, CheckpointError, adapter_settings, header_size, step_of
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import MANIFEST, ROOT, named, read_manifest, unfinished

CONTRACT = "contract.yaml"
# without tokenizer.json transformers would make a tokenizer of vocab.json and merges.txt, and not say so
FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")

log = logging.getLogger(__name__)


def load(path: str | Path, dtype: torch.dtype = torch.float32):
    """Returns (model, processor) of a checkpoint folder, the vision tower batched, on a GPU where there is one.

    A relative path counts from the project's root; a run folder stands for its last export.
    Raises CheckpointError where there is no whole checkpoint, one with a weight that is no number, or an export whose
    tokenizer or processor is another than that of its run's start.
    """
    folder = find(path)
    processor = load_processor(folder)
    start, place = start_of(folder)
    if place and (found := other_texts(processor, load_processor(place))):
        helps = f"training changes none of it; copy the files from {start}"
        raise CheckpointError(f"{named(folder)}: differs from its start in {' and '.join(found)}: {helps}")
    model = load_model(folder, dtype=dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    require_finite(model, folder)
    return batch_vision(model), processor


def find(path: str | Path) -> Path:
    """Returns the folder with whole weights that a path stands for; see `resolve`. Raises CheckpointError."""
    folder = resolve(path)
    shards.require_folder(folder)
    require_weights(folder)
    if lacks := [name for name in FILES if not (folder / name).is_file()]:
        helps = shards.meant(folder) if "config.json" in lacks else " Copy it from the base."
        raise CheckpointError(f"{named(folder)}: holds no {lacks[0]}, so it is no checkpoint.{helps}")
    if not list(folder.glob("*.safetensors")):
        pickles = ", and pickles (*.bin, *.pt) are never read" if [*folder.glob("*.bin"), *folder.glob("*.pt*")] else ""
        raise CheckpointError(f"{named(folder)}: holds no *.safetensors, so it has no weights{pickles}")
    if problem := "; ".join([*shards.file_problems(folder)] or shards.read_shards(folder)[1]):
        raise CheckpointError(f"{named(folder)}: {problem}. Copy, download or export it again")
    return folder


def require_weights(folder: Path) -> None:
    """Raises CheckpointError for a folder with a LoRA adapter, or with the training state of cosmos-rl."""
    if (folder / ADAPTER).is_file():
        base = adapter_settings(folder).get("base_model_name_or_path") or "a base that it does not name"
        raise CheckpointError(
            f"{named(folder)}: is a LoRA adapter of {base}, not whole weights. Merge it first: "
            f"python -m cookbook.checkpoint merge {named(folder)} OUT"
        )
    if (folder / shards.STATE).is_file():
        what = "is the engine's training state, for train.resume; its weights lie in safetensors/step_N"
        raise CheckpointError(f"{named(folder)}: {what}")


def resolve(path: str | Path) -> Path:
    """Returns the export that a path stands for: the path itself, or the last export of a run or output folder.

    The last is `final`, as older engines name it, else the highest `step_N`; of an output folder with folders by time,
    that of the newest which has one. A name of the hub stands for what was downloaded of it.
    Raises CheckpointError where an export is only half written.
    """
    path = _downloaded(path) or ROOT / path
    stamps = sorted((p for p in path.glob("[0-9]*") if p.name.isdigit() and p.is_dir()), key=lambda p: p.name)
    for place in (path, *reversed(stamps)):
        if exports := _exports(place):
            require_finished(place, exports)
            if place in stamps[:-1]:
                log.warning("%s holds no export; taking %s, which is older", named(stamps[-1]), place.name)
            return exports[-1]
    half = (file for part in ("", "safetensors/", "*/safetensors/") for file in path.glob(f"{part}step_*.incomplete-*"))
    if unfinished := next(half, None):
        raise CheckpointError(f"{named(unfinished)}: is half written. Wait for the run, or take a step before it")
    return path


def _downloaded(name: str | Path) -> Path | None:
    """Returns where a hub's model lies that was downloaded before; None for a path, and for any other name."""
    if (ROOT / name).exists():
        return None
    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError):
        return None


def require_finished(run: Path, exports: Sequence[Path] = ()) -> None:
    """Raises CheckpointError for the folder of a run that is not at its end; one of its `exports` may be named."""
    if outcome := unfinished(run):
        instead = f", or name an export: {named(exports[-1])}" if exports else ""
        raise CheckpointError(f"{named(run)}: its training did not come to its end ({outcome}); run it again{instead}")


def _exports(place: Path) -> list[Path]:
    """Returns `step_N` and `final` in a folder and its `safetensors`, by step; `step_N.incomplete-…` is none."""
    found = [*place.glob("*"), *place.glob("safetensors/*")]
    return sorted((p for p in found if p.is_dir() and step_of(p) >= 0), key=step_of)


def run_of(folder: Path) -> Path | None:
    """Returns the run that an export belongs to: the nearest folder with a manifest, at most three above it."""
    near = (folder, *list(folder.parents)[:3])
    return next((place for place in near if (place / MANIFEST).is_file()), None)


def start_of(folder: Path, base: str | Path | None = None) -> tuple[str | Path | None, Path | None]:
    """Returns the base, else the start that the manifest of the export's run names; and its folder, if it is here."""
    with suppress(ValueError, CheckpointError):  # a manifest that is broken, a base that is not whole
        run = None if base else run_of(folder)
        base = str(read_manifest(run).get("start") or "") or None if run else base
        return base, on_disk(base) if base else None
    return base, None


def on_disk(name: str | Path) -> Path | None:
    """Returns the folder of a checkpoint: a path, or a hub's name that was downloaded before; None for neither."""
    return find(name) if (ROOT / name).exists() else _downloaded(name)


def fetched(name: str) -> str:
    """Returns where a checkpoint lies: a path as it is named, a hub's model after it was downloaded, where it was not.

    Raises CheckpointError where it is neither.
    """
    try:
        return name if (ROOT / name).exists() else snapshot_download(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no folder of that name, and the hub does not give it ({type(error).__name__}); name a checkpoint "
            "that is there, or accept the model's terms and log in (hf auth login)"
        ) from None


def require_contract(path: str | Path, contract: Contract) -> None:
    """Raises ContractError where a checkpoint says that it was trained under another contract."""
    own = find(path) / CONTRACT
    if own.is_file():
        contract.require(Contract.load(own), str(path))


def export(model, encoder: Encoder, run: Path, step: int, dtype: torch.dtype = torch.float32) -> Path:
    """Write `run/safetensors/step_N`: weights, processor, and the contract of the training. Returns that folder."""
    place = run / "safetensors" / f"step_{step}"
    return write_checkpoint(model, encoder.processor, place, dtype, encoder.contract)


def write_checkpoint(model, processor, place: Path, dtype: torch.dtype, contract: Contract | None = None) -> Path:
    """Write weights in one shard, index and processor to `place`, and return it. Raises what `written_aside` raises."""
    with written_aside(place) as folder:
        weights, made = whole_weights(model), {}  # two names of one tensor stay that: tied heads are written once
        weights = {n: made.setdefault((w.data_ptr(), w.shape), w.to(dtype)) for n, w in weights.items()}
        model.save_pretrained(folder, state_dict=weights, max_shard_size="1000GB")
        processor.save_pretrained(folder)
        # transformers 4.57 puts it into text_config only, where cosmos-rl and vLLM do not look
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = {"architectures": [type(model).__name__], **config}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "model.safetensors").rename(folder / "00000.safetensors")
        write_index(folder)
        if contract:
            contract.save(folder / CONTRACT)
    return place


@contextmanager
def written_aside(place: Path) -> Iterator[Path]:
    """Yields a folder that takes the place of `place` when the block ends: whole, or what was there stays.

    Raises CheckpointError where it cannot be written, as on a full disk; nothing of it is left then.
    """
    for left in place.parent.glob(f"{place.name}.incomplete-*"):
        shutil.rmtree(left)
    folder = place.with_name(f"{place.name}.incomplete-{os.getpid()}")
    try:
        with explained(place, "cannot be written; make room there, and run the same again"):
            folder.mkdir(parents=True)
            yield folder
            for file in folder.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if place.exists():  # moved away first: deleting takes long enough to be stopped halfway
        place.rename(gone := folder.with_name(f"{folder.name}-earlier"))
        folder.rename(place)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        folder.rename(place)


def write_index(folder: Path) -> None:
    """Write which of a folder's shards holds which tensor, and the bytes of all tensors."""
    files, holds = sorted(folder.glob("*.safetensors")), {}
    for shard in files:
        with safe_open(shard, "pt") as file:
            holds |= dict.fromkeys(file.keys(), shard.name)
    size = sum(shard.stat().st_size - header_size(shard) for shard in files)  # the index counts the tensors only
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": holds}, indent=1))


def keep(run: Path, count: int, best: int | None = None) -> None:
    """Delete a run's oldest exports, so that the last `count` remain, and that of the step `best`; -1 keeps all."""
    for folder in _exports(run / "safetensors")[:-count] if count > 0 else []:
        if step_of(folder) != best:
            shutil.rmtree(folder)
