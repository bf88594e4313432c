"""Quantise a checkpoint with llm-compressor, in an environment of its own (`make deploy-env`): FP8, or four bits.

Why: it needs other versions of torch and transformers than training does; so it takes from training what must not
differ, tensors and files: `python -m cookbook.deploy quantise … --form w4a16` writes clips that the run was trained on
as the model takes them, and config.json, tokenizer and processor are copied. Vision tower and lm_head stay as they are.
W4A16 (GPTQ) is calibrated; FP8_DYNAMIC and NVFP4A16 need no clip. A group of weights with one scale has 128 of them (16
in NVFP4A16), which divides the rows of the published models; where it does not, as in the tiny ones (64), the largest
part that does. Run by us for the tiny models of both families on a CPU, and for 7B's shape on an H200: LOG.md.

    .venv-deploy/bin/python configs/deploy/llm_compressor.py runs/mine/rl OUT --scheme FP8_DYNAMIC
    .venv-deploy/bin/python configs/deploy/llm_compressor.py runs/mine/rl OUT --scheme W4A16 --calibration FOLDER
"""

import argparse
import json
import math
import shutil
from importlib.metadata import version
from pathlib import Path

from compressed_tensors.quantization import preset_name_to_scheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText

KEPT = ["re:.*visual.*", "re:.*lm_head.*"]
SETTINGS, KEY = "config.json", "quantization_config"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--scheme", choices=["FP8_DYNAMIC", "W4A16", "NVFP4A16"], required=True)
parser.add_argument("--calibration", type=Path)
given = parser.parse_args()
files = sorted(given.calibration.glob("*.safetensors")) if given.calibration else []
if bool(files) != (given.scheme == "W4A16"):
    parser.error("W4A16 needs --calibration FOLDER with clips in it, the others need none")

model = AutoModelForImageTextToText.from_pretrained(given.checkpoint, dtype="auto")
scheme = preset_name_to_scheme(given.scheme, ["Linear"])
if group := scheme.weights.group_size:
    rows = {m.in_features for name, m in model.named_modules() if ".layers." in name and name.endswith("_proj")}
    scheme.weights.group_size = math.gcd(group, *rows)
    print(f"{given.scheme}: a scale for each {scheme.weights.group_size} weights of a row")
how = {"config_groups": {"group_0": scheme}, "ignore": KEPT}
if files:
    oneshot(model=model, recipe=GPTQModifier(**how), dataset=DataLoader(files, batch_size=None, collate_fn=load_file))
else:
    oneshot(model=model, recipe=QuantizationModifier(**how))
model.save_pretrained(given.out, save_compressed=True)

config, made = (json.loads((place / SETTINGS).read_text(encoding="utf-8")) for place in (given.checkpoint, given.out))
for file in given.checkpoint.iterdir():
    if file.is_file() and file.suffix not in (".safetensors", ".md") and not file.name.endswith(".index.json"):
        shutil.copyfile(file, given.out / file.name)
form = given.scheme.lower().replace("_", "-")
told = {"kind": form, "start": str(given.checkpoint), "llmcompressor": version("llmcompressor")}
for name, content in ((SETTINGS, config | {KEY: made[KEY] | {"ignore": KEPT}}), ("manifest.json", told)):
    (given.out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
