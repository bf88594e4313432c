"""GRPO here, in cosmos-rl and in TRL: one number, and one gradient, for the settings that they share.

And the learning rate of every step, which SFT has from the same place.

Differences, each with a test: cosmos-rl divides by the population's standard deviation and has no exact zero for equal
rewards, and cuts the KL of a token at 10.
"""

import types
from collections import defaultdict

import pytest
import tomllib
import torch

from cookbook.config import Config
from cookbook.training.objective import Objective, advantages, completion_weights, divisor, policy_loss
from cookbook.training.optimizer import rate_factor

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def batch(dtype, seed=0, groups=4, copies=8, length=23, spread=0.4):
    """Returns random log-probabilities of three policies, advantages, and masks of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    n = groups * copies
    logp = -2 * torch.rand(n, length, generator=generator, dtype=torch.float64)
    old, reference = (logp + spread * torch.randn(n, length, generator=generator, dtype=torch.float64) for _ in "ab")
    lengths = torch.randint(1, length + 1, (n,), generator=generator)
    lengths[0] = length
    gain = advantages(torch.randint(0, 2, (groups, copies), generator=generator).double()).flatten()[:, None]
    mask = torch.arange(length)[None] < lengths[:, None]
    return (logp.to(dtype).requires_grad_(), old.to(dtype), reference.to(dtype), gain.to(dtype), mask)


def ours(choices: Objective, logp, old, reference, gain, mask):
    """Returns (loss, mean KL, gradient) as cookbook.training.grpo computes them for a step of one mini-batch."""
    lengths = mask.sum(1)
    loss, kl = policy_loss(
        logp, old, reference, gain, mask, choices.epsilon_low, choices.epsilon_high, choices.kl_beta,
        bound=choices.lower_bound_ratio, weight=completion_weights(choices, lengths),
        whole=choices.variant == "gspo", unbiased_kl=choices.unbiased_kl_estimate,
    )  # fmt: skip
    loss = loss / divisor(choices, lengths)
    return loss, kl / mask.sum(), torch.autograd.grad(loss, logp)[0]


def assert_close(a, b, dtype):
    torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# ---- cosmos-rl --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer():
    return pytest.importorskip("cosmos_rl.policy.trainer.llm_trainer.grpo_trainer", reason="cosmos-rl is not installed")


@pytest.fixture(scope="module")
def engine_algorithm():
    return pytest.importorskip("cosmos_rl.dispatcher.algo.grpo").GRPO


def engines(trainer, choices: Objective, logp, old, reference, gain, mask):
    """Returns (loss, KL, gradient) of cosmos-rl's compute_loss, with its own configuration class."""
    from cosmos_rl.policy.config import GrpoConfig

    policy = GrpoConfig(type="grpo", **vars(choices))
    config = types.SimpleNamespace(train=types.SimpleNamespace(train_policy=policy))
    ends = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)])
    flat = gain.expand_as(logp)
    loss, _, kl = trainer.compute_loss(logp[mask], old[mask], reference[mask], flat, ends, config, mask)
    return loss, kl, torch.autograd.grad(loss, logp)[0]


CHOICES = {
    "defaults": Objective(),
    "KL": Objective(kl_beta=0.05),
    "DAPO's clip": Objective(epsilon_low=0.2, epsilon_high=0.28, kl_beta=0.05),
    "a narrow dual clip": Objective(lower_bound_ratio=1.3),
    "sequence means": Objective(loss_type="seq-mean-token-mean", kl_beta=0.05),
    "Dr. GRPO": Objective(loss_type="seq-mean-token-mean", unbiased_loss_max_tokens=48, kl_beta=0.05),
    "sequence sums": Objective(loss_type="seq-mean-token-sum", kl_beta=0.05),
    "KL weighted by the ratio": Objective(kl_beta=0.05, unbiased_kl_estimate=True),
    "GSPO": Objective(variant="gspo", kl_beta=0.05),
    "GSPO, sequence means": Objective(variant="gspo", loss_type="seq-mean-token-mean"),
}


@DTYPES
@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_loss_gradient_and_kl_are_the_engines(choices, dtype, trainer):
    for seed in range(5):
        given = batch(dtype, seed)
        loss, kl, gradient = ours(choices, *given)
        theirs, their_kl, their_gradient = engines(trainer, choices, *given)
        assert_close(loss, theirs, dtype)
        assert_close(gradient, their_gradient, dtype)
        if choices.kl_beta and choices.loss_type == "token-mean" and not choices.unbiased_kl_estimate:
            assert_close(kl, their_kl, dtype)


