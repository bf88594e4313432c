"""A shipped configuration through the whole engine, with random weights of 7B's or Reason2-8B's shape, beside its plan.

Why: `sft_speed.py` and `rollout_speed.py` take the engine's parts alone; whoever books a GPU meets all of it: start,
reading 16 GB, rollouts, rewards, saving. Prints seconds to the first step and of later ones, and memory, measured and
planned. `--tiny` takes the tiny base instead: where the start-up is what counts.

    python tests/benchmarks/engine_speed.py OUT --config configs/rl_1gpu_lora.toml --steps 3
    python tests/benchmarks/engine_speed.py OUT --config configs/tiny_sft.toml --tiny
"""

import argparse
import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import tomlkit
import torch
import yaml
from random_models import write_weights
from transformers import AutoConfig

from cookbook import jobs, pipeline, runs
from cookbook.checkpoint.filled import load_processor
from cookbook.config import Config, plan
from cookbook.config.models import family_of
from cookbook.config.speed import used as planned_use
from cookbook.data.encoder import Encoder
from cookbook.engine.launch import launch
from cookbook.runs import ROOT, Run, read_metrics
from data_tools import road_vqa


@contextmanager
def peak_used() -> Iterator[list[float]]:
    """Notes, while open, how many GiB of the card are in use, by whomever, twice a second."""
    seen, ended = [], threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            free, whole = torch.cuda.mem_get_info()
            seen.append((whole - free) / 2**30)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="the tiny base, its own clips and contract")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=313_600, help="of a frame; 8 of 560 x 560 are 1,600 tokens")
    parser.add_argument("--response", type=int, default=256, help="RL: tokens of a completion at most")
    parser.add_argument("--batch", type=int, default=64, help="samples or completions of a step")
    parser.add_argument("--steps", type=int, default=4, help="of which the first is not timed")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other values, as TOML writes them")
    parser.add_argument("--port", type=int, default=8700)
    args = parser.parse_args()
    (out := args.out.resolve()).mkdir(parents=True, exist_ok=True)
    config = Config.load(args.config)
    changes = {
        "train.max_num_steps": args.steps, "train.train_batch_per_replica": args.batch, "validation.enable": False,
        "train.ckpt.enable_checkpoint": False, "redis": str(args.port + 4800), "logging.logger": ["console"],
    }  # fmt: skip
    if config.kind == "grpo":
        changes["rollout.max_response_length"] = args.response
    stated = "\n".join('"{}" = {}'.format(*word.split("=", 1)) for word in args.set)
    changes |= tomlkit.parse(stated).unwrap()
    model = ROOT / jobs.BASE
    if not args.tiny:
        family = family_of(published_model := config["policy.model_name_or_path"])
        model = out / family.model_type
        model = model if model.exists() else write_weights(model, family)
        limits = {"fps": 2, "min_pixels": args.pixels, "max_pixels": args.pixels}
        (contract := out / "whole.yaml").write_text(
            yaml.safe_dump({"system": "", "answer_format": "think_answer", "video": limits})
        )
        changes |= {"custom": {"contract": str(contract)}}
    name = f"engine_speed/{args.config.stem}"
    road_vqa.world(runs.path(name) / "data", 0, {"train": 2 * args.batch, "validation": 4, "test": 4})
    job = pipeline.prepare(config.edit(changes | {"policy.model_name_or_path": str(model)}), name, jobs.LOADER)
    run = Run(f"{name}/run", seed=0)
    config, began = job.config.edit({"train.output_dir": str(run.path)}), time.time()
    with peak_used() as used:
        launch(config, jobs.LOADER, run, port=args.port, replace=True)
    rows, log = read_metrics(run.path), (run.path / "engine.log").read_text().splitlines()
    encoder = Encoder(load_processor(model), job.contract, AutoConfig.from_pretrained(model, trust_remote_code=False))
    batch = encoder.prompt_batch if config.kind == "grpo" else encoder.training_batch
    tokens = round(statistics.mean(batch([s])["input_ids"].shape[1] for s in job.splits["train"][:8]))
    ends = [float(line.split()[0]) for line in log if re.search(r"Step: \d+/", line)]  # generation is between two
    whole = [after - before for before, after in pairwise(ends)]
    asked = config if args.tiny else config.edit({"policy.model_name_or_path": published_model})
    found = plan(asked, gpus=args.gpus, gpu_gib=141, samples=len(job.splits["train"]), tokens=tokens)
    print(
        f"{args.config.name}: {len(rows)} steps of {args.batch}, {tokens} tokens each, {torch.cuda.get_device_name()}"
    )
    seconds, planned = statistics.median(whole), found.hours * 3600 / found.steps
    print(f"first step after {ends[0]:.0f} s of {time.time() - began:.0f}")
    print(f"a step: {seconds:.2f} s, planned {planned:.2f}")
    print(f"from one step's end to the next: {[round(x, 2) for x in whole]} s, "
          f"of which training: {[round(row['train/iteration_time'], 2) for row in rows[1:]]}")  # fmt: skip
    for line in log:
        if told := re.search(r"\d+ completions, .* generated in .*", line):
            print(told[0])
    in_use = planned_use(found.peak_gib, family_of(asked["policy.model_name_or_path"]).native)
    print(f"GiB of the card in use: measured {max(used):.2f}, planned {in_use:.2f}")
    if allocated := [row["gpu/peak_gib"] for row in rows if "gpu/peak_gib" in row]:  # GRPO's controller has no GPU
        print(f"peak GiB allocated: measured {max(allocated):.2f}, planned {found.peak_gib:.2f}")
    print({key: value for key, value in rows[-1].items() if key.startswith(("train/reward_mean", "rollout/comp"))})


if __name__ == "__main__":
    main()
