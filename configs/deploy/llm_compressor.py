"""Quantise a checkpoint with llm-compressor, in an environment of its own (`make deploy-env`): FP8 dynamic, or W4A16.

Why: it needs other versions of torch and transformers than training does, and a GPU. Vision tower and lm_head stay as
they are. W4A16 (GPTQ) is calibrated on what `python -m cookbook.deploy quantise --form w4a16` writes: clips that
the run was trained on. This file was not run by us: LOG.md.

    .venv-deploy/bin/python configs/deploy/llm_compressor.py runs/mine/rl OUT --scheme FP8_DYNAMIC
    .venv-deploy/bin/python configs/deploy/llm_compressor.py runs/mine/rl OUT --scheme W4A16 --calibration FILE
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

LONGEST = 8192  # tokens of a calibration sample
KEPT = ["re:.*lm_head", "re:.*visual.*"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--scheme", choices=["FP8_DYNAMIC", "W4A16"], required=True)
parser.add_argument("--calibration", type=Path)
given = parser.parse_args()
if given.scheme == "W4A16" and not given.calibration:
    parser.error("W4A16 needs --calibration FILE")

model = Qwen2_5_VLForConditionalGeneration.from_pretrained(given.checkpoint, torch_dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained(given.checkpoint)


def encoded(row: dict) -> dict:
    """Returns one conversation as the model takes it, its clip at the contract's rate and size."""
    turns = json.loads(row["turns"])
    words = processor.apply_chat_template(turns, tokenize=False)
    images, videos, how = process_vision_info(turns, return_video_kwargs=True)
    return processor(text=[words], images=images, videos=videos, padding=False, max_length=LONGEST, **how)


if given.scheme == "W4A16":
    lines = given.calibration.read_text(encoding="utf-8").splitlines()
    data = Dataset.from_dict({"turns": lines}).map(encoded, remove_columns=["turns"])
    recipe = GPTQModifier(targets="Linear", scheme=given.scheme, ignore=KEPT)
    oneshot(
        model=model, dataset=data, recipe=recipe, max_seq_length=LONGEST, num_calibration_samples=len(lines),
        data_collator=lambda rows: {key: torch.tensor(value) for key, value in rows[0].items()},
    )  # fmt: skip
else:
    oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme=given.scheme, ignore=KEPT))
model.save_pretrained(given.out, save_compressed=True)
processor.save_pretrained(given.out)
if (contract := given.checkpoint / "contract.yaml").is_file():
    shutil.copyfile(contract, given.out / contract.name)
