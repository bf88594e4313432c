"""Merge a LoRA adapter into its base: whole weights that RL, evaluation and inference can start from.

Why: with LoRA the engine exports only the adapter, in a file that peft itself refuses: it has null where peft wants
its default, keys of its own, and parts of names ("model.layers") where peft wants the ends of them.

    python -m cookbook.checkpoint merge outputs/sft_1gpu_lora OUT
"""

import shutil
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from cookbook.checkpoint.adapters import lora_settings
from cookbook.checkpoint.filled import explained, load_model, load_processor, require_finite
from cookbook.checkpoint.shards import ADAPTER, CheckpointError, few, meant, read_shards, require_folder
from cookbook.checkpoint.store import CONTRACT, adapter_settings, find, on_disk, resolve, write_checkpoint
from cookbook.runs import ROOT, named


def merge(adapter: str | Path, out: str | Path, base: str | None = None, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Add a LoRA adapter to its base and write whole weights to `out`. Returns that folder.

    `base`: a folder or a hub's name; where it is None, the one that the adapter names. Takes memory for the whole
    model. Raises CheckpointError where there is no adapter, no base, no peft, or a tensor of the adapter that the base
    has no place for.
    """
    require_folder(folder := resolve(adapter))
    if not (folder / ADAPTER).is_file():
        raise CheckpointError(f"{named(folder)}: holds no {ADAPTER}, so there is no adapter to merge.{meant(folder)}")
    if problems := read_shards(folder)[1]:
        raise CheckpointError(f"{named(folder)}: {'; '.join(problems)}. Copy or export the adapter again")
    if (ROOT / out).is_file() or list((ROOT / out).glob("*")):
        raise CheckpointError(f"{out}: is not empty; name a new folder")
    said = adapter_settings(folder)
    start = _base_of(folder, base or said.get("base_model_name_or_path"))
    model = load_model(start, dtype=dtype)
    names = getattr(model, "_checkpoint_conversion_mapping", {})
    settings = lora_settings(model, said)
    from peft import PeftModel

    with explained(folder, f"does not fit {named(start)}"):
        fitted = PeftModel(model, settings)
        told = fitted.load_adapter(str(folder), "default", key_mapping=names)
    for kind, lost in (("", told.unexpected_keys), ("are missing, and so ", told.missing_keys)):
        if lost:  # peft leaves them out without a word
            raise CheckpointError(
                f"{named(folder)}: {len(lost)} of its tensors {kind}do not fit {named(start)}: {few(set(lost))}; "
                "is that the base it was trained on? Name it with --base"
            )
    merged = fitted.merge_and_unload()
    require_finite(merged, folder)
    written = write_checkpoint(merged, load_processor(start), ROOT / out, dtype)
    if (folder / CONTRACT).is_file():
        shutil.copyfile(folder / CONTRACT, written / CONTRACT)
    return written


def _base_of(folder: Path, name: str | None) -> Path:
    """Returns the folder of an adapter's base, downloaded where it is a model of the hub. Raises CheckpointError."""
    place = on_disk(name) if name else None
    try:
        place = place or Path(snapshot_download(name or "", ignore_patterns=["*.bin", "*.pt", "*.pth"]))
    except (OSError, ValueError):
        where = f"its base {name} is not there" if name else "it names no base"
        raise CheckpointError(f"{named(folder)}: {where}; say where it lies with --base FOLDER") from None
    return find(place)
