"""Samples and batches: from conversations to the tensors that the model takes.

Why: reading a clip and cutting it into patches costs more than the tiny model itself, and a question is asked of the
same clip many times. So each clip is read once, each sample is tokenized once, and batches only stack what is there.

    encoder = Encoder(processor, contract)
    batch = encoder.training_batch(samples)     # labels are -100 outside the assistant's turn
    batch = encoder.prompt_batch(samples)       # left-padded, for generation
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from transformers import Qwen2_5_VLProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from cookbook.contract import Contract
from cookbook.video import TEMPORAL_PATCH, read_frames

IGNORE = -100  # the label that the cross-entropy leaves out


@dataclass(frozen=True)
class Sample:
    """One question about one clip, with the answer that SFT writes and the reference that rewards compare with."""

    id: str
    clip: str  # samples of one clip never stand in two splits
    video: Path
    task: str
    question: str
    options: tuple[str, ...]
    answer: str
    target: str  # the whole completion, in the contract's format


@dataclass(frozen=True)
class Clip:
    """A clip as the vision tower takes it: patches (t·h·w, values), grid (t, h, w), seconds per temporal step."""

    patches: torch.Tensor
    grid: tuple[int, int, int]
    seconds_per_step: float


class Encoder:
    """Turns samples into batches by the model's own processor; remembers every clip and prompt it has seen."""

    def __init__(self, processor: Qwen2_5_VLProcessor, contract: Contract, model_config) -> None:
        """`model_config` is the model's config: its token ids and vision settings decide the positions."""
        self.processor, self.contract, self.config = processor, contract, model_config
        self.tokenizer = processor.tokenizer
        self.clip = cache(self._clip)
        self.prompt = cache(self._prompt)

    def _clip(self, path: Path) -> Clip:
        vision = self.contract.vision
        frames, fps = read_frames(path, vision.fps)
        limits = {"shortest_edge": vision.min_pixels, "longest_edge": vision.max_pixels}
        out = self.processor.video_processor(videos=[frames], size=limits, do_sample_frames=False, return_tensors="pt")
        return Clip(out["pixel_values_videos"], tuple(out["video_grid_thw"][0].tolist()), TEMPORAL_PATCH / fps)

    def _prompt(self, video: Path, question: str) -> list[int]:
        """Returns the token ids of the conversation up to the assistant's turn, vision tokens included."""
        t, h, w = self.clip(video).grid
        merge = self.processor.video_processor.merge_size
        chat = self.contract.conversation(video, question)
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        pad = self.processor.video_token
        return self.tokenizer(text.replace(pad, pad * (t * h * w // merge**2)))["input_ids"]

    def positions(self, ids: torch.Tensor, mask: torch.Tensor, clips: list[Clip]) -> torch.Tensor:
        """Returns the 3-D rotary positions (3, batch, length) that the stock model would compute."""
        grid = torch.tensor([c.grid for c in clips])
        seconds = torch.tensor([c.seconds_per_step for c in clips])
        owner = type("Positions", (), {"config": self.config})
        return Qwen2_5_VLModel.get_rope_index(owner, ids, None, grid, seconds, mask)[0]

    def _batch(self, rows: list[list[int]], samples: list[Sample], side: str) -> dict[str, torch.Tensor]:
        clips = [self.clip(s.video) for s in samples]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[i, where], mask[i, where] = torch.tensor(row), 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": self.positions(ids, mask, clips),
            "pixel_values_videos": torch.cat([c.patches for c in clips]),
            "video_grid_thw": torch.tensor([c.grid for c in clips]),
        }

    def prompt_batch(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Returns the prompts, padded on the left so that generation goes on from the last column."""
        return self._batch([self.prompt(s.video, s.question) for s in samples], samples, "left")

    def training_batch(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Returns prompts with targets, padded on the right, and labels for the assistant's tokens only."""
        prompts = [self.prompt(s.video, s.question) for s in samples]
        targets = [self.tokenizer(s.target + self.tokenizer.eos_token)["input_ids"] for s in samples]
        batch = self._batch([p + t for p, t in zip(prompts, targets)], samples, "right")
        labels = torch.full_like(batch["input_ids"], IGNORE)
        for i, (prompt, target) in enumerate(zip(prompts, targets)):
            labels[i, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
        return batch | {"labels": labels}
