"""The optimizer that both loops share, from the engine's keys `train.optm_*`."""

import math

import torch

from cookbook.config import Config


def rate_factor(step: int, steps: int, config: Config) -> float:
    """Returns the share of the peak learning rate at a step (from 0): linear warm-up, constant, then decay.

    The keys are cosmos-rl's: `optm_warmup_steps` (a count, or a share of all steps), `optm_decay_ratio` (the last share
    of steps that decays), `optm_decay_type` (linear or cosine), `optm_min_lr_factor`.
    """
    warmup = config["train.optm_warmup_steps"]
    warmup = int(warmup * steps) if isinstance(warmup, float) else warmup
    if step < warmup:
        return (step + 1) / warmup
    decay = int((config["train.optm_decay_ratio"] or 0) * steps)
    done = (step - (steps - decay) + 1) / decay if decay else 0.0
    if done <= 0:
        return 1.0
    floor = config["train.optm_min_lr_factor"]
    shape = 0.5 * (1 + math.cos(math.pi * done)) if config["train.optm_decay_type"] == "cosine" else 1 - done
    return floor + (1 - floor) * shape


class Optimizer:
    """AdamW with the engine's schedule and gradient clipping; `step()` does all three."""

    def __init__(self, model, config: Config, steps: int) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.config, self.steps, self.done = config, steps, 0
        self.rate = 0.0
        self.adam = torch.optim.AdamW(
            self.parameters,
            lr=config["train.optm_lr"],
            betas=tuple(config["train.optm_betas"]),
            eps=config["train.epsilon"],
            weight_decay=config["train.optm_weight_decay"],
        )

    def step(self) -> float:
        """Clip, update, clear the gradients. Returns the gradient norm before clipping."""
        self.rate = self.config["train.optm_lr"] * rate_factor(self.done, self.steps, self.config)
        for group in self.adam.param_groups:
            group["lr"] = self.rate
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config["train.optm_grad_norm_clip"])
        self.adam.step()
        self.adam.zero_grad()
        self.done += 1
        return norm.item()
