"""SFT of Cosmos-Reason1-7B's or Reason2-8B's shape on one GPU: the engine's step beside plain transformers, and TRL.

Why: the shipped files should be the fastest that fit, and nobody can choose without a table. Weights are random, but
every variant has the same, and the same samples: their tokens are those that the engine's packer made, and have to be
those of the project's encoder. The step is the engine's own (`SFTTrainer.step_training`), without its launcher. Losses
of random weights jump about after some steps, so variants that learn the same are compared by their first gradient.

    python tests/benchmarks/sft_speed.py OUT                                  # the table, at 1,686 tokens a sample
    python tests/benchmarks/sft_speed.py OUT packed "plain, 8 at once"        # some of it
    python tests/benchmarks/sft_speed.py OUT "as shipped" --length 8186 98    # at other lengths
    python tests/benchmarks/sft_speed.py OUT "as shipped" --profile           # where the GPU works, and waits
    python tests/benchmarks/sft_speed.py OUT "as shipped" --reason2           # 8B
"""

import argparse
import gc
import os
import queue
import statistics
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import init_empty_weights
from random_models import fill, published, write_model
from transformers import AutoConfig, AutoModelForImageTextToText

from cookbook.checkpoint.filled import load_processor
from cookbook.config import Config
from cookbook.config.rules import View
from cookbook.config.speed import LANGUAGE, PARAMETERS_7B, faster
from cookbook.data.architecture import QWEN2_5_VL, QWEN3_VL, architecture
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.engine import bridge
from cookbook.model.vision_tower import batch_vision
from cookbook.training.optimizer import Optimizer, set_learning
from cookbook.training.sft import token_losses
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

LENGTHS = {98: (4, 64), 1686: (400, 8), 8186: (2_025, 4)}  # tokens: those of a frame, samples a step
SHIPPED = {QWEN2_5_VL: "configs/sft_1gpu_lora.toml", QWEN3_VL: "configs/reason2/8b_lora_1gpu.toml"}
MINI, PACK, RECOMPUTE = "train.train_policy.mini_batch", "train.sequence_packing", "policy.model_gradient_checkpointing"
COMPILE, TARGETS, AT_ONCE = "train.compile", "policy.lora.target_modules", "tokens at once"
ADAM, FROZEN, RESHARD = "train.optm_name", "policy.freeze_pattern", "train.fsdp_reshard_after_forward"
PACKED = {AT_ONCE: 13_600, PACK: True, COMPILE: False, RECOMPUTE: True, TARGETS: "all-linear"}
LANGUAGE_ONLY = PACKED | {TARGETS: LANGUAGE}
KEPT = LANGUAGE_ONLY | {AT_ONCE: 6_800, RECOMPUTE: False}
ALL_WEIGHTS = {PACK: True, RECOMPUTE: True, "policy.lora": None, "train.optm_lr": 1e-6}
LANGUAGE_WEIGHTS = ALL_WEIGHTS | {COMPILE: True, RECOMPUTE: False, FROZEN: ["^visual\\."]}
ENGINE: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "as planned": {},  # with what `config plan` proposes for the length, on a card of this size
    "one at a time": PACKED | {AT_ONCE: 1, PACK: False},  # as it was shipped before
    "packed": PACKED,
    "packed, compiled": PACKED | {COMPILE: True},
    "language": LANGUAGE_ONLY,
    "language, compiled": LANGUAGE_ONLY | {COMPILE: True},
    "language, kept": KEPT,
    "language, kept, compiled": KEPT | {COMPILE: True},
    "all weights, compiled": ALL_WEIGHTS | {AT_ONCE: 3_400, COMPILE: True},
    "all weights, 8-bit moments": ALL_WEIGHTS | {AT_ONCE: 13_600, COMPILE: True, ADAM: "AdamW8bit"},
    "all weights, 8-bit moments, kept": ALL_WEIGHTS
    | {AT_ONCE: 3_400, COMPILE: True, ADAM: "AdamW8bit", RECOMPUTE: False},
    "all weights, 8-bit moments, kept, whole": ALL_WEIGHTS
    | {AT_ONCE: 3_400, COMPILE: True, ADAM: "AdamW8bit", RECOMPUTE: False, RESHARD: "never"},
    "language weights": LANGUAGE_WEIGHTS | {AT_ONCE: 3_400},
    "language weights, 8-bit moments": LANGUAGE_WEIGHTS | {AT_ONCE: 6_800, ADAM: "AdamW8bit"},
    "language weights, 8-bit moments, whole": LANGUAGE_WEIGHTS | {AT_ONCE: 6_800, ADAM: "AdamW8bit", RESHARD: "never"},
}
EXACT = {"size": 1, "autocast": False, "dtype": torch.float32}  # two steps: the gradient that all others round
PLAIN: dict[str, dict[str, Any]] = {
    "float32": EXACT,
    "float32, language": EXACT | {"targets": r".*language_model\.layers\..*_proj"},
    "plain, 1 at once": {"size": 1},
    "plain, 4 at once": {"size": 4},
    "plain, 8 at once": {"size": 8},
    "plain, 4 at once, kept": {"size": 4, "recompute": False},
    # without the autocast that its own trainer runs in, peft's adapters compute in float32
    "plain, 8 at once, float32 adapters": {"size": 8, "autocast": False},
}
PEER: dict[str, dict[str, Any]] = {  # TRL comes with cosmos-rl
    "TRL, 1 at once": {"size": 1},
    "TRL, 4 at once": {"size": 4},
    "TRL, 8 at once": {"size": 8},
    "TRL, 8 at once, liger": {"size": 8, "liger": True},
}
LOCAL: dict[str, dict[str, Any]] = {  # the cookbook's own loop, adapters in the language model as shipped
    "local, 1 at once": {"size": 1},
    "local, 4 at once": {"size": 4},
    "local, 4 at once, recomputed": {"size": 4, "recompute": True},
}
OTHERS = PLAIN | PEER | LOCAL


