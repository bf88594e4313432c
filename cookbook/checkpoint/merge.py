"""Merge a LoRA adapter into its base: whole weights that RL, evaluation and inference can start from.

Why: with LoRA the engine exports only the adapter, in a file that peft itself refuses: it has null where peft wants
its default, and keys of its own.

    python -m cookbook.checkpoint merge outputs/sft_1gpu_lora OUT
"""

import json
import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from cookbook.checkpoint.store import ADAPTER, CONTRACT, CheckpointError, on_disk, resolve, write_checkpoint
from cookbook.runs import ROOT, named


def merge(adapter: str | Path, out: str | Path, base: str | None = None, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Add a LoRA adapter to its base and write whole weights to `out`. Returns that folder.

    `base`: a folder or a hub's name; where it is None, the one that the adapter names. Takes memory for the whole
    model. Raises CheckpointError where there is no adapter, no peft, or an adapter that does not fit.
    """
    folder = resolve(adapter)
    if not (folder / ADAPTER).is_file():
        raise CheckpointError(f"{named(folder)}: holds no {ADAPTER}, so there is no adapter to merge")
    if list((ROOT / out).glob("*")):
        raise CheckpointError(f"{out}: is not empty; name a new folder")
    try:
        from peft import LoraConfig, PeftModel
    except ImportError:
        raise CheckpointError("merging needs peft: python -m pip install -c requirements.lock peft") from None
    said = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    known = {field.name for field in fields(LoraConfig)}
    said |= {"rank_pattern": said.get("r_pattern") or said.get("rank_pattern")}  # the engine's name, and peft's
    settings = {key: value for key, value in said.items() if key in known and value is not None}
    start = base or said["base_model_name_or_path"]
    start = on_disk(start) or start  # transformers downloads what is not here
    model = AutoModelForImageTextToText.from_pretrained(start, dtype=dtype)
    with warnings.catch_warnings(record=True) as told:  # peft only warns where an adapter's names fit nothing
        warnings.simplefilter("always")
        fitted = PeftModel.from_pretrained(model, folder, config=LoraConfig(**settings))
    if any("missing adapter keys" in str(w.message) for w in told):
        raise CheckpointError(f"{named(folder)}: its tensors do not fit {start}; is that the base it was trained on?")
    processor = AutoProcessor.from_pretrained(start, use_fast=True)
    written = write_checkpoint(fitted.merge_and_unload(), processor, ROOT / out, dtype)
    if (folder / CONTRACT).is_file():
        shutil.copyfile(folder / CONTRACT, written / CONTRACT)
    return written
