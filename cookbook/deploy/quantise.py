"""Quantise a checkpoint: the language model's matrices in 8 bits, all else as it was, in safetensors that vLLM reads.

Why: a 7B model takes half the memory. Vision tower, embeddings and lm_head stay: they are a fifth of the weights, and
the least forgiving. torchao makes the numbers, in the layout of compressed-tensors, which vLLM and llm-compressor read:
transformers 4.57.6 saves no int8 of torchao 0.18 but as a pickle, and cannot read that version's float8 again. What
llm-compressor made is read too; `calibration` is for its form that looks at clips, and takes training clips alone.

    python -m cookbook.deploy quantise runs/tutorial/rl runs/tutorial/deploy/int8 --form int8
    model, encoder = open_form("runs/tutorial/deploy/int8", contract)
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchao.quantization import Float8Tensor, Int8Tensor, PerRow
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from cookbook.checkpoint import CONTRACT, INDEX, CheckpointError, batch_vision, find, load, resolve
from cookbook.checkpoint.filled import explained, load_processor, require_filled
from cookbook.checkpoint.lineage import fingerprint
from cookbook.checkpoint.shards import require_folder
from cookbook.checkpoint.store import write_index, written_aside
from cookbook.checkpoint.verify import verify
from cookbook.data.architecture import architecture
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.display.tables import ERROR
from cookbook.runs import MANIFEST, ROOT, named, read_json, read_manifest

# as published, of both families; the vision tower and lm_head are named otherwise
MATRIX = re.compile(r"model\.(?:language_model\.)?(layers\.\d+\..+_proj)\.weight")
KEPT = ["re:.*visual.*", "re:.*lm_head.*"]  # the same, as compressed-tensors is told
SETTINGS, KEY = "config.json", "quantization_config"
SCRIPT = "configs/deploy/llm_compressor.py"
FLOAT4 = torch.tensor([sign * size for sign in (1, -1) for size in (0, 0.5, 1, 1.5, 2, 3, 4, 6)])  # by its four bits


@dataclass(frozen=True)
class Form:
    """How a matrix (rows, columns) is kept: the layout's name, its type of numbers, and the way there and back."""

    layout: str
    type: str
    unpack: Callable[[Mapping[str, Tensor], torch.dtype], Tensor]  # what is stored, by the end of its name, to a weight
    pack: Callable[[Tensor], dict[str, Tensor]] | None = None  # the way there; None where llm-compressor goes it
    bits: int = 8
    strategy: str = "channel"  # a scale a row
    rounds: bool = False  # activations to float8 too, each token by a scale of its own

    @property
    def settings(self) -> dict[str, Any]:
        """What config.json says of it, in compressed-tensors' words."""
        numbers = {"num_bits": self.bits, "type": self.type, "symmetric": True}
        weights = numbers | {"strategy": self.strategy, "dynamic": False}
        rounded = numbers | {"strategy": "token", "dynamic": True} if self.rounds else None
        group = {"targets": ["Linear"], "weights": weights, "input_activations": rounded, "output_activations": None}
        return {
            "quant_method": "compressed-tensors", "format": self.layout, "quantization_status": "compressed",
            "ignore": KEPT, "config_groups": {"group_0": group}, "kv_cache_scheme": None,
        }  # fmt: skip


