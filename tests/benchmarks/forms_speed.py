"""Reason1-7B's shape in vLLM: bfloat16 beside FP8, 4 bits and NVFP4 of llm-compressor: GiB, tokens a second, answers.

Why: whoever quantises pays with answers for memory and speed, and should know what is bought. Weights are random, so
answers only show whether the forms compute something alike; how a trained model answers is `cookbook.deploy compare`'s.
Each form has a process of its own; 64 prompts of words, 128 greedy tokens each, the better of two calls.

    python tests/benchmarks/forms_speed.py OUT --python .venv-deploy/bin/python     # a GPU, vLLM; `make deploy-env`
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import yaml
from engine_speed import write_weights

from cookbook.data.contract import Contract
from cookbook.deploy.quantise import calibration
from cookbook.runs import ROOT
from data_tools import road_vqa

SCHEMES = ["FP8_DYNAMIC", "W4A16", "NVFP4A16"]
PROMPTS, LENGTH, TOKENS, WORDS = 64, 128, 128, 600  # the small tokenizer's words; its last ones stand for clips
CLIPS, PIXELS = 16, 50_176
GRAPHS = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 8, PROMPTS]}


def calibration_clips(base: Path, out: Path) -> None:
    """Write clips of the road as the model takes them, for W4A16."""
    limits = {"fps": 2, "min_pixels": PIXELS, "max_pixels": PIXELS}
    told = {"system": "", "answer_format": "think_answer", "video": limits}
    (file := out.parent / "contract.yaml").write_text(yaml.safe_dump(told))
    contract = Contract.load(file)
    road_vqa.world(out.parent / "data", 0, {"train": CLIPS, "validation": 2, "test": 2})
    calibration(road_vqa.read(out.parent / "data", "train", contract), contract, base, out, count=CLIPS)


def answers(folder: str) -> dict:
    """Returns what vLLM needs for a checkpoint, and its answers."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that the model is in this process
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=folder, dtype="bfloat16", max_model_len=2048, gpu_memory_utilization=0.45, seed=0, max_num_seqs=PROMPTS,
        limit_mm_per_prompt={"image": 0, "video": 1}, skip_mm_profiling=True, enable_prefix_caching=False,
        compilation_config=GRAPHS,
    )  # fmt: skip
    draw, seconds = random.Random(0), []
    asked = [{"prompt_token_ids": [draw.randrange(WORDS) for _ in range(LENGTH)]} for _ in range(PROMPTS)]
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    for _ in range(3):  # the first warms up
        began = time.perf_counter()
        found = engine.generate(asked, greedy, use_tqdm=False)
        seconds.append(time.perf_counter() - began)
    rows = [list(answer.outputs[0].token_ids) for answer in found]
    assert {len(row) for row in rows} == {TOKENS}
    model = engine.llm_engine.model_executor.driver_worker.worker.model_runner.model
    return {"gib": sum(part.nbytes for part in model.parameters()) / 2**30, "seconds": min(seconds[1:]), "rows": rows}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", default=sys.executable, help="one that has llm-compressor")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        (args.out / "found.json").write_text(json.dumps(answers(str(args.out))))
        return
    base, clips = args.out / "bfloat16", args.out / "clips"
    args.out.mkdir(parents=True)
    write_weights(base)
    calibration_clips(base, clips)
    first = None
    for scheme in [None, *SCHEMES]:
        folder, began = args.out / scheme if scheme else base, time.perf_counter()
        if scheme:
            more = ["--calibration", clips] if scheme == "W4A16" else []
            script = ROOT / "configs/deploy/llm_compressor.py"
            subprocess.run([args.python, script, base, folder, "--scheme", scheme, *more], check=True)
        made = time.perf_counter() - began
        subprocess.run([sys.executable, __file__, folder, "--one"], check=True)
        found = json.loads((folder / "found.json").read_text())
        first = first or found["rows"]
        alike = sum(one[0] == two[0] for one, two in zip(found["rows"], first))
        disk = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**30
        rate = PROMPTS * TOKENS / found["seconds"]
        print(f"{folder.name:12} {disk:5.1f} GiB on disk  {found['gib']:5.1f} GiB held  {rate:7,.0f} tokens/s  made in "
              f"{made:.0f} s  first tokens as bfloat16's: {alike} of {PROMPTS}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
