"""What the patterns of a configuration hit in the model: layers to freeze, to train, to adapt, with rates of their own.

Why: a pattern that hits nothing is no error for the engine; the layers that it meant go on training, or get no adapter.
Names are the engine's, read from the checkpoint's index or header where it is on this disk, and known of the published
models (`config.models`). Of another model, and of Qwen2.5-VL under train.force_use_hf, nothing is said. The lint prints
them.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from safetensors import SafetensorError, safe_open

from cookbook.config.document import Config
from cookbook.config.models import family_of, published_names, shape_of
from cookbook.runs import ROOT, read_json

RENAMED = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "model.lm_head."}
LINEAR = re.compile(r"(?:_proj|qkv|attn\.proj|mlp\.\d|linear_fc\d)$")  # modules that can take an adapter


@lru_cache(maxsize=8)
def parameter_names(model: str) -> tuple[str, ...]:
    """Returns the parameters of a checkpoint as the engine names them; () where they are not known.

    Raises ValueError or OSError for a checkpoint's file that cannot be read.
    """
    folder, found = ROOT / model, set[str]()
    for index in folder.glob("*.index.json"):
        if not isinstance(listed := read_json(index, ("weight_map",))["weight_map"], dict):
            raise ValueError(f"{index}: its weight_map is no table of names; copy it again")
        found |= listed.keys()
    try:
        for shard in () if found else folder.glob("*.safetensors"):
            with safe_open(shard, "np") as opened:
                found |= set(opened.keys())
    except SafetensorError as error:
        raise ValueError(f"{shard}: its header cannot be read; was it cut off? ({error})") from None
    if not found:
        return tuple(published_names(shape)) if (shape := shape_of(model)) else ()
    if not family_of(model).native:  # the engine trains transformers' model, whose names these are
        return tuple(sorted(found))
    short = [(next((p for p in RENAMED if name.startswith(p)), ""), name) for name in found]
    return tuple(sorted(RENAMED.get(prefix, "") + name.removeprefix(prefix) for prefix, name in short))


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
        renamed = names and config["train.force_use_hf"] and family_of(config["policy.model_name_or_path"]).native
        for pattern in patterns if names and not renamed else ():
            try:
                found.append((key, pattern, [name for name in names if kind(pattern)(name)]))
            except re.error as error:
                raise ValueError(f"{key}: {pattern!r} is no regular expression ({error})") from None
    return found