def _pack_int8(weight: Tensor) -> dict[str, Tensor]:
    scale = Int8Tensor.from_hp(weight, PerRow()).scale.to(weight.dtype)  # vLLM holds it so; the numbers must fit it
    numbers = Int8Tensor.from_hp(weight, PerRow(), scale=scale.float()).qdata
    packed = (numbers.to(torch.int16) + 128).to(torch.uint8).view(torch.int32)  # four to a word, without a sign
    return {"weight_packed": packed, "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}


def _unpack_int8(stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    numbers, scale = (_parts(stored["weight_packed"], 8) - 128).to(torch.int8), stored["weight_scale"].float()
    zero = torch.zeros_like(scale, dtype=torch.int8)
    return Int8Tensor(numbers, scale, [1, numbers.shape[1]], dtype, zero_point=zero)


def _parts(words: Tensor, bits: int) -> Tensor:
    """Returns the numbers that lie side by side in words, without a sign, the first in the lowest bits."""
    shifts = torch.arange(0, 8 * words.element_size(), bits, dtype=words.dtype)
    return (words.unsqueeze(-1) >> shifts & 2**bits - 1).flatten(1)


def _pack_float8(weight: Tensor) -> dict[str, Tensor]:
    made = Float8Tensor.from_hp(weight, granularity=PerRow())
    return {"weight": made.qdata, "weight_scale": made.scale}


def _unpack_float8(stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    numbers = stored["weight"]
    return Float8Tensor(numbers, stored["weight_scale"], block_size=[1, numbers.shape[1]], dtype=dtype)


def _unpack_four(stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    numbers, scale = _parts(stored["weight_packed"], 4), stored["weight_scale"].float()
    if "weight_global_scale" in stored:
        numbers, scale = FLOAT4[numbers.long()], scale / stored["weight_global_scale"]
    else:
        numbers = numbers - 8
    return (numbers.unflatten(1, (scale.shape[1], -1)) * scale.unsqueeze(-1)).flatten(1).to(dtype)


def _rounded(_, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns a matrix's input as float8 has it; torchao 0.18 multiplies two of float8 on no CPU."""
    return Float8Tensor.from_hp(given[0], granularity=PerRow()).dequantize(), *given[1:]


FORMS = {
    "int8": Form("pack-quantized", "int", _unpack_int8, _pack_int8),
    "float8": Form("float-quantized", "float", _unpack_float8, _pack_float8),
}
BY_LLM_COMPRESSOR = {  # the scripts' schemes, in small letters; four bits are whole again in our memory
    "fp8-dynamic": Form("float-quantized", "float", _unpack_float8, rounds=True),
    "w4a16": Form("pack-quantized", "int", _unpack_four, bits=4, strategy="group"),
    "nvfp4a16": Form("nvfp4-pack-quantized", "float", _unpack_four, bits=4, strategy="tensor_group"),
}
READ = FORMS | BY_LLM_COMPRESSOR


def quantise(path: str | Path, out: str | Path, form: str = "int8") -> Path:
    """Write a checkpoint's quantised form to `out`, one shard of it in memory at a time. Returns that folder.

    Raises CheckpointError for a checkpoint that does not verify, as an adapter, and where `out` cannot be written;
    ValueError for an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"{form}: there is no such form; there are {', '.join(FORMS)}")
    if wrong := next((check for check in verify(path).checks if check.status == ERROR), None):
        raise CheckpointError(f"{named(ROOT / path)}: is not quantised, its {wrong.name} is wrong: {wrong.found}")
    folder, place = find(path), ROOT / out
    if place.exists() and read_manifest(place).get("kind") not in FORMS and any(place.iterdir()):
        raise CheckpointError(f"{out}: holds something else; name a new folder")
    config = read_json(folder / SETTINGS) | {KEY: FORMS[form].settings}
    told = {"kind": form, "start": named(folder), "weights": fingerprint(folder), "torchao": version("torchao")}
    with written_aside(place) as made:
        for file in folder.iterdir():
            if file.is_file() and file.suffix not in (".safetensors", ".md") and file.name not in (INDEX, SETTINGS):
                shutil.copyfile(file, made / file.name)
        for shard in folder.glob("*.safetensors"):
            kept = load_file(shard)
            for name in filter(MATRIX.fullmatch, [*kept]):
                parts = FORMS[form].pack(kept.pop(name))
                kept |= {name.removesuffix("weight") + end: part.contiguous() for end, part in parts.items()}
            save_file(kept, made / shard.name, {"format": "pt"})
        write_index(made)
        for name, content in ((SETTINGS, config), (MANIFEST, told)):
            (made / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return place


def form_of(path: str | Path) -> tuple[Path, Form | None]:
    """Returns a checkpoint's folder and its form, None for full precision. Raises CheckpointError for another form."""
    require_folder(folder := resolve(path))
    said = read_json(folder / SETTINGS).get(KEY) if (folder / SETTINGS).is_file() else None
    if said is None:
        return find(folder), None
    form = None
    with suppress(AttributeError, KeyError, TypeError):  # it says something else than groups of weights
        form = next((form for form in READ.values() if _gist(form.settings) == _gist(said)), None)
    if form is None:
        known = f"what is read here is {', '.join(READ)}, as `python -m cookbook.deploy quantise` makes them"
        raise CheckpointError(f"{named(folder)}: is quantised in another form; vLLM may serve it, {known}")
    return folder, form


def _gist(said: Mapping[str, Any]) -> list:
    """Returns what decides the numbers, of what config.json says of a form; llm-compressor says more."""
    groups = [(group["weights"], group["input_activations"]) for group in said.get("config_groups", {}).values()]
    keys = "num_bits", "type", "symmetric", "strategy", "dynamic"
    return [said.get("format"), *([part and [part[key] for key in keys] for part in group] for group in groups)]


def contract_of(path: str | Path, given: Contract | None = None) -> Contract:
    """Returns the contract that a checkpoint carries, or the given one where it carries none.

    Raises ContractError where the two differ, CheckpointError where there is neither.
    """
    own = (folder := form_of(path)[0]) / CONTRACT
    if not own.is_file() and given is None:
        raise CheckpointError(f"{named(folder)}: carries no {CONTRACT}; name one with --contract")
    if own.is_file() and given:
        given.require(Contract.load(own), named(folder))
    return Contract.load(own) if own.is_file() else given.for_base(architecture(folder))


def open_form(path: str | Path, contract: Contract | None = None) -> tuple[Any, Encoder]:
    """Returns (model, encoder) of a checkpoint, quantised or full, in bfloat16 on a GPU, in float32 without.

    Raises what `contract_of` raises, and CheckpointError for what does not load.
    """
    (folder, form), bound = form_of(path), contract_of(path, contract)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    model, processor = (_load_quantised(folder, form, dtype), load_processor(folder)) if form else load(folder, dtype)
    return model.to(device).eval(), Encoder(processor, bound, model.config)


def _load_quantised(folder: Path, form: Form, dtype: torch.dtype):
    """Returns the model, torchao's weights in place of its matrices. Raises CheckpointError where one is missing."""
    with explained(folder, "cannot be read"):
        stored = tensors_of(folder)
        stems = {name.removesuffix("weight_scale") for name in stored if name.endswith(".weight_scale")}
        parts = {stem: {name[len(stem) :]: stored.pop(name) for name in [*stored] if name.startswith(f"{stem}weight")}
                 for stem in stems}  # fmt: skip
        weights = {f"{stem}weight": form.unpack(part, dtype) for stem, part in parts.items()}
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        del config.quantization_config
        whole = {name: weight.dequantize() for name, weight in weights.items()}
        model, told = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=stored | whole, dtype=dtype, output_loading_info=True
        )
    require_filled(told, folder, "Quantise the checkpoint again")
    for name, weight in weights.items():
        matrix = model.get_submodule(f"model.language_model.{MATRIX.fullmatch(name)[1]}")
        matrix.weight = torch.nn.Parameter(weight, requires_grad=False)
        if form.rounds:
            matrix.register_forward_pre_hook(_rounded)
    return batch_vision(model)


def tensors_of(folder: str | Path) -> dict[str, Tensor]:
    """Returns all tensors of a checkpoint's files, by name, as they are stored."""
    shards = sorted(form_of(folder)[0].glob("*.safetensors"))
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


def weight_bytes(model) -> int:
    """Returns the bytes that a model's weights take in memory, its quantised ones as they are."""
    names = ((p, p.__tensor_flatten__()[0] if hasattr(p, "qdata") else ["data"]) for p in model.parameters())
    return sum(getattr(p, name).nbytes for p, parts in names for name in parts)


def calibration(train: Sequence[Sample], contract: Contract, path: str | Path, out: Path, count: int = 128) -> Path:
    """Write training conversations, spread evenly, as the checkpoint at `path` takes them. Returns their folder, `out`.

    As tensors, one file each: the environment of llm-compressor reads no clips, and so no other frames.
    """
    config = AutoConfig.from_pretrained(folder := form_of(path)[0], local_files_only=True, trust_remote_code=False)
    encoder = Encoder(load_processor(folder), contract, config)
    with written_aside(out) as made:
        for i, sample in enumerate(train[:: max(1, len(train) // count)][:count]):
            batch = encoder.training_batch([sample])
            del batch["labels"]
            kept = {name: part.bfloat16() if part.is_floating_point() else part for name, part in batch.items()}
            save_file(kept, made / f"{i:05}.safetensors")
    return out
