"""SFT of a model of Cosmos-Reason1-7B's size on one GPU: the engine's training step, beside transformers with peft.

Why: the shipped files should be the fastest that fit, and nobody can choose without a table. Weights are random, but
every variant has the same, and the same samples: their tokens are those that the engine's packer made, and have to be
those of the project's encoder. The step is the engine's own (`SFTTrainer.step_training`), without its launcher.

    python tests/benchmarks/sft_speed.py OUT                          # all variants
    python tests/benchmarks/sft_speed.py OUT shipped "plain 8 x 1"    # some of them
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from cookbook import jobs
from cookbook.checkpoint.filled import load_processor
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.engine import bridge
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

LANGUAGE = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "vocab_size": 152064, "max_window_layers": 28,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}  # fmt: skip
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "num_heads": 16,
          "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "tokens_per_second": 2}  # fmt: skip
LIMITS = {"min_pixels": 3136, "max_pixels": 12845056}  # of the published processor
SAMPLES = 8  # a step
MINI, PACK, RECOMPUTE = "train.train_policy.mini_batch", "train.sequence_packing", "policy.model_gradient_checkpointing"
LANGUAGE_ONLY = {"policy.lora.target_modules": ["model.layers"]}
ENGINE: dict[str, dict[str, Any]] = {
    "before": {MINI: 1, "bare": True},
    "before, packed": {MINI: 8, PACK: True, "bare": True},
    "packed": {MINI: 8, PACK: True},
    "packed, compiled": {MINI: 8, PACK: True, "train.compile": True},
    "packed, language": {MINI: 8, PACK: True} | LANGUAGE_ONLY,
    "packed 4, language, kept": {MINI: 4, PACK: True, RECOMPUTE: False} | LANGUAGE_ONLY,
    "packed 4, language, kept, compiled": {MINI: 4, PACK: True, RECOMPUTE: False, "train.compile": True}
    | LANGUAGE_ONLY,
    "all weights, 2, compiled": {
        MINI: 2,
        PACK: True,
        "train.compile": True,
        "policy.lora": None,
        "train.optm_lr": 1e-6,
    },
}
PLAIN = {"plain 1 x 8": (1, True), "plain 8 x 1": (8, True), "plain 4 x 2, kept": (4, False)}


def write_model(folder: Path) -> Path:
    """Write configuration, tokenizer and processor of a model of that size, without weights. Returns the folder."""
    shutil.copytree(ROOT / jobs.BASE, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tiny = json.loads((folder / "config.json").read_text())
    tokens = {key: value for key, value in tiny.items() if key.endswith("_token_id")}
    config = Qwen2_5_VLConfig(text_config=LANGUAGE, vision_config=VISION, tie_word_embeddings=False, **tokens)
    written = config.to_dict() | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(written, default=str))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (file := folder / name).is_file():
            told = json.loads(file.read_text())
            told |= LIMITS | {"size": {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}}
            file.write_text(json.dumps(told))
    size = LANGUAGE["vocab_size"] * LANGUAGE["hidden_size"] * 2  # the engine asks the file how many words there are
    head = {"dtype": "BF16", "shape": [LANGUAGE["vocab_size"], LANGUAGE["hidden_size"]], "data_offsets": [0, size]}
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


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Give each weight the random numbers that belong to its published name; norms are 1, biases 0, LoRA's B is 0."""
    for name, weight in model.named_parameters():
        local, name = getattr(weight, "to_local", lambda weight=weight: weight)(), published(name)
        generator = torch.Generator("cuda").manual_seed(zlib.crc32(name.encode()))
        if name.endswith("lora_B.weight") or name.endswith("bias"):
            local.zero_()
        elif local.ndim == 1:
            local.fill_(1)
        else:
            scale = local.shape[1] ** -0.5 if name.endswith("lora_A.weight") else 0.02
            local.copy_(torch.randn(local.shape, generator=generator, device="cuda") * scale)


