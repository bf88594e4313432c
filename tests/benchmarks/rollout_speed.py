"""Completions of GRPO: today's rollout backend, beside transformers' `generate` as it was used before, same tokens.

Why: generation is most of a GRPO step. Both take the same prompts with clips, as many completions of each and exactly
as many new tokens, greedily, so that their tokens can be compared: on a CPU, in float32, they have to be equal; random
weights of 16 bits on a GPU have ties, so there the share of equal ones is printed, and of the first ones, which no tie
before them has turned. `sharded` is what colocated rollouts were: each token gathers and casts the weights of the
policy. `vLLM`, where it is installed, has the contract's frames, the same prompt tokens and the same weights, from a
file; its seconds count the cutting of the frames.

    python tests/benchmarks/rollout_speed.py OUT                                  # the tiny base on a CPU
    python tests/benchmarks/rollout_speed.py OUT --large --prompts 8 --copies 8 --tokens 256 --pixels 313600   # a GPU
"""

import argparse
import os
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from random_models import fill, write_model, write_weights
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig
from transformers.modeling_utils import no_init_weights
from vllm_prompts import prompt

from cookbook import jobs
from cookbook.checkpoint.filled import load_processor
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.engine import bridge
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import ROOT
from data_tools import road_vqa

PAD, NEVER = 0, [10**6]  # no model samples that end token, so that all completions are equally long


def make(folder: Path, attention: str, dtype: torch.dtype, device: str, large: bool):
    """Returns the model: the tiny base's weights, or random ones of the large shape."""
    if not large:
        kind = {"dtype": dtype, "attn_implementation": attention}
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False, **kind)
        return model.to(device).eval()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    fill(model)
    return model.eval()


def shard(model, dtype: torch.dtype):
    """Shard a model over this one process as the engine does (policy/model/hf_models/parallelize.py)."""
    kind = {"mesh": init_device_mesh(model.device.type, (1,)), "mp_policy": MixedPrecisionPolicy(dtype)}
    visual, language = model.model.visual, model.model.language_model
    for part in (visual.merger, *visual.blocks, visual, *language.layers, language.embed_tokens, language, model):
        fully_shard(part, **kind, reshard_after_forward=True)
    register_fsdp_forward_method(model, "generate")
    return model


@torch.no_grad()
def stock(model, batch: dict, copies: int, tokens: int) -> list[list[int]]:
    """Returns the completions of transformers' `generate`, which takes each prompt once for each of them."""
    patches = int(batch["video_grid_thw"][0].prod())  # one clip a prompt, all of one size
    clips = batch["pixel_values_videos"].view(-1, patches, batch["pixel_values_videos"].shape[-1])
    given = {
        name: batch[name].repeat_interleave(copies, 0) for name in ("input_ids", "attention_mask", "video_grid_thw")
    }
    given["pixel_values_videos"] = clips.repeat_interleave(copies, 0).flatten(0, 1)
    places, behind = batch["position_ids"], batch["position_ids"].amax((0, 2)) + 1 - batch["position_ids"].shape[-1]
    model.model.get_rope_index = lambda *_, **__: (
        places.repeat_interleave(copies, 1), behind.repeat_interleave(copies)[:, None]
    )  # fmt: skip
    settings = GenerationConfig(max_new_tokens=tokens, eos_token_id=NEVER, pad_token_id=PAD)
    out = model.generate(**given, generation_config=settings, use_model_defaults=False)
    model.model.rope_deltas = None
    return out[:, batch["input_ids"].shape[1] :].tolist()


