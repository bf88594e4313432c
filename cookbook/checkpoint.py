"""Checkpoints: load one, and export one in the engine's layout.

Why: SFT's export is RL's start and evaluation's subject. The layout is that of cosmos-rl 0.4.7,
`safetensors/step_N/{00000.safetensors, model.safetensors.index.json, config.json, tokenizer and processor files}`,
so that both engines, transformers and vLLM read it.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from cookbook.batched_vision import batch_vision
from cookbook.contract import Contract
from cookbook.encoder import Encoder
from cookbook.runs import ROOT

INDEX = "model.safetensors.index.json"
CONTRACT = "contract.yaml"


class CheckpointError(FileNotFoundError):
    """A checkpoint that is not there or not whole; the message names the path and what to do."""


def load(path: str | Path, dtype: torch.dtype = torch.float32):
    """Returns (model, processor) of a checkpoint folder, the vision tower batched, on a GPU where there is one.

    A relative path counts from the project's root; a run folder stands for its last export.
    Raises CheckpointError where there is no whole checkpoint.
    """
    folder = find(path)
    # the fast image processor needs no notice, and Auto classes name the architecture from config.json
    processor = AutoProcessor.from_pretrained(folder, use_fast=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    return batch_vision(model.to("cuda" if torch.cuda.is_available() else "cpu")), processor


def find(path: str | Path) -> Path:
    """Returns the folder with the weights: the path itself, or the highest `safetensors/step_N` below it."""
    path = ROOT / path
    exports = [*path.glob("safetensors/step_*"), *path.glob("step_*")]
    exports = sorted((e for e in exports if e.name[5:].isdigit()), key=lambda e: int(e.name[5:]))
    folder = exports[-1] if exports else path
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: holds no {name}, so it is no checkpoint. Has the run before this one ended?"
            )
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: holds no *.safetensors, so it has no weights")
    return folder


def require_contract(path: str | Path, contract: Contract) -> None:
    """Raises ContractError where a checkpoint says that it was trained under another contract."""
    own = find(path) / CONTRACT
    if own.is_file():
        contract.require(Contract.load(own), str(path))


def export(model, encoder: Encoder, run: Path, step: int, dtype: torch.dtype = torch.float32) -> Path:
    """Write `run/safetensors/step_N`: weights, processor, and the contract that they were trained under.

    Returns that folder.
    """
    folder = run / "safetensors" / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    encoder.processor.save_pretrained(folder)
    encoder.contract.save(folder / CONTRACT)
    shard = (folder / "model.safetensors").rename(folder / "00000.safetensors")
    with safe_open(shard, "pt") as file:
        names = list(file.keys())
    index = {"metadata": {"total_size": shard.stat().st_size}, "weight_map": dict.fromkeys(names, shard.name)}
    (folder / INDEX).write_text(json.dumps(index, indent=1))
    return folder


def keep_last(run: Path, count: int) -> None:
    """Delete the oldest exports of a run, so that `count` remain; -1 keeps all."""
    exports = sorted((run / "safetensors").glob("step_*"), key=lambda e: int(e.name[5:]))
    for folder in exports[:-count] if count > 0 else []:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
