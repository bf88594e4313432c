"""GRPO (group relative policy optimization), in one process: the loop that `rl.ipynb` explains.

Why: SFT copies written answers; RL lets the model try, pays what is right, and makes it likelier. No critic is needed:
a completion is compared with its siblings, the other completions of the same prompt.

    rollout      G completions of each prompt, sampled
    rewards      a number for each
    advantages   how much better than its group:  (r − mean) / std          Shao et al. 2024, arXiv:2402.03300
    update       raise the log-probability of what was better, clipped, and stay near the start (KL)

The keys are those of cosmos-rl.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cookbook import checkpoint
from cookbook.config import Config, ConfigError, require
from cookbook.encoder import Encoder
from cookbook.optimizer import Optimizer
from cookbook.progress import progress
from cookbook.rewards import Reward, reward
from cookbook.runs import Run
from cookbook.samples import Sample
from cookbook.sampling import Completions, generate, token_logits
from cookbook.sft import batches, to


@dataclass
class Rollout:
    """Completions of some prompts, G for each, with what they earned. Rows of one prompt stand together."""

    samples: list[Sample]
    completions: Completions
    texts: list[str]
    rewards: list[Reward]

    @property
    def totals(self) -> Tensor:
        """Total rewards (prompts, G)."""
        return torch.tensor([r.total for r in self.rewards]).view(len(self.samples), -1)


# ---- the three verbs --------------------------------------------------------------------------------------------


def roll_out(model, encoder: Encoder, samples: list[Sample], config: Config, generator: torch.Generator) -> Rollout:
    """Sample `rollout.n_generation` completions of each prompt and reward them."""
    copies, weights = config["rollout.n_generation"], config.table("train.train_policy.reward_function")
    model.eval()
    completions = generate(
        model,
        to(model, encoder.prompt_batch(samples)),
        max_new_tokens=config["rollout.max_response_length"],
        temperature=config["rollout.sampling_config.temperature"],
        copies=copies,
        generator=generator,
    )
    texts = [
        encoder.tokenizer.decode(tokens[mask], skip_special_tokens=True)
        for tokens, mask in zip(completions.tokens, completions.mask)
    ]
    rewards = [reward(text, samples[i // copies], weights, encoder.contract) for i, text in enumerate(texts)]
    return Rollout(samples, completions, texts, rewards)


def advantages(rewards: Tensor) -> Tensor:
    """Returns how much better each completion is than its group: (r − mean) / std. rewards: (prompts, G).

    Where all of a group earn the same there is nothing to learn from: zeros.
    """
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)
    return torch.where(std > 1e-6, (rewards - mean) / (std + 1e-6), torch.zeros_like(rewards))


def policy_loss(
    logp: Tensor,
    old: Tensor,
    reference: Tensor,
    advantage: Tensor,
    mask: Tensor,
    low: float,
    high: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Returns the summed loss and the summed KL over the tokens that the mask keeps; all tensors (n, length).

    The ratio to the policy that sampled is clipped to 1 − low .. 1 + high, so that one batch cannot move it far. The KL
    to the reference is the k3 estimate, exp(d) − d − 1 with d = reference − logp: never negative, zero where equal
    (Schulman 2020, joschu.net/blog/kl-approx.html).
    """
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - low, 1 + high)
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    difference = reference - logp
    kl = difference.exp() - difference - 1
    return ((beta * kl - gain) * mask).sum(), (kl * mask).sum()


# ---- the loop ---------------------------------------------------------------------------------------------------


def plan_steps(config: Config, samples: list[Sample]) -> tuple[int, int]:
    """Returns (steps, prompts per step). Raises ConfigError where configuration and data do not fit together."""
    require(config, kind="grpo", gpus=1, samples=len(samples))
    size, copies = config["train.train_batch_per_replica"], config["rollout.n_generation"]
    mini = config["train.train_policy.mini_batch"]
    if mini % copies:
        raise ConfigError(
            f"{config.name}: train.train_policy.mini_batch = {mini} cuts groups of rollout.n_generation = {copies}; "
            "the local engine keeps a group together, so make it a multiple"
        )
    prompts = size // copies
    steps = len(samples) // prompts * config["train.epoch"]
    return min(steps, config["train.max_num_steps"] or steps), prompts


