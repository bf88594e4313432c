"""Seconds of one GRPO step: this project's loop, the same loop on the stock transformers calls, and TRL's trainer.

Why: a loop that is there to be read must not be slow. All three take one model, the same prompts and clips, as many
completions, and exactly as many new tokens; the rounds are interleaved, and each run's first step does not count. TRL
0.25 takes images and no video, so it gets every second frame as an image: as many vision tokens and patches, and two
more marks an image. Its gradient checkpointing, on by default, is off, as here.

    python tests/benchmarks/grpo_speed.py --threads 1 --rounds 3
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, TrainerCallback

from cookbook import checkpoint
from cookbook.config import Config
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.data.vision import TEMPORAL_PATCH
from cookbook.model.generation import Completions
from cookbook.runs import ROOT, Run
from cookbook.training import grpo, rewards
from data_tools import loading, road_vqa
from data_tools.worlds import road

BASE = ROOT / "models/tiny-base"
NEVER = 10**6  # an end token that no model samples, so that all completions are equally long


def earned(completion: str) -> float:
    """Returns a reward that differs within every group: what is in a text that nobody wrote does not matter here."""
    return 1.0 if "<answer>" in completion and len(completion) < 60 else sum(map(ord, completion)) % 97 / 97


class Bench:
    """One model and its batch, and three ways to train on it; each returns the seconds of its steps."""

    def __init__(self, folder: Path, prompts: int, copies: int, tokens: int, steps: int) -> None:
        self.folder, self.prompts, self.copies, self.tokens, self.steps = folder, prompts, copies, tokens, steps + 1
        self.config = Config.load("configs/tiny_rl.toml").edit({
            "train.train_batch_per_replica": prompts * copies, "train.train_policy.mini_batch": prompts * copies,
            "rollout.n_generation": copies, "rollout.max_response_length": tokens, "train.epoch": 99,
            "train.max_num_steps": self.steps, "validation.enable": False,
            "train.train_policy.reward_function": {"length": 1.0},
        })  # fmt: skip
        self.contract = loading.contract(self.config)
        world = road.build(folder / "world", {"train": 2 * prompts, "validation": 1, "test": 1}, seed=0)
        self.samples: list[Sample] = road_vqa.read(world, "train", self.contract)

    def open(self, batched: bool = True):
        """Returns (model, encoder); the model never ends a completion."""
        model, processor = checkpoint.load(BASE, torch.float32)
        if not batched:
            model = AutoModelForImageTextToText.from_pretrained(BASE, trust_remote_code=False, dtype=torch.float32)
        model.generation_config.eos_token_id = NEVER
        return model, Encoder(processor, self.contract, model.config)

    def ours(self, batched: bool = True) -> list[float]:
        """Run cookbook.training.grpo."""
        model, encoder = self.open(batched)
        encoder.prompt_batch(self.samples)  # TRL gets its frames read, too
        run, at = Run(self.folder / "run", seed=0), []
        run.log_metrics = lambda step, **values: at.append(time.perf_counter())
        with mock.patch.dict(rewards.PARTS, {"length": lambda completion, *_: earned(completion)}):
            grpo.grpo(self.config, self.samples, encoder, model, run, 0, probes=0, stop_on_alarm=False)
        return [b - a for a, b in pairwise(at)]

    def stock(self) -> list[float]:
        """Run cookbook.training.grpo on model.generate, whole sequences and the stock vision tower."""
        with stock_calls():
            return self.ours(batched=False)

    def trl(self) -> list[float]:
        """Run TRL's GRPOTrainer."""
        from trl import GRPOConfig, GRPOTrainer

        model, encoder = self.open(batched=False)
        at = []
        settings = GRPOConfig(
            output_dir=str(self.folder / "trl"), use_cpu=True, bf16=False, report_to=[], save_strategy="no", seed=0,
            per_device_train_batch_size=self.prompts * self.copies, num_generations=self.copies, beta=0.05,
            max_steps=self.steps, max_completion_length=self.tokens, max_prompt_length=None, temperature=1.0,
            gradient_checkpointing=False, learning_rate=1e-4, logging_steps=NEVER, disable_tqdm=True,
            generation_kwargs={"eos_token_id": NEVER},
        )  # fmt: skip
        trainer = GRPOTrainer(
            model, lambda completions, **_: [earned(c[0]["content"]) for c in completions], settings,
            train_dataset=self.as_images(encoder), processing_class=encoder.processor, callbacks=[Clock(at)],
        )  # fmt: skip
        trainer.train()
        return [b - a for a, b in pairwise(at)]

    def as_images(self, encoder: Encoder):
        """Returns the samples as TRL takes them: text, and every second frame as an image."""
        from datasets import Dataset

        rows = []
        for sample in self.samples:
            frames = encoder.frames(sample.video)[0][::TEMPORAL_PATCH]
            images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
            patches = encoder.processor.image_processor(images, return_tensors="pt")["image_grid_thw"].prod(1).sum()
            assert patches == len(encoder.media("video", sample.video).patches), "TRL would see another number"
            system = {"role": "system", "content": self.contract.system}
            rows.append({"prompt": [system, {"role": "user", "content": sample.question}], "images": images})
        return Dataset.from_list(rows)


class Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self, at: list[float]) -> None:
        self.at = at

    def on_step_end(self, *_, **__) -> None:
        self.at.append(time.perf_counter())


@contextmanager
def stock_calls() -> Iterator[None]:
    """Let cookbook.training.grpo call transformers plainly: every completion with a prompt and a clip of its own."""

    def whole(prompts: dict, copies: int) -> dict:
        patches = prompts["video_grid_thw"].prod(1).tolist()
        clips = prompts["pixel_values_videos"].split(patches)
        return {
            "input_ids": prompts["input_ids"].repeat_interleave(copies, 0),
            "attention_mask": prompts["attention_mask"].repeat_interleave(copies, 0),
            "video_grid_thw": prompts["video_grid_thw"].repeat_interleave(copies, 0),
            "pixel_values_videos": torch.cat([clip for clip in clips for _ in range(copies)]),
        }

    @torch.no_grad()
    def generate(model, prompts, max_new_tokens, temperature, copies, generator):
        options = {"max_new_tokens": max_new_tokens, "do_sample": True, "temperature": temperature, "top_k": 0}
        out = model.generate(**whole(prompts, copies), **options)[:, prompts["input_ids"].shape[1] :]
        return Completions(out, torch.ones_like(out, dtype=torch.bool), torch.zeros(len(out), dtype=torch.bool))

    def token_logits(model, prompts, tokens, copies):
        batch = whole(prompts, copies)
        batch["input_ids"] = torch.cat([batch["input_ids"], tokens], 1)
        batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(tokens)], 1)
        return model(**batch, use_cache=False, logits_to_keep=tokens.shape[1] + 1).logits[:, :-1].float()

    with (
        mock.patch.object(grpo, "generate", generate),
        mock.patch.object(grpo, "token_logits", token_logits),
        mock.patch.object(checkpoint, "batch_vision", lambda model: model),
    ):
        yield


def measure(prompts: int, copies: int, tokens: int, steps: int, rounds: int) -> dict:
    """Returns the median seconds of a step of each way, and how many times longer the others take than ours."""
    seconds: dict[str, list[float]] = {"ours": [], "stock": [], "trl": []}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), prompts, copies, tokens, steps)
        for _ in range(rounds):
            for way, found in seconds.items():
                found += getattr(bench, way)()
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "prompts": prompts,
        "completions": copies,
        "tokens": tokens,
        "threads": torch.get_num_threads(),
        "steps_timed": len(seconds["ours"]),
        "seconds": medians,
        "spread": {way: [min(found), max(found)] for way, found in seconds.items()},
        "times_ours": {way: medians[way] / medians["ours"] for way in ("stock", "trl")},
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in (("prompts", 16), ("copies", 8), ("tokens", 24), ("steps", 3), ("rounds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    print(json.dumps(measure(**given), indent=1))
