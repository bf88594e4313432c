"""Models of published shapes with random weights: the same numbers under the same names, whoever holds them.

Why: no weights are needed to measure seconds and memory, but losses and gradients compare only where all variants of a
model, the engine's, transformers' and peft's, are filled alike.
"""

import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3VLConfig

from cookbook import jobs
from cookbook.checkpoint import INDEX
from cookbook.data.architecture import QWEN2_5_VL, QWEN3_VL, Architecture
from cookbook.runs import ROOT

LANGUAGE = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "vocab_size": 152064, "max_window_layers": 28,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}  # fmt: skip
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "num_heads": 16,
          "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "tokens_per_second": 2}  # fmt: skip
LIMITS = {"min_pixels": 3136, "max_pixels": 12845056}  # of the published processor
LANGUAGE_8B = {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
               "intermediate_size": 12288, "vocab_size": 151936, "head_dim": 128,
               "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]}}  # fmt: skip
VISION_8B = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096, "num_heads": 16,
             "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}  # fmt: skip
SHAPES = {  # of a family's usual model: a folder of its tokenizer and processor, and what is larger than there
    QWEN2_5_VL: (jobs.BASE, Qwen2_5_VLConfig, LANGUAGE, VISION),
    QWEN3_VL: ("models/tiny-qwen3", Qwen3VLConfig, LANGUAGE_8B, VISION_8B),
}

SHARD = 4.4e9  # bytes


def write_model(folder: Path, family: Architecture = QWEN2_5_VL) -> Path:
    """Write configuration, tokenizer and processor of Reason1-7B's or Reason2-8B's size, without weights."""
    tiny, kind, language, vision = SHAPES[family]
    shutil.copytree(ROOT / tiny, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tiny = json.loads((folder / "config.json").read_text())
    tokens = {key: value for key, value in tiny.items() if key.endswith("_token_id")}
    config = kind(text_config=language, vision_config=vision, tie_word_embeddings=False, **tokens)
    written = config.to_dict() | (kind := {"architectures": tiny["architectures"]})
    written["text_config"] |= kind  # vLLM looks there too
    (folder / "config.json").write_text(json.dumps(written, default=str))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (file := folder / name).is_file():
            told = json.loads(file.read_text())
            told |= LIMITS | {"size": {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}}
            file.write_text(json.dumps(told))
    words = [language["vocab_size"], language["hidden_size"]]  # the engine asks the file how many words there are
    head = {"dtype": "BF16", "shape": words, "data_offsets": [0, size := 2 * words[0] * words[1]]}
    header = json.dumps({"lm_head.weight": head}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    return folder


def published(name: str) -> str:
    """Returns a parameter's published name, from that of the engine, of transformers or of peft."""
    for cut in ("_orig_mod.", "base_model.model.", ".base_layer", ".default"):
        name = name.replace(cut, "")
    nested = {"model.visual.": "visual.", "model.language_model.": "model.", "model.lm_head": "lm_head"}
    for inner, outer in nested.items():
        name = name.replace(inner, outer)
    return name


def numbers(name: str, shape: torch.Size) -> torch.Tensor:
    """Returns the random numbers on the GPU that belong to a published name; norms are 1, biases and LoRA's B are 0."""
    if name.endswith("lora_B.weight") or name.endswith("bias"):
        return torch.zeros(shape, device="cuda")
    if len(shape) == 1:
        return torch.ones(shape, device="cuda")
    generator = torch.Generator("cuda").manual_seed(zlib.crc32(name.encode()))
    scale = shape[1] ** -0.5 if name.endswith("lora_A.weight") else 0.02
    return torch.randn(shape, generator=generator, device="cuda") * scale


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Give each weight its numbers."""
    for name, weight in model.named_parameters():
        local = getattr(weight, "to_local", lambda weight=weight: weight)()
        local.copy_(numbers(published(name), local.shape))


def write_weights(folder: Path, family: Architecture = QWEN2_5_VL) -> Path:
    """Write the model's files with all of its numbers, in bfloat16 under published names. Returns the folder."""
    write_model(folder, family)
    (folder / "model.safetensors").unlink()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    index, shard = {}, {}

    def close() -> None:
        name = f"{len(set(index.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    for inner, weight in model.named_parameters():
        values = numbers(name := published(inner), weight.shape).to(torch.bfloat16).cpu()
        shard[name if family.native else inner] = values
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            close()
    close()
    size = 2 * sum(p.numel() for p in model.parameters())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": index}))
    return folder