def through_vllm(folder: Path, encoder: Encoder, questions: list, copies: int, tokens: int):
    """Returns what lets vLLM answer, in this process. Stops where it sees other prompt tokens than the policy."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    seen = [encoder.tokens(question, generate=True).ids for question in questions]
    engine = LLM(
        str(folder), dtype="bfloat16", gpu_memory_utilization=0.5, max_model_len=max(map(len, seen)) + tokens,
        mm_processor_cache_gb=0, seed=0,
    )  # fmt: skip
    # several completions want a temperature above 0
    asked = SamplingParams(n=copies, temperature=0.01, max_tokens=tokens, ignore_eos=True, detokenize=False)
    prompts = [prompt(encoder, question) for question in questions]

    def call() -> list[list[int]]:
        engine.reset_prefix_cache()
        found = engine.generate(prompts, asked, use_tqdm=False)
        assert [list(one.prompt_token_ids) for one in found] == seen, "vLLM's prompt is not the policy's"
        return [list(completion.token_ids) for one in found for completion in one.outputs]

    return call


def timed(call, repeats: int, device: str) -> tuple[float, list[list[int]], float]:
    """Returns (median seconds, tokens, peak GiB) of a call; the first does not count."""
    seconds = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        rows = call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return statistics.median(seconds[1:]), rows, peak


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("ways", nargs="*", help="of those that the table names; all where none is given")
    parser.add_argument("--large", action="store_true", help="random weights of Cosmos-Reason1-7B's shape")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=12_544, help="of a frame; 8 of 560 x 560 are 1,600 tokens")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    (out := args.out.resolve()).mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "29512", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    folder = ROOT / jobs.BASE
    if args.large:
        write = write_weights if "vLLM" in (args.ways or ["vLLM"]) and find_spec("vllm") else write_model
        folder = out / write.__name__ if (out / write.__name__).exists() else write(out / write.__name__)
    limits = {"fps": 2, "min_pixels": args.pixels, "max_pixels": args.pixels}
    (file := out / "contract.yaml").write_text(
        yaml.safe_dump({"system": "", "answer_format": "think_answer", "video": limits})
    )
    road_vqa.world(out / "data", 0, {"train": max(12, args.prompts), "validation": 2, "test": 2})
    contract = Contract.load(file)
    questions = road_vqa.read(out / "data", "train", contract)[::4][: args.prompts]
    encoder = Encoder(load_processor(folder), contract, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    batch = {name: value.to(device) for name, value in encoder.prompt_batch(questions).items()}
    bridge.install()
    from cookbook.model import generation
    from cookbook.model.decoding import GROUPED, Plain, Replayed

    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    machine = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    print(f"{args.prompts} prompts of {batch['input_ids'].shape[1]} tokens, {args.copies} completions of "
          f"{args.tokens} each; {dtype} on {machine}")  # fmt: skip

    def ours(steps):
        model = batch_vision(make(folder, GROUPED, dtype, device, args.large))
        model.generation_config = GenerationConfig(eos_token_id=NEVER, pad_token_id=PAD)

        def call():
            generation.stepper = steps
            return generation.generate(model, batch, args.tokens, copies=args.copies).tokens.tolist()

        return call

    def theirs(sharded: bool):
        model = make(folder, "sdpa", torch.float32 if sharded else dtype, device, args.large)
        model = shard(model, dtype) if sharded else model
        return lambda: stock(model, batch, args.copies, args.tokens)

    ways = {"sharded": lambda: theirs(True), "generate": lambda: theirs(False), "one prompt pass": lambda: ours(Plain),
            "and recorded steps": lambda: ours(Replayed)}  # fmt: skip
    if device == "cuda" and find_spec("vllm"):
        ways["vLLM"] = lambda: through_vllm(folder, encoder, questions, args.copies, args.tokens)
    first, before = None, None
    for name in args.ways or ways:
        seconds, rows, peak = timed(ways[name](), args.repeats, device)
        first, before = first or rows, before or seconds
        equal = sum(a == b for one, two in zip(first, rows) for a, b in zip(one, two)) / sum(map(len, rows))
        assert len(rows) == args.prompts * args.copies and {len(row) for row in rows} == {args.tokens}
        assert device == "cuda" or equal == 1, f"{name}: {equal:.1%} of the tokens are those of the first"
        speed = f"{len(rows) * args.tokens / seconds:8.0f} tokens/s  {before / seconds:5.1f} x"
        begins = statistics.mean(one[0] == two[0] for one, two in zip(first, rows))
        told = f"{equal:.1%} of the tokens equal, {begins:.1%} of the first ones"
        print(f"{name:20} {seconds:8.2f} s  {speed}  {peak:5.1f} GiB  {told}", flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
