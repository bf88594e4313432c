"""What the tests of checkpoints share: ones of a single number, and what cosmos-rl says of an adapter."""

import json

import torch
from safetensors.torch import save_file

from cookbook.checkpoint import INDEX
from cookbook.checkpoint.store import FILES
from cookbook.runs import ROOT

BASE = ROOT / "models" / "tiny-base"
ADAPTER = {  # as cosmos-rl 0.4.7 writes it: null where peft wants its default, and keys that peft does not know
    "r": 4, "lora_names": ["default"], "lora_path": None, "lora_alpha": 8.0, "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"], "primary_adapter": None, "use_rslora": False, "modules_to_save": None,
    "alpha_pattern": None, "r_pattern": None, "init_lora_weights": True,
    "base_model_name_or_path": str(BASE), "peft_type": "LORA",
}  # fmt: skip


def make(*folders):
    """Make checkpoints that are whole by their headers, and hold one number."""
    index = {"weight_map": {"model.norm.weight": "00000.safetensors"}}
    texts = {file: {"model_type": "qwen2_5_vl"} if file == "config.json" else {} for file in FILES}
    for folder in folders:
        folder.mkdir(parents=True)
        for name, content in (texts | {INDEX: index}).items():
            (folder / name).write_text(json.dumps(content))
        save_file({"model.norm.weight": torch.zeros(1)}, folder / "00000.safetensors")
