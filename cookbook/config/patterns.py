"""What the patterns of a configuration hit in the model: layers to freeze, to train, to adapt, with rates of their own.

Why: a pattern that hits nothing is no error for the engine; the layers that it meant go on training, or get no adapter.
Names are those of the engine's own Qwen2.5-VL, read from the checkpoint's index or header where it is on this disk, and
known of Cosmos-Reason1-7B. Of another model, and under train.force_use_hf, nothing is said. The lint prints them.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

from cookbook.config.document import Config
from cookbook.runs import ROOT, read_json

SEVEN = ("nvidia/Cosmos-Reason1-7B", "Qwen/Qwen2.5-VL-7B-Instruct")
RENAMED = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "model.lm_head."}
LINEAR = re.compile(r"(?:_proj|qkv|attn\.proj|mlp\.\d)$")  # modules that can take an adapter


def _seven() -> Iterator[str]:
    """Yields the 729 parameter names of the 7B model."""
    both = ("weight", "bias")
    mlp = [f"mlp.{part}_proj." for part in ("gate", "up", "down")]
    layer = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"]
    layer += [part + "weight" for part in mlp]
    layer += [f"self_attn.{part}_proj.{kind}" for part, kind in product("qkv", both)]
    block = ["norm1.weight", "norm2.weight"]
    block += [part + kind for part, kind in product(["attn.qkv.", "attn.proj.", *mlp], both)]
    yield from (f"model.layers.{i}.{name}" for i, name in product(range(28), layer))
    yield from (f"visual.blocks.{i}.{name}" for i, name in product(range(32), block))
    yield from (
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.lm_head.weight",
        "visual.patch_embed.proj.weight",
    )
    yield from ("visual.merger.ln_q.weight", *(f"visual.merger.mlp.{i}.{kind}" for i, kind in product((0, 2), both)))


@lru_cache(maxsize=8)
def parameter_names(model: str) -> tuple[str, ...]:
    """Returns the parameters of a checkpoint as the engine names them; () where they are not known.

    Raises ValueError or OSError for a checkpoint's file that cannot be read.
    """
    folder = ROOT / model
    if not folder.is_dir():
        return tuple(_seven()) if model in SEVEN else ()
    found: set[str] = set()
    for index in folder.glob("*.index.json"):
        if not isinstance(listed := read_json(index, ("weight_map",))["weight_map"], dict):
            raise ValueError(f"{index}: its weight_map is no table of names; copy it again")
        found |= listed.keys()
    for shard in () if found else folder.glob("*.safetensors"):
        found |= _header(shard) - {"__metadata__"}
    short = [(next((p for p in RENAMED if name.startswith(p)), ""), name) for name in found]
    return tuple(sorted(RENAMED.get(prefix, "") + name.removeprefix(prefix) for prefix, name in short))


def _header(shard: Path) -> set[str]:
    """Returns the names in the header of a safetensors file."""
    with shard.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        head = file.read(min(size, 2**26))
    try:
        return set(json.loads(head).keys())
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{shard}: its header is not JSON; was it cut off? ({error})") from None


def hits(config: Config) -> list[tuple[str, str, list[str]]]:
    """Returns (key, pattern, names hit) of each pattern; [] where there is none, or the model's names are not known.

    Raises ValueError for a pattern that is no regular expression.
    """
    kinds: dict[str, Callable[[str], Callable[[str], object]]] = {
        "policy.freeze_pattern": lambda pattern: re.compile(pattern).search,  # in parameter names, as the engine does
        "policy.trainable_pattern": lambda pattern: re.compile(pattern).search,
        "policy.trainable_map": lambda path: lambda name: f"{name}.".startswith(f"{path}."),  # a module or a parameter
        "train.optm_lr": lambda path: lambda name: name.startswith(f"{path}."),  # a module
        "policy.lora.target_modules": lambda part: lambda name: part in name and LINEAR.search(name),
        "policy.lora.modules_to_save": lambda part: lambda name: part in name,  # part of a module's path
    }
    found = []
    for key, kind in kinds.items():
        stated = config.stated.get(key) or list(config.table(key))
        patterns = [part for part in (stated if isinstance(stated, list) else []) if isinstance(part, str) and part]
        patterns = [part for part in patterns if (key, part) != ("train.optm_lr", "global")]
        names = parameter_names(config["policy.model_name_or_path"]) if patterns else ()
        if "lora" in key:
            names = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
        for pattern in patterns if names and not config["train.force_use_hf"] else ():
            try:
                found.append((key, pattern, [name for name in names if kind(pattern)(name)]))
            except re.error as error:
                raise ValueError(f"{key}: {pattern!r} is no regular expression ({error})") from None
    return found
