"""Shards: the weight files of a checkpoint, held against their index, and read one tensor at a time.

Why: a 7B checkpoint is 16 GB in several files; a copy that broke off leaves one of them short, or the index naming a
file that never came. `cookbook.checkpoint.verify` uses it, and the launcher of cosmos-rl for what that has exported.

    what_is_missing(Path("runs/x/safetensors/step_12"))        # "", or "00001.safetensors cannot be read, …"
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cookbook.display.tables import ERROR, OK, WARNING, Check

INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # stands in what is no whole weights, but what LoRA adds to them
STATE = "cosmos_config"  # stands in every training state that cosmos-rl saves for resume

Shards = Mapping[str, Path]  # the file of each tensor


def few(things: Collection[str]) -> str:
    """Returns the first three of many, and how many more there are."""
    things = sorted(things)
    return ", ".join(things[:3]) + (f" and {len(things) - 3} more" if len(things) > 3 else "")


def what_is_missing(export: Path) -> str:
    """Returns what an export lacks, "" for a whole one: weights with configuration and index, or a LoRA adapter."""
    for name in () if (export / ADAPTER).is_file() else ("config.json", INDEX):
        if not (export / name).is_file():
            return f"{name} is missing"
    first, *_ = read_shards(export)[1]
    return first.found if first.status == ERROR else ""


def read_shards(folder: Path) -> tuple[Shards, list[Check]]:
    """Returns the file of every tensor that can be read, and whether files and index agree."""
    files, shards, problems = sorted(folder.glob("*.safetensors")), {}, []
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                shards |= dict.fromkeys(opened.keys(), file)
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read, was it cut off? ({error})")
    problems += _against_index(folder, shards, files) if files else ["there is no *.safetensors"]
    if problems:
        return shards, [Check("shards", ERROR, "; ".join(problems), "copy or export the checkpoint again")]
    return shards, [Check("shards", OK, f"{len(files)}, with {len(shards)} tensors"), *_size(folder, files)]


def _against_index(folder: Path, shards: Shards, files: list[Path]) -> Iterator[str]:
    """Yields where the index and the files disagree."""
    if (folder / ADAPTER).is_file():
        if folder / "adapter_model.safetensors" not in files:
            yield "there is no adapter_model.safetensors"
        return
    if not (folder / INDEX).is_file():
        if [file.name for file in files] != ["model.safetensors"]:
            yield f"there is no {INDEX}, and without it only model.safetensors is read"
        return
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        yield f"{INDEX} cannot be read ({error})"
        return
    there = {file.name for file in files}
    if absent := set(listed.values()) - there:
        yield f"the index names {few(absent)}, not there"
    if extra := there - set(listed.values()):
        instead = ", and is read instead of what it names" if "model.safetensors" in extra else ""
        yield f"{few(extra)} is not in the index{instead}"
    holds = {name: file.name for name, file in shards.items()}
    readable = set(holds.values())
    if lost := {name for name, file in listed.items() if file in readable and holds.get(name) != file}:
        yield f"{few(lost)} not in the shard that the index names"
    if unlisted := shards.keys() - listed.keys():
        yield f"{few(unlisted)} not in the index"


def _size(folder: Path, files: list[Path]) -> Iterator[Check]:
    """Yields whether the index's total fits the files; early exports of this project counted the headers too."""
    try:
        said = json.loads((folder / INDEX).read_text(encoding="utf-8"))["metadata"]["total_size"]
    except (OSError, KeyError, TypeError):
        return
    size = sum(file.stat().st_size for file in files)
    tensors = size - sum(header_size(file) for file in files)
    if tensors <= said <= size:
        yield Check("size", OK, f"{size / 1e9:.3g} GB, as the index says")
    else:
        yield Check("size", WARNING, f"{tensors} bytes of tensors, but the index says {said}")


def stream(shards: Shards) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, tensor), one at a time, file by file."""
    for file in sorted(set(shards.values())):
        with safe_open(file, "pt") as opened:
            for name in (n for n, place in shards.items() if place == file):
                yield name, opened.get_tensor(name)


def header_size(shard: Path) -> int:
    """Returns the bytes that stand before the tensors of a safetensors file: a length in 8 bytes, and the header."""
    with shard.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def one(shards: Shards, name: str) -> torch.Tensor:
    """Returns one tensor."""
    with safe_open(shards[name], "pt") as opened:
        return opened.get_tensor(name)