def grpo(config: Config, train: list[Sample], encoder: Encoder, model, run: Run, seed: int) -> Path:
    """Train the model on its own rewarded completions. Returns the folder of the last export.

    The model as it comes in is the reference of the KL term. Leaves metrics.jsonl, generations.jsonl, log.txt and
    `safetensors/step_N` in the run's folder. Raises ConfigError before the first step where the set-up cannot work.
    """
    steps, prompts = plan_steps(config, train)
    copies, mini = (
        config["rollout.n_generation"],
        config["train.train_policy.mini_batch"] // config["rollout.n_generation"],
    )
    low, high = config["train.train_policy.epsilon_low"], config["train.train_policy.epsilon_high"]
    beta, inner = config["train.train_policy.kl_beta"], config["train.train_policy.mu_iterations"]
    reference = checkpoint.batch_vision(copy.deepcopy(model)).eval().requires_grad_(False)
    optimizer = Optimizer(model, config, steps * inner)
    generator = torch.Generator(model.device).manual_seed(seed)
    plan = batches(train, prompts, config["train.epoch"], seed)[:steps]
    save_every = config["train.ckpt.save_freq"] if config["train.ckpt.enable_checkpoint"] else 0
    run.log(f"GRPO: {len(train)} prompts, {steps} steps of {prompts} prompts x {copies} completions")
    started = time.monotonic()

    for step, samples in enumerate(bar := progress(plan, "RL"), start=1):
        # ---- rollout and rewards
        rollout = roll_out(model, encoder, samples, config, generator)

        # ---- advantages; a group whose rewards are all equal teaches nothing and is left out of the update
        advantage = advantages(rollout.totals)
        live = [i for i in range(prompts) if advantage[i].abs().sum() > 0]
        tokens_in_step = rollout.completions.mask.sum()

        # ---- update: the same completions, `mu_iterations` times
        kl_sum, entropy_sum, loss_sum, seen, norm = 0.0, 0.0, 0.0, 0, 0.0
        olds: dict[int, Tensor] = {}
        for _ in range(inner if live else 0):
            for start in range(0, len(live), mini):
                part = live[start : start + mini]
                rows = [i * copies + j for i in part for j in range(copies)]
                tokens, mask = rollout.completions.tokens[rows], rollout.completions.mask[rows]
                batch = to(model, encoder.prompt_batch([samples[i] for i in part]))
                logits = token_logits(model, batch, tokens, copies) / config["train.train_policy.temperature"]
                spread = logits.log_softmax(-1)
                logp = spread.gather(-1, tokens[..., None])[..., 0]
                with torch.no_grad():
                    was = token_logits(reference, batch, tokens, copies) / config["train.train_policy.temperature"]
                    was = was.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
                    entropy_sum += (-(spread.exp() * spread).sum(-1) * mask).sum().item()
                old = olds.setdefault(start, logp.detach())
                gain = advantage[part].flatten()[:, None].to(logp)
                loss, kl = policy_loss(logp, old, was, gain, mask, low, high, beta)
                (loss / tokens_in_step).backward()
                loss_sum, kl_sum, seen = loss_sum + loss.item(), kl_sum + kl.item(), seen + mask.sum().item()
            norm = optimizer.step()

        # ---- what to watch
        totals, lengths = rollout.totals, rollout.completions.lengths.float()
        values = {
            "train/reward_mean": totals.mean().item(),
            "train/reward_std": totals.std(1).mean().item(),
            **{
                f"train/reward_{name}": mean(r.parts[name] for r in rollout.rewards)
                for name in rollout.rewards[0].parts
            },
            "train/zero_variance_share": 1 - len(live) / prompts,
            "train/kl_loss_avg": kl_sum / max(seen, 1),
            "train/entropy": entropy_sum / max(seen, 1),
            "train/loss_avg": loss_sum / max(seen, 1),
            "rollout/completion_length_mean": lengths.mean().item(),
            "rollout/completion_length_max": lengths.max().item(),
            "rollout/cut_share": 1 - rollout.completions.ended.float().mean().item(),
            "optimizer/grad_norm": norm,
            "optimizer/lr": optimizer.rate,
        }
        run.log_metrics(step, **values)
        run.keep_generations(
            {"step": step, "id": s.id, "output": rollout.texts[i * copies], "reference": s.answer,
             "reward": rollout.rewards[i * copies].total, **rollout.rewards[i * copies].parts}
            for i, s in enumerate(samples)
        )  # fmt: skip
        bar.set(reward=values["train/reward_mean"], kl=values["train/kl_loss_avg"])
        if save_every and (step % save_every == 0 or step == steps):
            dtype = getattr(torch, config["train.param_dtype"])
            folder = checkpoint.export(model, encoder, run.path, step, dtype)
            checkpoint.keep_last(run.path, config["train.ckpt.max_keep"])
            run.log(f"Exported safetensors to {folder.relative_to(run.path)}")

    run.write_manifest(seconds={"train": round(time.monotonic() - started, 1)}, steps=steps)
    return checkpoint.find(run.path)


def mean(values) -> float:
    """Returns the mean of an iterable of numbers."""
    values = list(values)
    return sum(values) / len(values)
