"""GRPO (group relative policy optimization), in one process: the loop that `rl.ipynb` explains.

Why: SFT copies written answers; RL lets the model try, pays what is right, and makes it likelier. No critic is needed:
a completion is compared with its siblings, the other completions of the same prompt.

    rollout      G completions of each prompt, sampled
    rewards      a number for each
    advantages   how much better than its group:  (r − mean) / std          Shao et al. 2024, arXiv:2402.03300
    update       raise the log-probability of what was better, clipped, and stay near the start (KL)

The keys are those of cosmos-rl; the formulas stand in cookbook/training/objective.py.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from cookbook import checkpoint
from cookbook.config import Config, ConfigError, require
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.display.progress import progress
from cookbook.model.generation import Completions, generate, to, token_logits
from cookbook.runs import Run
from cookbook.training.checkpointer import Checkpointer
from cookbook.training.objective import Objective, advantages, completion_weights, divisor, policy_loss
from cookbook.training.optimizer import Optimizer, batches
from cookbook.training.rewards import Reward, penalty, require_gold, require_parts, reward, reward_weights
from cookbook.training.validation import Validation


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


def roll_out(model, encoder: Encoder, samples: list[Sample], config: Config, generator: torch.Generator) -> Rollout:
    """Sample `rollout.n_generation` completions of each prompt and reward them."""
    copies, weights = config["rollout.n_generation"], reward_weights(config)
    model.eval()
    limit, temperature = config["rollout.max_response_length"], config["rollout.sampling_config.temperature"]
    prompts = to(model, encoder.prompt_batch(samples))
    completions = generate(model, prompts, limit, temperature, copies, generator)
    texts = completions.texts(encoder.tokenizer)
    rewards = [
        reward(text, samples[i // copies], weights, encoder.contract, penalty(text, config, encoder.tokenizer))
        for i, text in enumerate(texts)
    ]
    return Rollout(samples, completions, texts, rewards)


def plan_steps(config: Config, samples: list[Sample]) -> tuple[int, int]:
    """Returns (steps, prompts per step). Raises ConfigError where configuration and data do not fit together."""
    require(config, kind="grpo", gpus=1, samples=len(samples))
    Objective.of(config)
    require_parts(config)
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


def grpo(
    config: Config,
    train: list[Sample],
    encoder: Encoder,
    model,
    run: Run,
    seed: int,
    validation: Sequence[Sample] = (),
    *,
    mask_cut: bool = False,
    probes: int = 4,
    stop_on_alarm: bool = True,
) -> Path | None:
    """Train the model on its own rewarded completions. Returns the last export, None where none is wanted.

    The model as it comes in is the reference of the KL term. `[validation] enable, freq` measure greedy accuracy on
    `validation`, and keep the export of the best step; the first `probes` of them are answered greedily before, halfway
    and at the end. `mask_cut` leaves completions without an end out of the loss (DAPO's overlong filtering).
    Leaves metrics.jsonl, generations.jsonl, log.txt, best.json and `safetensors/step_N` in the run's folder; goes on
    where that holds the state of a stopped run (`Checkpointer`). Raises ConfigError or RewardError before the first
    step where the set-up cannot work, and TrainingStopped, after an export, where a severe alarm of
    cookbook.training.alarms goes off and `stop_on_alarm` is set.
    """
    steps, prompts = plan_steps(config, train)
    require_gold(train, reward_weights(config), encoder.contract)
    choices = Objective.of(config)
    copies, inner = config["rollout.n_generation"], config["train.train_policy.mu_iterations"]
    mini = config["train.train_policy.mini_batch"] // copies
    temperature = config["train.train_policy.temperature"]
    reference = checkpoint.batch_vision(copy.deepcopy(model)).eval().requires_grad_(False)
    optimizer = Optimizer(model, config, steps * inner)
    generator = torch.Generator(model.device).manual_seed(seed)
    plan = batches(train, prompts, config["train.epoch"], seed)[:steps]
    measured = Validation(config, validation, encoder, run, steps, probes)
    keeper = Checkpointer(run, config, model, encoder, optimizer, steps, generator=generator, measured=measured,
                          stop_on_alarm=stop_on_alarm)  # fmt: skip
    if not keeper.done:
        measured.look(model, 0)
    run.log(f"GRPO: {len(train)} prompts, {steps} steps of {prompts} prompts x {copies} completions")

    for step, samples in enumerate(bar := progress(plan, "RL", keeper.done), start=keeper.done + 1):
        # ---- rollout and rewards
        rollout = roll_out(model, encoder, samples, config, generator)

        # ---- advantages; a group whose rewards are all equal teaches nothing and is left out of the update
        advantage = advantages(rollout.totals, choices.unbiased_advantage)
        live = [i for i in range(prompts) if advantage[i].abs().sum() > 0]

        # ---- which tokens count, and what the sum over them is divided by
        counted = rollout.completions.mask & (rollout.completions.ended | (not mask_cut))[:, None]
        lengths = counted.sum(1)
        weights = completion_weights(choices, lengths)
        of_live = rows_of(live, copies) if choices.variant == "dapo" else slice(None)
        share = divisor(choices, lengths[of_live])

        # ---- update: the same completions, `mu_iterations` times
        kl_sum, entropy_sum, loss_sum, seen, norm = 0.0, 0.0, 0.0, 0, 0.0
        olds: dict[int, Tensor] = {}  # log-probabilities of the policy that sampled, the same for all iterations
        for _ in range(inner if live else 0):
            for start in range(0, len(live), mini):
                part = live[start : start + mini]
                rows = rows_of(part, copies)
                tokens, mask = rollout.completions.tokens[rows], counted[rows]
                batch = to(model, encoder.prompt_batch([samples[i] for i in part]))
                spread = (token_logits(model, batch, tokens, copies) / temperature).log_softmax(-1)
                logp = spread.gather(-1, tokens[..., None])[..., 0]
                with torch.no_grad():
                    was = (token_logits(reference, batch, tokens, copies) / temperature).log_softmax(-1)
                    was = was.gather(-1, tokens[..., None])[..., 0]
                    entropy_sum += (-(spread.exp() * spread).sum(-1) * mask).sum().item()
                old = olds.setdefault(start, logp.detach())
                gain = advantage[part].flatten()[:, None].to(logp)
                loss, kl = policy_loss(
                    logp, old, was, gain, mask, choices.epsilon_low, choices.epsilon_high, choices.kl_beta,
                    bound=choices.lower_bound_ratio, weight=weights[rows],
                    whole=choices.variant == "gspo", unbiased_kl=choices.unbiased_kl_estimate,
                )  # fmt: skip
                (loss / share).backward()
                loss_sum, kl_sum, seen = loss_sum + loss.item(), kl_sum + kl.item(), seen + mask.sum().item()
            norm = optimizer.step()

        # ---- what to watch
        totals, lengths = rollout.totals, rollout.completions.lengths.float()
        values = {
            "train/reward_mean": totals.mean().item(),
            "train/reward_std": totals.std(1).mean().item(),
            **{
                f"train/reward_{name}": fmean(r.parts[name] for r in rollout.rewards)
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
        improved = measured.look(model, step, values)
        run.log_metrics(step, **values)
        run.keep_generations(
            {"step": step, "id": s.id, "output": rollout.texts[i * copies], "reference": s.answer,
             "reward": rollout.rewards[i * copies].total, **rollout.rewards[i * copies].parts}
            for i, s in enumerate(samples)
        )  # fmt: skip
        bar.set(reward=values["train/reward_mean"], kl=values["train/kl_loss_avg"])

        # ---- keep what is there; end where it cannot get better
        keeper.keep(step, values, improved)

    return keeper.end()


def rows_of(groups: list[int], copies: int) -> list[int]:
    """Returns the rows of all completions of some groups."""
    return [i * copies + j for i in groups for j in range(copies)]
