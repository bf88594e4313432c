"""What a checkpoint's folder holds, by names and headers alone: no weight is read, so a 7B model takes milliseconds.

Why: a shard that was cut off, a Git-LFS pointer, an index of other files, or a wrapper's names load with random numbers
under a warning, or fail deep in a library; and a configuration may ask for code of its own. `store.find` refuses what
is said here, and `verify` lists it.

    shards, problems = read_shards(folder)      # the file of each tensor, and what is wrong, "" for nothing
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cookbook.data.architecture import KNOWN
from cookbook.runs import ROOT, named, read_json

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
STATE = "cosmos_config"  # stands in every training state that cosmos-rl saves for resume
ADAPTER = "adapter_config.json"  # stands in what is no whole weights, but what LoRA adds to them
SETTINGS = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "processor_config.json",
            "video_preprocessor_config.json", "generation_config.json")  # fmt: skip
# in those: how keys end that take numbers above 0, and keys that take three numbers
POSITIVE = ("patch_size", "merge_size", "hidden_size", "window_size", "vocab_size", "_heads", "hidden_layers", "depth",
            "_pixels", "image_std", "rescale_factor", "rope_theta", "mrope_section", "rms_norm_eps",
            "tokens_per_second")  # fmt: skip
TRIPLES = ("image_mean", "image_std", "mrope_section")
POINTER = b"version https://git-lfs"
NUMBERS = {"F16", "BF16", "F32", "F64"}
FOREIGN = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile", "_fsdp_wrapped_module.": "FSDP",
           "base_model.model.": "peft"}  # fmt: skip
# where what was meant often lies: Trainer's checkpoint-N, a snapshot of the hub's cache, a folder around the checkpoint
NEAR = ("*/*.safetensors", "snapshots/*/*.safetensors", "*/snapshots/*/*.safetensors")

Shards = Mapping[str, Path]  # the file of each tensor


class CheckpointError(FileNotFoundError):
    """A checkpoint that is not there or not whole; the message names the path and what to do."""


def few(things: Collection[str]) -> str:
    """Returns the first three of many, and how many more there are."""
    things = sorted(things)
    return ", ".join(things[:3]) + (f" and {len(things) - 3} more" if len(things) > 3 else "")


def require_folder(folder: Path) -> None:
    """Raises CheckpointError for what is no folder, or may not be read."""
    if folder.is_file():
        raise CheckpointError(f"{named(folder)}: is a file; name the checkpoint's folder: {named(folder.parent)}")
    if not folder.is_dir():
        raise CheckpointError(
            f"{named(folder)}: there is no such folder. Has the run before this one ended? A model of the hub is "
            "fetched with `hf download NAME --local-dir FOLDER`"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise CheckpointError(f"{named(folder)}: may not be read by this user; chmod u+rx, or ask its owner")


def meant(folder: Path) -> str:
    """Returns a hint at the newest checkpoint near below a folder that is none itself, "" where there is none."""
    near = {file.parent for pattern in NEAR for file in folder.glob(pattern)}
    newest = max(near, key=lambda place: (place.stat().st_mtime, place), default=None)
    empty = "" if any(folder.iterdir()) else " It is empty."
    return f" Was {named(newest)} meant?" if newest else f"{empty} Has the run before this one ended?"


def file_problems(folder: Path) -> Iterator[str]:
    """Yields what is wrong with the small files: pointers, broken JSON, another architecture, code of their own."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and _is_pointer(file):
            yield f"{file.name} is a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`"
            return
    for name in SETTINGS:
        try:
            said = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}
            odd = next(_odd_numbers(said), "") if isinstance(said, dict) else "holds no JSON object"
        except (ValueError, OSError, RecursionError) as error:
            odd = f"cannot be read ({error})"
        if odd:
            yield f"{name} {odd}; copy it from the base"
        elif "auto_map" in said:
            yield f"{name} asks for code of its own (auto_map), and no such code is run; delete that key"
        elif "quantization_config" in said:
            yield f"{name} names a quantization; quantized weights cannot be trained or compared"
        elif name == SETTINGS[0] and said.get("model_type") not in list(KNOWN):
            found = repr(said.get("model_type", "no model_type"))
            supported = " and ".join(f"{name} ({family.models})" for name, family in KNOWN.items())
            yield f"{name} says {found}; supported are {supported}"


def _odd_numbers(said: Mapping[str, Any], table: str = "") -> Iterator[str]:
    """Yields numbers of a settings file that no model can compute with: `text_config.rope_theta is nan, …`."""
    for key, value in said.items():
        if isinstance(value, dict):
            yield from _odd_numbers(value, f"{table}{key}.")
            continue
        items = value if isinstance(value, list) else [value]
        numbers = [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
        least, three = 0 if key.endswith(POSITIVE) else -inf, key in TRIPLES
        takes = "three " * three + "finite numbers" + " above 0" * (least == 0)
        odd = not all(least < number < inf for number in numbers) or (three and len(items) != 3)
        if value is not None and (odd or (len(numbers) < len(items) and (three or least == 0))):
            yield f"says {table}{key} = {value!r}, which takes {takes}"


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Returns what an adapter's configuration says. Raises CheckpointError for one that is damaged."""
    try:
        return read_json(folder / ADAPTER)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{named(folder)}: {ADAPTER} cannot be read ({error}); export it again") from None


def header_size(shard: Path) -> int:
    """Returns the bytes that stand before the tensors of a safetensors file: a length in 8 bytes, and the header."""
    with shard.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(POINTER)) == POINTER


