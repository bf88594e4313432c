"""A model of Cosmos-Reason1-7B's size with random weights: memory and speed of SFT beside the plan.

Why: the plan's figures were measured once; here is the command that measures them again, without a download.

    python tests/benchmarks/seven_billion.py OUT              # LoRA on one GPU
    python tests/benchmarks/seven_billion.py OUT --gpus 2     # all weights on two
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from cookbook import jobs, pipeline, runs
from cookbook.checkpoint import INDEX
from cookbook.config import Config, plan
from cookbook.config.planner import step_seconds
from cookbook.data.encoder import Encoder
from cookbook.engine.launch import launch
from cookbook.runs import ROOT, Run, read_metrics
from data_tools import road_vqa

LANGUAGE = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "vocab_size": 152064, "max_window_layers": 28,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}  # fmt: skip
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "num_heads": 16,
          "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "tokens_per_second": 2}  # fmt: skip
SHARD = 4.4e9  # bytes


def write_model(folder: Path) -> Path:
    """Write random bf16 weights under the published names, with the tiny base's tokenizer. Returns the folder."""
    shutil.copytree(ROOT / jobs.BASE, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tiny = json.loads((folder / "config.json").read_text())
    tokens = {key: value for key, value in tiny.items() if key.endswith("_token_id")}
    config = Qwen2_5_VLConfig(text_config=LANGUAGE, vision_config=VISION, tie_word_embeddings=False, **tokens)
    written = config.to_dict() | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(written, default=str))
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    index, shard = {}, {}
    for name, weight in model.named_parameters():
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        value = torch.ones(weight.shape, device=device)  # norms; a bias is zero
        value = value.normal_(0, 0.02) if weight.ndim > 1 else value
        shard[name] = (value * (not name.endswith("bias"))).to(torch.bfloat16).cpu().contiguous()
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            _write(shard, index, folder)
            shard = {}
    _write(shard, index, folder)
    total = 2 * sum(p.numel() for p in model.parameters())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
    return folder


def _write(shard: dict[str, torch.Tensor], index: dict[str, str], folder: Path) -> None:
    name = f"{len(set(index.values())):05d}.safetensors"
    save_file(shard, folder / name, metadata={"format": "pt"})
    index.update(dict.fromkeys(shard, name))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--pixels", type=int, default=313_600, help="of a frame; 8 frames of 560 x 560 are 1,600 tokens"
    )
    parser.add_argument("--steps", type=int, default=16, help="the second half is timed: the first waits for clips")
    parser.add_argument("--mini", type=int, choices=(1, 2), default=1, help="samples that go through a GPU together")
    parser.add_argument("--gpus", type=int, choices=(1, 2), default=1)
    parser.add_argument("--port", type=int, default=8700)
    args = parser.parse_args()
    out = args.out.resolve()
    model = out / "model" if (out / "model").exists() else write_model(out / "model")
    contract = out / "contract.yaml"
    limits = {"fps": 2, "min_pixels": args.pixels, "max_pixels": args.pixels}
    contract.write_text(yaml.safe_dump({"system": "", "answer_format": "think_answer", "video": limits}))
    road_vqa.world(runs.path("seven_billion") / "data", 0, {"train": 40, "validation": 4, "test": 4})
    lora = args.gpus == 1
    config = Config.load("configs/sft_1gpu_lora.toml" if lora else "configs/sft_2gpu.toml").edit(
        {"custom": {"contract": str(contract)},
         "train.train_batch_per_replica": 2, "train.train_policy.mini_batch": args.mini,
         "train.max_num_steps": args.steps, "validation.enable": False,
         "train.ckpt.enable_checkpoint": False, "policy.model_name_or_path": str(model), "redis": str(args.port + 4800),
         "logging.logger": ["console"]}
    )  # fmt: skip
    run = Run(f"seven_billion/{args.gpus}", seed=0)
    job = pipeline.prepare(config, "seven_billion", jobs.LOADER)
    config, splits = job.config.edit({"train.output_dir": str(run.path)}), job.splits
    launch(config, jobs.LOADER, run, port=args.port, replace=True)
    rows = read_metrics(run.path)
    model_config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    encoder = Encoder(
        AutoProcessor.from_pretrained(model, trust_remote_code=False, use_fast=True), job.contract, model_config
    )
    tokens = round(statistics.mean(encoder.training_batch([s])["input_ids"].shape[1] for s in splits["train"][:16]))
    seconds = statistics.median(row["train/iteration_time"] for row in rows[len(rows) // 2 :])
    expected = plan(config, gpus=args.gpus, gpu_gib=78, samples=len(splits["train"]), tokens=tokens)
    planned = step_seconds(args.gpus, args.mini * tokens, 2 // args.mini, lora)
    print(
        f"{len(rows)} steps of 2 samples a GPU, {tokens} tokens each, on {args.gpus} x {torch.cuda.get_device_name()}"
    )
    print(f"peak GiB: measured {max(row['gpu/peak_gib'] for row in rows):.2f}, planned {expected.peak_gib:.2f}")
    print(f"seconds a step: measured {seconds:.2f} ({2 * tokens / seconds:.0f} tokens/s), planned {planned:.2f}")


if __name__ == "__main__":
    main()