def test_the_tensors_reach_every_branch():
    """The comparison means something only where tokens are clipped at both ends, and by the bound."""
    logp, old, _, gain, mask = batch(torch.float64)
    ratio = (logp - old).exp()[mask]
    gain = gain.expand_as(logp)[mask]
    for which in ((ratio > 1.28) & (gain > 0), (ratio < 0.8) & (gain < 0), (ratio > 1.3) & (gain < 0)):
        assert which.sum() > 10


def test_the_engine_cuts_the_kl_of_a_token_and_we_do_not(trainer):
    given = batch(torch.float64, spread=2.0)
    _, kl, _ = ours(Objective(kl_beta=0.05), *given)
    _, theirs, _ = engines(trainer, Objective(kl_beta=0.05), *given)
    difference = (given[2] - given[0])[given[4]]
    cut = (difference.exp() - difference - 1).clamp(max=10)
    assert kl > theirs + 0.01
    assert_close(cut.mean(), theirs, torch.float64)


@pytest.mark.parametrize("unbiased", [False, True])
def test_advantages_are_the_engines(unbiased, engine_algorithm):
    algorithm = engine_algorithm(reward_fn=len, unbiased=unbiased)
    generator = torch.Generator().manual_seed(0)
    for copies in (2, 4, 8, 16):
        rewards = torch.rand(20, copies, generator=generator, dtype=torch.float32)
        theirs = torch.tensor([algorithm.compute_advantage(row.tolist()) for row in rewards])
        torch.testing.assert_close(advantages(rewards, unbiased, correction=0), theirs, rtol=1e-5, atol=2e-6)
        if not unbiased:  # at its default ours divides by the deviation of a sample: a constant factor
            factor = ((copies - 1) / copies) ** 0.5
            torch.testing.assert_close(advantages(rewards), factor * theirs, rtol=1e-4, atol=1e-5)


def test_equal_rewards_are_noise_in_the_engine_and_zero_here(engine_algorithm):
    """(r − mean) / 1e-6 makes something of float32's rounding: completions that all earn the same push and pull."""
    algorithm = engine_algorithm(reward_fn=len)
    worst = max(
        abs(a) for n in range(2, 17) for r in (0.1, 1.1, 0.3, 0.7) for a in algorithm.compute_advantage([r] * n)
    )
    assert worst > 0.01
    assert all(advantages(torch.full((1, n), r)).abs().max() == 0 for n in range(2, 17) for r in (0.1, 1.1, 0.3, 0.7))