def engine_config(model: Path, contract: Path, edits: Mapping[str, Any]) -> Config:
    """Returns the shipped LoRA file for this model, with some keys changed, as far as the engine has them for it."""
    stated = {
        "policy.model_name_or_path": str(model), "custom.contract": str(contract), "validation.enable": False,
        "train.ckpt.enable_checkpoint": False, "logging.logger": ["console"], "policy.model_max_length": 16384,
        "train.output_dir": str(model.parent / "out"), "train.optm_warmup_steps": 0,
    }  # fmt: skip
    edits, family = dict(edits), architecture(model)
    if not family.native:  # the engine trains transformers' model
        edits.pop(PACK, None)  # its mini-batches come end to end as they are
        edits |= {TARGETS: ["language_model.layers"]} if edits.get(TARGETS) == LANGUAGE else {}
    return Config.load(SHIPPED[family]).edit(stated).edit(edits)


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
    if not architecture(folder := Path(told.policy.model_name_or_path)).native:
        with init_empty_weights(include_buffers=False):  # the engine fills them when it reads weights
            stock = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        for name, buffer in stock.named_buffers():
            trainer.model.get_buffer(name).copy_(buffer)
    update = trainer.optimizers.step
    trainer.optimizers.step = lambda: (keep_gradient(trainer.model), update())

    def step(number: int) -> float:
        arrived = torch.cuda.Event(enable_timing=True)
        arrived.record()
        report = trainer.step_training([dict(s) for s in samples], 1000, number, 10**9, data_arrival_event=arrived)
        return float(report["train/loss_avg"])

    step.model = trainer.model
    return step


def keep_gradient(model: torch.nn.Module) -> None:
    """Keep the first gradient of the adapters, as `model.first_gradient`: called before each optimizer's step."""
    if not hasattr(model, "first_gradient"):
        found = {published(n): p.grad for n, p in model.named_parameters() if "lora_B" in n and p.grad is not None}
        model.first_gradient = {n: getattr(g, "to_local", lambda g=g: g)().float().cpu() for n, g in found.items()}


