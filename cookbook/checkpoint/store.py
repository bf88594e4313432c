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
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from cookbook.checkpoint.filled import load_model, load_processor, require_finite
from cookbook.checkpoint.shards import (
    ADAPTER,
    INDEX,
    CheckpointError,
    file_problems,
    meant,
    read_shards,
    require_folder,
)
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import ROOT, named, unfinished

CONTRACT = "contract.yaml"
STATE = "cosmos_config"  # stands in every training state that cosmos-rl saves for resume

log = logging.getLogger(__name__)


def load(path: str | Path, dtype: torch.dtype = torch.float32):
    """Returns (model, processor) of a checkpoint folder, the vision tower batched, on a GPU where there is one.

    A relative path counts from the project's root; a run folder stands for its last export.
    Raises CheckpointError where there is no whole checkpoint, or one with a weight that is no number.
    """
    folder = find(path)
    processor = load_processor(folder)
    model = load_model(folder, dtype=dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    require_finite(model, folder)
    return batch_vision(model), processor


def find(path: str | Path) -> Path:
    """Returns the folder with whole weights that a path stands for; see `resolve`. Raises CheckpointError."""
    folder = resolve(path)
    require_folder(folder)
    require_weights(folder)
    files = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    if name := next((name for name in files if not (folder / name).is_file()), ""):
        raise CheckpointError(f"{named(folder)}: holds no {name}, so it is no checkpoint.{meant(folder)}")
    if not list(folder.glob("*.safetensors")):
        pickles = ", and pickles (*.bin, *.pt) are never read" if [*folder.glob("*.bin"), *folder.glob("*.pt*")] else ""
        raise CheckpointError(f"{named(folder)}: holds no *.safetensors, so it has no weights{pickles}")
    if problem := "; ".join([*file_problems(folder)] or read_shards(folder)[1]):
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
    if (folder / STATE).is_file():
        what = "is the engine's training state, for train.resume; its weights lie in safetensors/step_N"
        raise CheckpointError(f"{named(folder)}: {what}")


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Returns what an adapter's configuration says. Raises CheckpointError for one that is damaged."""
    try:
        said = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("no JSON object")
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{named(folder)}: {ADAPTER} cannot be read ({error}); export it again") from None
    return said


def resolve(path: str | Path) -> Path:
    """Returns the export that a path stands for: the path itself, or the last export of a run or output folder.

    The last is `final`, as older engines name it, else the highest `step_N`; of an output folder with folders by time,
    that of the newest which has one. Raises CheckpointError where an export is only half written.
    """
    path = ROOT / path
    stamps = sorted((p for p in path.glob("[0-9]*") if p.name.isdigit() and p.is_dir()), key=lambda p: p.name)
    for place in (path, *reversed(stamps)):
        if exports := _exports(place):
            require_finished(place, exports)
            if place in stamps[:-1]:
                log.warning("%s holds no export; taking %s, which is older", named(stamps[-1]), place.name)
            return exports[-1]
    half = (
        file for below in ("", "safetensors/", "*/safetensors/") for file in path.glob(f"{below}step_*.incomplete-*")
    )
    if unfinished := next(half, None):
        raise CheckpointError(f"{named(unfinished)}: is half written. Wait for the run, or take a step before it")
    return path


def require_finished(run: Path, exports: Sequence[Path] = ()) -> None:
    """Raises CheckpointError for the folder of a run that is not at its end; one of its `exports` may be named."""
    if outcome := unfinished(run):
        instead = f", or name an export: {named(exports[-1])}" if exports else ""
        raise CheckpointError(f"{named(run)}: its training did not come to its end ({outcome}); run it again{instead}")


def _exports(place: Path) -> list[Path]:
    """Returns `step_N` and `final` in a folder and its `safetensors`, by step; `step_N.incomplete-…` is none."""
    found = [*place.glob("*"), *place.glob("safetensors/*")]
    return sorted((p for p in found if p.is_dir() and _order(p) >= 0), key=_order)


def _order(folder: Path) -> float:
    """Returns N of `step_N`, infinity for `final`, -1 for anything else."""
    number = re.fullmatch(r"step_(\d+)", folder.name)
    return int(number[1]) if number else float("inf") if folder.name == "final" else -1


def on_disk(name: str | Path) -> Path | None:
    """Returns the folder of a checkpoint: a path, or a hub's name that was downloaded before; None for neither."""
    if (ROOT / name).exists():
        return find(name)
    try:
        return Path(snapshot_download(str(name), local_files_only=True))
    except (OSError, ValueError):
        return None


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


def last_complete(run: str | Path) -> Path | None:
    """Returns the newest training state that `train.resume` can take, `…/checkpoints/step_N/policy`; None without.

    Complete is one whose ranks have all left their marker `.rank_R_complete`: those that its cosmos_config asks for
    where that can be read, and all whose files are there. Folders by time are looked into as well.
    """
    places = [*(ROOT / run).glob("checkpoints/step_*/policy"), *(ROOT / run).glob("[0-9]*/checkpoints/step_*/policy")]
    found = [p for p in places if _order(p.parent) >= 0 and _is_complete(p)]
    return max(found, key=lambda p: (_order(p.parent), p.parents[2].name), default=None)


def _is_complete(state: Path) -> bool:
    try:
        sizes = json.loads((state / STATE).read_text(encoding="utf-8"))["policy"]["parallelism"]
        # ranks that only repeat another's shards save nothing; -1 leaves the number open
        ranks = max(sizes["dp_shard_size"], 1) * sizes["tp_size"] * sizes["pp_size"] * sizes["cp_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    there = {p.stem.rpartition("_")[2] for p in state.glob("model_rank_*.pth")} | {str(r) for r in range(ranks)}
    return all((state / f".rank_{rank}_complete").exists() for rank in there)


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
    """Write weights in one shard, with index and processor. Returns `place`, whose earlier content is gone."""
    with written_aside(place) as folder:
        weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
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

    Where the block fails, as on a full disk, what it took is given back.
    """
    for left in place.parent.glob(f"{place.name}.incomplete-*"):
        shutil.rmtree(left)
    folder = place.with_name(f"{place.name}.incomplete-{os.getpid()}")
    folder.mkdir(parents=True)
    try:
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
    shards, holds = sorted(folder.glob("*.safetensors")), {}
    for shard in shards:
        with safe_open(shard, "pt") as file:
            holds |= dict.fromkeys(file.keys(), shard.name)
    size = sum(shard.stat().st_size - header_size(shard) for shard in shards)  # the index counts the tensors only
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": holds}, indent=1))


def header_size(shard: Path) -> int:
    """Returns the bytes that stand before the tensors of a safetensors file: a length in 8 bytes, and the header."""
    with shard.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def keep(run: Path, count: int, best: int | None = None) -> None:
    """Delete a run's oldest exports, so that the last `count` remain, and that of the step `best`; -1 keeps all."""
    for folder in _exports(run / "safetensors")[:-count] if count > 0 else []:
        if _order(folder) != best:
            shutil.rmtree(folder)
