"""What the tests of checkpoints share: empty ones, and what cosmos-rl says of an adapter."""

from cookbook.runs import ROOT

BASE = ROOT / "models" / "tiny-base"
ADAPTER = {  # as cosmos-rl 0.4.7 writes it: null where peft wants its default, and keys that peft does not know
    "r": 4, "lora_names": ["default"], "lora_path": None, "lora_alpha": 8.0, "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"], "primary_adapter": None, "use_rslora": False, "modules_to_save": None,
    "alpha_pattern": None, "r_pattern": None, "init_lora_weights": True,
    "base_model_name_or_path": str(BASE), "peft_type": "LORA",
}  # fmt: skip


def make(*folders):
    """Make empty checkpoints: with the files that are asked for, without content."""
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "00000.safetensors"):
            (folder / name).write_text("{}")