def likeness(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Returns the cosine of the angle between two gradients of adapters that both have, and the share of equal signs.

    Adam's first step goes by the signs alone.
    """
    both = one.keys() & two.keys()
    dot, *norms = (sum((a[n] * b[n]).sum() for n in both) for a, b in ((one, two), (one, one), (two, two)))
    equal = sum((one[n].sign() == two[n].sign()).sum() for n in both) / sum(one[n].numel() for n in both)
    return float(dot / (norms[0] * norms[1]).sqrt()), float(equal)


def plain_model(model: Path, dtype: torch.dtype = torch.bfloat16) -> torch.nn.Module:
    """Returns the model of transformers, not filled."""
    from transformers.modeling_utils import no_init_weights

    config = AutoConfig.from_pretrained(model, attn_implementation="sdpa", trust_remote_code=False)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"), no_init_weights():
        made = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    torch.set_default_dtype(torch.float32)
    return made


def plain_step(
    model: Path,
    batches: list[dict],
    rate: float,
    recompute: bool = True,
    autocast: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    targets: str = "all-linear",
) -> Callable[[int], float]:
    """Returns the step of transformers with peft on the same samples: what TRL and LLaMA-Factory run underneath."""
    from peft import LoraConfig, get_peft_model

    made = plain_model(model, dtype)
    if recompute:
        made.gradient_checkpointing_enable({"use_reentrant": False})
        made.enable_input_require_grads()
    lora = get_peft_model(made, LoraConfig(r=16, lora_alpha=32, target_modules=targets))
    fill(lora)
    lora.train()
    learned = [p for p in lora.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.999), weight_decay=0.01, fused=True, eps=1e-6)

    def step(number: int) -> float:
        total = 0.0
        for batch in batches:
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = lora(**batch).loss / len(batches)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        keep_gradient(lora)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    step.model = lora
    return step


def peer_step(model: Path, batches: list[dict], rate: float, steps: int, liger: bool = False) -> Callable[[int], float]:
    """Returns the step of TRL's own trainer. All its steps run in another thread, one each time that it is asked.

    It is given batches that are made and on the GPU, so that nothing but its loop is measured.
    """
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    asked, done = queue.Queue(), queue.Queue()

    class Paced(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            asked.get()

        def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
            keep_gradient(model)

        def on_log(self, *_: Any, logs: dict, **__: Any) -> None:
            if "loss" in logs:
                done.put(logs["loss"])

    config = SFTConfig(
        output_dir=str(model.parent / "trl"), max_steps=steps, per_device_train_batch_size=1, learning_rate=rate,
        gradient_accumulation_steps=len(batches), lr_scheduler_type="constant", weight_decay=0.01, adam_epsilon=1e-6,
        bf16=True, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
        use_liger_kernel=liger, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        dataloader_pin_memory=False, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        plain_model(model), config, data_collator=lambda parts: dict(parts[0]), train_dataset=batches * steps,
        processing_class=load_processor(model), callbacks=[Paced()],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    fill(trainer.model)

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:  # told where the step was asked for
            done.put(error)

    threading.Thread(target=train, daemon=True).start()

    def step(number: int) -> float:
        asked.put(number)
        if isinstance(found := done.get(), BaseException):
            raise found
        return found

    step.model = trainer.model
    return step


def local_step(config: Config, model: Path, batches: list[dict], steps: int) -> Callable[[int], float]:
    """Returns the step of the local engine (`cookbook.training.sft`), its batches made and on the GPU."""
    made = set_learning(batch_vision(plain_model(model)), config).train()
    fill(made)
    optimizer = Optimizer(made, config, steps)
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)

    def step(number: int) -> float:
        total = 0.0
        for batch in batches:
            share = token_losses(made, batch).sum() / count
            share.backward()
            total += share.item()
        keep_gradient(made)
        optimizer.step()
        return total

    step.model = made
    return step


def matrix_rates() -> tuple[float, float]:
    """Returns operations a second of large bfloat16 matrix products: of the first 20, and once a GPU has run hot."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def timed(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        torch.cuda.synchronize()
        return count * 2 * 8192**3 / (time.perf_counter() - began)

    timed(5)
    first, _ = timed(20), timed(1500)
    return first, timed(200)


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


def empty_gpu() -> None:
    """Give back what the row before left: engine and compiled code hold on to a model, above all if it failed."""
    gc.collect()
    for left in [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]:
        if left.is_cuda:
            left.untyped_storage().resize_(0)
    torch.cuda.empty_cache()
    if (kept := torch.cuda.memory_allocated() / 2**30) > 0.5:
        print(f"{kept:.1f} GiB of the row before are still there, and count in the next", flush=True)


def measure(step: Callable[[int], float], steps: int) -> tuple[float, list[float], float]:
    """Returns (median seconds of the later steps, losses, peak GiB)."""
    torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], []
    for number in range(steps):
        began = time.perf_counter()
        losses.append(step(number))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:] or seconds), losses, torch.cuda.max_memory_allocated() / 2**30