def read_shards(folder: Path) -> tuple[Shards, list[str]]:
    """Returns the file of every tensor that can be read, and where files and index are not what they should be."""
    files, shards, problems = sorted(folder.glob("*.safetensors")), {}, []
    for file in files:
        try:
            names = _tensors_of(file, folder)
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read, was it cut off? ({error})")
        except ValueError as error:
            problems.append(f"{file.name} {error}")
        else:
            if twice := names & shards.keys():
                problems.append(f"{few(twice)} in {shards[min(twice)].name} and in {file.name}")
            shards |= dict.fromkeys(names, file)
    problems += _against_index(folder, shards, files) if files else ["there is no *.safetensors"]
    return shards, problems


def _tensors_of(file: Path, folder: Path) -> set[str]:
    """Returns the names of a shard's tensors. Raises ValueError for a file that is none, or leads out of the folder."""
    real, home = Path(os.path.realpath(file)), folder.resolve()  # `resolve` raises for a link to itself
    cache = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home  # the hub's cache is made of links
    if not (real.is_relative_to(home) or real.is_relative_to(cache)):
        raise ValueError("is a link that leads out of the folder; copy the file itself here")
    if not file.stat().st_size:
        raise ValueError("is empty, was it cut off?")
    if _is_pointer(file):
        raise ValueError("is a Git-LFS pointer, not the weights; fetch them with `git lfs pull`")
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
        kinds = {name: opened.get_slice(name).get_dtype() for name in names}
    if odd := {f"{name} ({kind})" for name, kind in kinds.items() if kind not in NUMBERS}:
        raise ValueError(f"holds {few(odd)}: quantized weights cannot be trained or compared")
    return set(kinds)


def _against_index(folder: Path, shards: Shards, files: list[Path]) -> Iterator[str]:
    """Yields where the index and the files disagree, and names that only a wrapper knows."""
    if (folder / ADAPTER).is_file():
        if folder / "adapter_model.safetensors" not in files:
            yield "there is no adapter_model.safetensors"
        return
    for prefix, wrapper in FOREIGN.items():
        if names := [name for name in shards if name.startswith(prefix)]:
            yield f"{few(names)}: named by {wrapper}; take {prefix!r} off the names, or save the model inside it"
    if not (folder / INDEX).is_file():
        if [file.name for file in files] != [SINGLE]:
            yield f"there is no {INDEX}, and without it only {SINGLE} is read"
        return
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        if out := [file for file in listed.values() if Path(file).name != file]:
            yield f"{INDEX} leads out of the folder: {few(set(out))}"
            return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{INDEX} cannot be read ({error!r})"
        return
    there, wanted = {file.name for file in files}, set(listed.values())
    holds = {name: file.name for name, file in shards.items()}
    moved = {name for name, file in listed.items() if file in holds.values() and holds.get(name) != file}
    instead = ", and is read instead of what it names" if SINGLE in there - wanted else ""
    for names, words in (
        (wanted - there, "the index names {}, not there"),
        (there - wanted, f"{{}} is not in the index{instead}"),
        (moved, "{} not in the shard that the index names"),
        (holds.keys() - listed.keys(), "{} not in the index"),
    ):
        if names:
            yield words.format(few(names))


def step_of(folder: Path) -> float:
    """Returns N of `step_N`, infinity for `final`, -1 for anything else."""
    number = re.fullmatch(r"step_(\d+)", folder.name)
    return int(number[1]) if number else float("inf") if folder.name == "final" else -1


def last_complete(run: str | Path) -> Path | None:
    """Returns the newest training state that `train.resume` can take, `…/checkpoints/step_N/policy`; None without.

    Complete is one whose ranks have all left their marker `.rank_R_complete`: those that its cosmos_config asks for
    where that can be read, and all whose files are there. Folders by time are looked into as well.
    """
    places = [*(ROOT / run).glob("checkpoints/step_*/policy"), *(ROOT / run).glob("[0-9]*/checkpoints/step_*/policy")]
    found = [p for p in places if step_of(p.parent) >= 0 and _is_complete(p)]
    return max(found, key=lambda p: (step_of(p.parent), p.parents[2].name), default=None)


def _is_complete(state: Path) -> bool:
    try:
        sizes = json.loads((state / STATE).read_text(encoding="utf-8"))["policy"]["parallelism"]
        # ranks that only repeat another's shards save nothing; -1 leaves the number open
        ranks = max(sizes["dp_shard_size"], 1) * sizes["tp_size"] * sizes["pp_size"] * sizes["cp_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    there = {p.stem.rpartition("_")[2] for p in state.glob("model_rank_*.pth")} | {str(r) for r in range(ranks)}
    return all((state / f".rank_{rank}_complete").exists() for rank in there)