def test_a_real_batch_from_log_probabilities_to_gradient(trainer, stock, encoder, samples):
    """Completions of the tiny base: log-probabilities by the engine's function from whole sequences, loss by both."""
    from cosmos_rl.utils.util import compute_logprobs

    from cookbook.model.generation import generate, token_logits
    from cookbook.model.vision_tower import batch_vision
    from cookbook.training.rewards import reward

    model, copies = batch_vision(stock), 4
    prompts = encoder.prompt_batch(samples[:3])
    done = generate(model, prompts, 24, temperature=1.5, copies=copies, generator=torch.Generator().manual_seed(0))
    texts = [encoder.tokenizer.decode(t[m], skip_special_tokens=True) for t, m in zip(done.tokens, done.mask)]
    weights = {"rouge_l": 1.0, "length": 0.1, "format": 0.1}
    totals = torch.tensor([reward(t, samples[i // copies], weights, encoder.contract).total + 0.1 * (i % 3)
                           for i, t in enumerate(texts)])  # fmt: skip
    gain = advantages(totals.view(3, copies)).flatten()[:, None]
    logits = token_logits(model, prompts, done.tokens, copies).detach().double().requires_grad_()
    spread = logits.log_softmax(-1)
    logp = spread.gather(-1, done.tokens[..., None])[..., 0]
    # the engine sees the completion shifted by one: the logits at a place predict the token behind it
    ids = torch.cat([torch.zeros_like(done.tokens[:, :1]), done.tokens], dim=1)
    padded = torch.cat([done.mask, torch.zeros_like(done.mask[:, :1])], dim=1)
    theirs_flat, ends, facts = compute_logprobs(ids, padded, logits[done.mask])
    assert_close(logp[done.mask], theirs_flat, torch.float64)
    entropy = (-(spread.exp() * spread).sum(-1) * done.mask).sum() / done.mask.sum()
    assert any(torch.isclose(torch.as_tensor(v).double().mean(), entropy, atol=1e-5) for v in facts.values())

    generator = torch.Generator().manual_seed(1)
    old, reference = (
        logp.detach() + 0.2 * torch.randn(logp.shape, generator=generator, dtype=torch.float64) for _ in "ab"
    )
    choices = Objective(kl_beta=0.05)
    loss, kl, gradient = ours(choices, logp, old, reference, gain.double(), done.mask)
    their_loss, their_kl, their_gradient = engines(trainer, choices, logp, old, reference, gain.double(), done.mask)
    for a, b in ((loss, their_loss), (kl, their_kl), (gradient, their_gradient)):
        assert_close(a, b, torch.float64)
    assert ends.tolist() == [0, *done.mask.sum(1).cumsum(0).tolist()]


class Parts(list):
    """What the engine's scheduler wants to know of its container: the optimizers of one model part."""

    model_parts = (None,)

    @property
    def optimizers(self):
        return [list(self)]


SCHEDULES = [
    {"optm_warmup_steps": warmup, "optm_decay_type": kind, "optm_decay_ratio": ratio, **more}
    for warmup, more in ((0, {}), (1, {}), (7, {}), (0.25, {}), (7, {"optm_warmup_start_factor": 0.2}), (50, {}))
    for kind in ("linear", "sqrt", "cosine", "none", None)
    for ratio in (None, 0.0, 0.37, 0.9, 1.0)
]


@pytest.mark.parametrize("steps", [1, 2, 10, 31])
def test_the_learning_rate_of_every_step(trainer, steps):
    from cosmos_rl.policy.config import Config as EngineConfig
    from cosmos_rl.policy.trainer.optm import build_lr_schedulers

    base = Config.load("configs/tiny_sft.toml")
    for keys in SCHEDULES:
        config = base.edit({f"train.{key}": value for key, value in keys.items()} | {"train.optm_min_lr_factor": 0.1})
        adam = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = build_lr_schedulers(Parts([adam]), EngineConfig.from_dict(tomllib.loads(config.text())), steps)
        theirs = []
        for _ in range(steps):
            theirs.append(adam.param_groups[0]["lr"])
            adam.step()
            schedule.step()
        assert [rate_factor(i, steps, config) for i in range(steps)] == pytest.approx(theirs, abs=1e-12), keys


# ---- TRL --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is not installed").GRPOTrainer


def trls(trl, choices: Objective, loss_type, length, logp, old, reference, gain, mask):
    """Returns (loss, gradient) of TRL's own GRPOTrainer._compute_loss, its model's part replaced by our numbers."""
    gathered = types.SimpleNamespace(gather=lambda x: x, num_processes=1)
    stub = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp)),
        top_entropy_quantile=1.0, beta=choices.kl_beta, importance_sampling_level="token", loss_type=loss_type,
        epsilon_low=choices.epsilon_low, epsilon_high=choices.epsilon_high, use_vllm=False,
        args=types.SimpleNamespace(delta=None), current_gradient_accumulation_steps=1, max_completion_length=length,
        accelerator=gathered, model=types.SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    if choices.variant == "gspo":
        stub.importance_sampling_level = "sequence"
    ids = torch.zeros_like(mask, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :2], "prompt_mask": ids[:, :2] + 1,
        "completion_ids": ids, "completion_mask": mask.to(logp),
        "advantages": gain[:, 0], "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = trl._compute_loss(stub, None, inputs)
    return loss, torch.autograd.grad(loss, logp)[0]


FREE = 1e9  # TRL has no dual clip: without a bound the losses are one
SHARED = {
    "bnpo: token mean": ("bnpo", Objective(kl_beta=0.05, lower_bound_ratio=FREE)),
    "dapo: token mean": ("dapo", Objective(epsilon_high=0.28, lower_bound_ratio=FREE)),
    "grpo: sequence means": ("grpo", Objective(loss_type="seq-mean-token-mean", kl_beta=0.1, lower_bound_ratio=FREE)),
    "dr_grpo: a constant": ("dr_grpo", Objective(loss_type="seq-mean-token-mean", unbiased_loss_max_tokens=48,
                                                 lower_bound_ratio=FREE)),
    "GSPO": ("grpo", Objective(variant="gspo", loss_type="seq-mean-token-mean")),
}  # fmt: skip


@DTYPES
@pytest.mark.parametrize(("loss_type", "choices"), SHARED.values(), ids=SHARED)
def test_loss_and_gradient_are_trls(loss_type, choices, dtype, trl):
    for seed in range(3):
        given = batch(dtype, seed)
        loss, _, gradient = ours(choices, *given)
        theirs, their_gradient = trls(trl, choices, loss_type, 48, *given)
        assert_close(loss, theirs, dtype)
        assert_close(gradient, their_gradient, dtype)