def engine_config(model: Path, contract: Path, edits: Mapping[str, Any]) -> Config:
    """Returns the shipped LoRA file for this model, with some keys changed."""
    stated = {
        "policy.model_name_or_path": str(model), "custom.contract": str(contract), "validation.enable": False,
        "train.train_batch_per_replica": SAMPLES, "train.ckpt.enable_checkpoint": False, "logging.logger": ["console"],
        "train.output_dir": str(model.parent / "out"), "train.optm_warmup_steps": 0,
    }  # fmt: skip
    return Config.load("configs/sft_1gpu_lora.toml").edit(stated).edit(dict(edits))


def engine_step(config: Config, packer: Any, samples: list) -> Callable[[int], float]:
    """Returns the engine's step of one optimizer update: from its number to the loss."""
    from cosmos_rl.policy.config import Config as EngineConfig
    from cosmos_rl.policy.trainer.llm_trainer.sft_trainer import SFTTrainer
    from cosmos_rl.utils.parallelism import ParallelDims

    told = EngineConfig.from_dict(config.document.unwrap())
    dims = ParallelDims.from_config(told.policy.parallelism)
    dims.build_mesh("cuda")
    packer.config = told
    trainer = SFTTrainer(told, dims, torch.cuda.current_stream(), data_packer=packer, val_data_packer=packer)
    fill(trainer.model)

    def step(number: int) -> float:
        arrived = torch.cuda.Event(enable_timing=True)
        arrived.record()
        report = trainer.step_training([dict(s) for s in samples], 1000, number, 10**9, data_arrival_event=arrived)
        return float(report["train/loss_avg"])

    step.model = trainer.model
    return step


def plain_step(model: Path, batches: list[dict], recompute: bool, rate: float) -> Callable[[int], float]:
    """Returns the step of transformers with peft on the same samples: what TRL and LLaMA-Factory run underneath."""
    from peft import LoraConfig, get_peft_model
    from transformers.modeling_utils import no_init_weights

    config = AutoConfig.from_pretrained(model, attn_implementation="sdpa", trust_remote_code=False)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"), no_init_weights():
        made = Qwen2_5_VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    if recompute:
        made.gradient_checkpointing_enable({"use_reentrant": False})
        made.enable_input_require_grads()
    lora = get_peft_model(made, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    fill(lora)
    lora.train()
    learned = [p for p in lora.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.999), weight_decay=0.01, fused=True, eps=1e-6)

    def step(number: int) -> float:
        total = 0.0
        for batch in batches:
            loss = lora(**batch).loss / len(batches)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    step.model = lora
    return step


