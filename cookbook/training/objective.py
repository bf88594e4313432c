"""What GRPO maximizes: the advantages of a group and the clipped loss of a batch, with every choice that has a key.

Why: GRPO, Dr. GRPO, DAPO and GSPO differ in a line each. The lines stand together here, under cosmos-rl's names, and
`tests/training/test_grpo_parity.py` compares them with cosmos-rl and TRL; `training.grpo` is the loop.

    [train.train_policy]
    unbiased_advantage                     true: r − mean, not divided by std (Dr. GRPO)
    epsilon_low, epsilon_high              the clip of the ratio; 0.2 and 0.28 in DAPO
    lower_bound_ratio                      where the ratio stops counting for a worse completion (dual clip)
    kl_beta, unbiased_kl_estimate          the pull to the reference; its estimate weighted by the ratio
    loss_type, unbiased_loss_max_tokens    what the loss is divided by
    variant                                "gspo": one ratio a completion; "dapo": tokens of groups with equal rewards
                                           do not count in the mean (the engine also samples others in their place)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cookbook.config import Config, ConfigError

POLICY = "train.train_policy"
FARTHEST = 20.0  # log ratios beyond are cut before exp(), as cosmos-rl does
# keys of the engine that change the objective and that this engine does not have; the value that leaves them off
WITHOUT = {
    "aipo_rho": None,
    "batch_size_per_optimize": None,
    "bypass_reward": False,
    "entropy_coeff": 0.0,
    "min_filter_prefix_tokens": None,
    "off_policy_masking_delta": None,
    "positive_nll_coef": None,
    "reference_reset_interval": None,
    "use_decoupled_loss": False,
}


@dataclass(frozen=True)
class Objective:
    """The choices; fields are named as the engine's keys and have its defaults."""

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    lower_bound_ratio: float = 3.0
    kl_beta: float = 0.0
    unbiased_kl_estimate: bool = False
    unbiased_advantage: bool = False
    loss_type: str = "token-mean"
    unbiased_loss_max_tokens: int | None = None
    variant: str = "grpo"

    @classmethod
    def of(cls, config: Config) -> "Objective":
        """Returns the choices of a configuration. Raises ConfigError for one that only cosmos-rl has."""
        for name, off in WITHOUT.items():
            if (value := config[f"{POLICY}.{name}"]) != off:
                raise ConfigError(
                    f"{config.name}:{config.line(f'{POLICY}.{name}')}: {POLICY}.{name} = {value} is not in the local "
                    "engine; remove it, or run cosmos-rl"
                )
        return cls(**{name: config[f"{POLICY}.{name}"] for name in cls.__dataclass_fields__})


def advantages(rewards: Tensor, unbiased: bool = False, correction: int = 1) -> Tensor:
    """Returns how much better each completion is than its group: (r − mean) / std. rewards: (prompts, G).

    Where all of a group earn the same there is nothing to learn from: exact zeros. `unbiased` leaves the division out
    (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783): with it, groups that are nearly all right or all wrong weigh more.
    The standard deviation is that of a sample, as in TRL; `correction=0` is cosmos-rl's, √(G/(G − 1)) times the value.
    """
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True, correction=correction)
    better = rewards - mean if unbiased else (rewards - mean) / (std + 1e-6)
    return torch.where(std > 1e-6, better, torch.zeros_like(rewards))


def policy_loss(
    logp: Tensor,
    old: Tensor,
    reference: Tensor,
    advantage: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    beta: float,
    *,
    bound: float = 3.0,
    weight: Tensor | float = 1.0,
    whole: bool = False,
    unbiased_kl: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the summed loss and the summed KL over the tokens that the mask keeps; all tensors (n, length).

    The ratio to the policy that sampled is clipped to 1 − low .. 1 + high, so that one batch cannot move it far; for a
    worse completion it counts up to `bound` (Ye et al. 2020, arXiv:1912.09729). The KL to the reference is the k3
    estimate, exp(d) − d − 1 with d = reference − logp: never negative, zero where equal (Schulman 2020,
    joschu.net/blog/kl-approx.html). `weight` (n, 1) weighs each completion's loss. `whole`: one ratio a completion, the
    geometric mean of its tokens' (GSPO). `unbiased_kl`: the estimate times the ratio (DeepSeek-V3.2).
    """
    ratio = logp - old
    if whole:
        ratio = ((ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)).expand_as(ratio)
    ratio = ratio.clamp(-FARTHEST, FARTHEST).exp()
    clipped = ratio.clamp(1 - low, 1 + high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    if not whole:
        gain = torch.where(advantage < 0, torch.maximum(gain, bound * advantage), gain)
    difference = (reference - logp).clamp(-FARTHEST, FARTHEST)
    kl = difference.exp() - difference - 1
    if unbiased_kl:
        kl = kl * (logp - old).clamp(-FARTHEST, FARTHEST).exp()
    return ((beta * kl - gain) * (mask * weight)).sum(), (kl * mask).sum()


def completion_weights(objective: Objective, lengths: Tensor) -> Tensor:
    """Returns how much each completion's summed loss counts (n, 1). lengths (n): its tokens that count.

    Only the first GRPO, seq-mean-token-mean, weighs a completion by 1 / length: each token of a long one then counts
    less, which Dr. GRPO takes out again by a constant, `unbiased_loss_max_tokens`.
    """
    by_length = objective.loss_type == "seq-mean-token-mean" and not objective.unbiased_loss_max_tokens
    return (1 / lengths.clamp_min(1) if by_length else torch.ones(len(lengths), device=lengths.device))[:, None]


def divisor(objective: Objective, lengths: Tensor) -> int:
    """Returns what the weighted sum over a step's completions is divided by. lengths (n): tokens that count.

    token-mean: all tokens, so that each weighs the same and long completions more (DAPO). The others: completions, of
    `unbiased_loss_max_tokens` each where that is stated.
    """
    if objective.loss_type == "token-mean":
        return max(int(lengths.sum()), 1)
    constant = objective.loss_type == "seq-mean-token-mean" and objective.unbiased_loss_max_tokens
    return max(len(lengths), 1) * (constant or 1)