def where_time_goes(step: Callable[[int], float], number: int) -> None:
    """Print how long the GPU works in one more step and on what, and how long it waits, by the length of a wait."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step(number)
        torch.cuda.synchronize()
    spans = sorted(
        (event.start_ns() / 1e9, (event.start_ns() + event.duration_ns()) / 1e9, event.name())
        for event in profile.profiler.kineto_results.events()
        if event.device_type() == torch.profiler.DeviceType.CUDA
    )
    kernels, waits, done = Counter(), Counter(), spans[0][0]
    for begins, ends, name in spans:
        kernels[name.split("(")[0][:70]] += ends - begins
        if (wait := begins - done) > 0:
            waits[next(f"up to {limit:g} s" for limit in (2e-5, 2e-4, 2e-3, 1e9) if wait < limit)] += wait
        done = max(done, ends)
    whole, waited = done - spans[0][0], sum(waits.values())
    print(f"  of {whole:.3f} s the GPU works {whole - waited:.3f}; waits {dict(waits)}")
    for name, seconds in kernels.most_common(15):
        print(f"  {seconds:7.3f} s  {name}")


def read_samples(model: Path, length: int, packer: Any) -> list[dict]:
    """Returns the packer's samples of one step. Stops where their tokens are not the encoder's, or not `length`."""
    per_frame, count = LENGTHS[length]
    pixels = per_frame * architecture(model).unit ** 2
    (contract := model.parent / f"contract_{length}.yaml").write_text(
        yaml.safe_dump({
            "system": "", "answer_format": "think_answer",
            "video": {"fps": 2, "min_pixels": pixels, "max_pixels": pixels},
        })
    )  # fmt: skip
    questions = road_vqa.read(model.parent / "data", "train", bound := Contract.load(contract))
    questions = (questions[::4] * count)[:count]  # four questions a clip; small clips come several times
    data = EngineDataset(questions, engine_config(model, contract, {}))
    encoder = Encoder(load_processor(model), bound, AutoConfig.from_pretrained(model, trust_remote_code=False))
    samples = [packer.sft_process_sample(data[i]) for i in range(count)]
    for sample, question in zip(samples, questions):
        ours = encoder.training_batch([question])
        assert sample["input_ids"] == ours["input_ids"][0].tolist(), "the packer's tokens are not the encoder's"
    mean = statistics.mean(len(sample["input_ids"]) for sample in samples)
    assert abs(mean / length - 1) < 0.2, mean  # the shortest are a fifth of words, and questions differ
    return samples


def table(
    model: Path, length: int, names: list[str], steps: int, packer: Any, rate: float, times: int, profile: bool
) -> None:
    """Print a line for each variant, at one length; `times` the usual number of samples are a step."""
    samples = read_samples(model, length, packer) * times
    tokens = sum(len(sample["input_ids"]) for sample in samples)
    patches = sum(int(sample["video_grid_thw"].prod()) for sample in samples)
    learned = sum(label != -100 for sample in samples for label in sample["label_ids"])
    print(f"{len(samples)} samples a step, {tokens} tokens ({learned} learned), {patches} patches", flush=True)
    contract, first = model.parent / f"contract_{length}.yaml", {}

    def batch_of(part: list) -> dict:
        packer.lays_out = False
        made = packer.sft_collate_fn([dict(s) for s in part], max(len(s["input_ids"]) for s in part), -100)
        made = {k: v.cuda() for k, v in made.items() if isinstance(v, torch.Tensor)}
        keep = {k: made[k] for k in ("input_ids", "pixel_values_videos", "video_grid_thw", "position_ids") if k in made}
        return keep | {"labels": made["label_ids"], "attention_mask": torch.ones_like(made["input_ids"])}

    def stepper(name: str) -> Callable[[int], float]:
        if how := dict(OTHERS.get(name, {})):
            size = how.pop("size")
            batches = [batch_of(samples[i : i + size]) for i in range(0, len(samples), size)]
            lr = engine_config(model, contract, {})["train.optm_lr"]
            if name in PEER:
                return peer_step(model, batches, lr, steps, **how)
            if name in LOCAL:
                edits = {RECOMPUTE: how.get("recompute", False)}
                return local_step(engine_config(model, contract, edits), model, batches, steps)
            return plain_step(model, batches, lr, **how)
        edits = {"train.train_batch_per_replica": len(samples)} | ENGINE[name]
        if name == "as planned":
            card = torch.cuda.get_device_properties(0).total_memory / 2**30
            view = View(engine_config(model, contract, edits))
            edits |= {key: value for key, value, _ in faster(view, PARAMETERS_7B, 1, card, length)}
            edits.setdefault(MINI, min(view[MINI], len(samples)))
            print(name, edits)
        elif at_once := edits.pop(AT_ONCE, 0):
            edits[MINI] = max(
                n for n in (1, 2, 4, 8, 16, 32, 64) if n == 1 or n <= min(at_once // length, len(samples))
            )
        else:
            edits[MINI] = min(engine_config(model, contract, {})[MINI], len(samples))
        return engine_step(engine_config(model, contract, edits), packer, samples)

    for name in names:
        torch._dynamo.reset()
        empty_gpu()
        try:
            began = time.perf_counter()
            step = stepper(name)
            made = time.perf_counter() - began
            seconds, losses, peak = measure(step, 2 if name.startswith("float32") else steps)
            share = useful(step.model, tokens, patches) / seconds / rate
            line = f"{name:34} {seconds:7.3f} s  {tokens / seconds:7.0f} tokens/s  {share:5.1%}  {peak:6.1f} GiB  "
            line += f"made in {made:.0f} s  losses {' '.join(f'{x:.3f}' for x in losses)}"
            if gradient := step.model.first_gradient:
                start, theirs = first.setdefault("gradient", (name, gradient))
                near, equal = likeness(theirs, gradient)
                line += f"  gradient beside {start}'s: cosine {near:.4f}, {equal:.1%} of the signs"
            print(line, flush=True)
            if profile:
                where_time_goes(step, steps)
        except Exception as error:  # the table goes on
            traceback.print_exc()
            print(f"{name:34} {type(error).__name__}: {str(error)[:300]}", flush=True)
        step = None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", default=[*ENGINE, *OTHERS])
    parser.add_argument("--length", type=int, nargs="+", choices=LENGTHS, default=[1686], help="tokens of a sample")
    parser.add_argument("--steps", type=int, default=6, help="of which the first two are not timed")
    parser.add_argument("--times", type=int, default=1, help="as many samples a step as usual")
    parser.add_argument("--reason2", action="store_true", help="Reason2-8B's shape instead of Reason1-7B's")
    parser.add_argument("--profile", action="store_true", help="one step more: where the GPU works, and waits")
    args = parser.parse_args()
    if unknown := set(args.variants) - (known := {*ENGINE, *OTHERS}):
        parser.error(f"no such variants: {unknown}; there are {sorted(known)}")
    out = args.out.resolve()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "29511", "HF_HUB_OFFLINE": "1",
                   "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # as the engine's launcher  # fmt: skip
    family = QWEN3_VL if args.reason2 else QWEN2_5_VL
    model = model if (model := out / family.model_type).exists() else write_model(model, family)
    road_vqa.world(out / "data", 0, {"train": 12, "validation": 2, "test": 2})
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker, Qwen2_5_VLM_DataPacker
    from cosmos_rl.policy.config import Config as EngineConfig
    from cosmos_rl.utils.distributed import init_distributed
    from cosmos_rl.utils.util import call_setup

    bridge.install()
    torch.cuda.set_device(0)
    init_distributed()
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    packer = (Qwen2_5_VLM_DataPacker if family.native else HFVLMDataPacker)()
    call_setup(packer, EngineConfig.from_dict(engine_config(model, Path("none"), {}).document.unwrap()))
    rate, lasting = matrix_rates()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a matrix product {rate / 1e12:.0f} TFLOP/s, "
          f"{lasting / 1e12:.0f} after two seconds of it")  # fmt: skip
    for length in args.length:
        table(model, length, args.variants, args.steps, packer, rate, args.times, args.profile)


if __name__ == "__main__":
    main()