def matrix_rate() -> float:
    """Returns how many operations a second the GPU does in a large bfloat16 matrix product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - began)


def useful(model: torch.nn.Module, tokens: int, patches: int) -> float:
    """Returns the operations that a step needs at least: 2 a weight and token forward, 2 back, 2 for its own gradient.

    Attention and logits are left out; a tower that nothing trains needs no way back.
    """
    total = 0.0
    for name, weight in model.named_parameters():
        name = published(name)
        if weight.ndim < 2 or "lora" in name or "embed_tokens" in name or "lm_head" in name:
            continue
        visual = name.startswith("visual.")
        back = 2 * (not visual or any(p.requires_grad for n, p in model.named_parameters() if "visual" in n))
        total += weight.numel() * (patches if visual else tokens) * (2 + back + 2 * weight.requires_grad)
    return total


def measure(step: Callable[[int], float], steps: int) -> tuple[float, list[float], float]:
    """Returns (median seconds of the later steps, losses, peak GiB)."""
    torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], []
    for number in range(steps):
        began = time.perf_counter()
        losses.append(step(number))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:]), losses, torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", default=[*ENGINE, *PLAIN])
    parser.add_argument("--pixels", type=int, default=313_600, help="of a frame; 8 of 560 x 560 are 1,600 tokens")
    parser.add_argument("--steps", type=int, default=6, help="of which the first two are not timed")
    args = parser.parse_args()
    out = args.out.resolve()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "29511", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    model = out / "model" if (out / "model").exists() else write_model(out / "model")
    limits = {"fps": 2, "min_pixels": args.pixels, "max_pixels": args.pixels}
    (contract := out / "contract.yaml").write_text(
        yaml.safe_dump({"system": "", "answer_format": "think_answer", "video": limits})
    )
    road_vqa.world(out / "data", 0, {"train": 12, "validation": 2, "test": 2})
    from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
    from cosmos_rl.policy.config import Config as EngineConfig
    from cosmos_rl.policy.model import qwen2_5_vl
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer
    from cosmos_rl.utils.distributed import init_distributed
    from cosmos_rl.utils.util import call_setup

    mended = [(qwen2_5_vl, "pack_sequences_for_inputs"), (Qwen2_5_VLM_DataPacker, "sft_collate_fn"),
              (sft_trainer, "async_safe_ce")]  # fmt: skip
    before = [getattr(*place) for place in mended]
    bridge.install()
    after = [getattr(*place) for place in mended]
    torch.cuda.set_device(0)
    init_distributed()
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    config = engine_config(model, contract, {})
    packer = Qwen2_5_VLM_DataPacker()
    call_setup(packer, EngineConfig.from_dict(config.document.unwrap()))
    questions = road_vqa.read(out / "data", "train", bound := Contract.load(contract))[: 4 * SAMPLES : 4]
    data = EngineDataset(questions, config)
    samples = [packer.sft_process_sample(data[i]) for i in range(SAMPLES)]
    encoder = Encoder(load_processor(model), bound, AutoConfig.from_pretrained(model, trust_remote_code=False))
    for sample, question in zip(samples, questions):
        ours = encoder.training_batch([question])
        assert sample["input_ids"] == ours["input_ids"][0].tolist(), "the packer's tokens are not the encoder's"
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    patches = sum(int(sample["video_grid_thw"].prod()) for sample in samples)
    learned = sum(label != -100 for sample in samples for label in sample["label_ids"])
    rate = matrix_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a matrix product {rate / 1e12:.0f} TFLOP/s")
    print(f"{SAMPLES} samples a step, {tokens} tokens ({learned} learned), {patches} patches", flush=True)

    def batch_of(part: list) -> dict:
        made = packer.sft_collate_fn([dict(s) for s in part], max(len(s["input_ids"]) for s in part), -100)
        made = {k: v.cuda() for k, v in made.items() if isinstance(v, torch.Tensor)}
        keep = {k: made[k] for k in ("input_ids", "pixel_values_videos", "video_grid_thw", "position_ids")}
        return keep | {"labels": made["label_ids"], "attention_mask": torch.ones_like(made["input_ids"])}

    for name in args.variants:
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()
        try:
            began = time.perf_counter()
            if name in PLAIN:
                size, recompute = PLAIN[name]
                parts = [samples[i : i + size] for i in range(0, SAMPLES, size)]
                step = plain_step(model, [batch_of(part) for part in parts], recompute, config["train.optm_lr"])
            else:
                edits = dict(ENGINE[name])
                for place, part in zip(mended, before if edits.pop("bare", False) else after):
                    setattr(*place, part)
                step = engine_step(engine_config(model, contract, edits), packer, samples)
            made = time.perf_counter() - began
            seconds, losses, peak = measure(step, args.steps)
            share = useful(step.model, tokens, patches) / seconds / rate
            grads = sorted({published(n).split(".")[0] for n, p in step.model.named_parameters() if p.requires_grad})
            print(f"{name:40} {seconds:7.3f} s  {tokens / seconds:7.0f} tokens/s  {share:5.1%}  {peak:6.1f} GiB  "
                  f"made in {made:.0f} s  losses {' '.join(f'{x:.3f}' for x in losses)}  trains {grads}",
                  flush=True)  # fmt: skip
        except Exception as error:  # the table goes on
            import traceback

            traceback.print_exc()
            print(f"{name:40} {type(error).__name__}: {str(error)[:300]}", flush=True)
        step = None


if __name__ == "__main__":
    main()
