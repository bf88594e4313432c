"""Packed samples teach all that unpacked ones teach, with as few questions as there are mini-batches."""

import sys

import pytest
from learning import collate, learn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


def test_loss_and_gradients_are_those_of_samples_side_by_side(native, packer, rows):
    batch = collate(packer, rows, lays_out=False)
    want, grads = learn(native, packer, batch)
    got, ours = learn(native, packer, batch, packed=True)
    assert got == pytest.approx(want, rel=1e-3)  # the native model attends in bfloat16
    assert ours.keys() == grads.keys() == dict(native.named_parameters()).keys()
    for name, grad in grads.items():
        assert (ours[name] - grad).norm() <= 0.02 * grad.norm() + 1e-7, name


def test_the_engine_still_packs_without_gradients(native, packer, rows, monkeypatch):
    from cosmos_rl.policy.model import qwen2_5_vl

    monkeypatch.setattr(qwen2_5_vl, "pack_sequences_for_inputs", qwen2_5_vl.pack_sequences_for_inputs.bare)
    _, grads = learn(native, packer, collate(packer, rows, lays_out=False), packed=True)
    assert not [name for name in grads if name.startswith("visual.")]


def test_advantages_and_log_probabilities_are_the_engines_own(native):
    import torch
    from cosmos_rl.policy.trainer.llm_trainer import grpo_trainer
    from cosmos_rl.utils import util

    masks, lengths, gains = torch.rand(3, 9) > 0.5, torch.tensor([4, 9, 6]), torch.randn(3)
    spread = grpo_trainer.pack_sequences_for_logprobs
    want, got = spread.bare(masks, lengths, advantages=gains), spread(masks, lengths, advantages=gains)
    assert want.keys() == got.keys() and all(torch.equal(want[key], got[key]) for key in want)
    logits, index = torch.randn(5, 40, requires_grad=True), torch.randint(40, (5,))
    chosen = util.selective_log_softmax
    for made in (chosen.bare, chosen):
        assert torch.allclose(made(logits, index), logits.log_softmax(-1)[range(5), index], atol=1e-6)
    (want,) = torch.autograd.grad(chosen.bare(logits, index).sum(), logits)
    (got,) = torch.autograd.grad(chosen(logits, index).sum(), logits)
    assert torch.allclose(want, got, atol=1e-6)


def test_the_engine_still_asks_token_by_token(native, monkeypatch):
    import torch
    from cosmos_rl.policy.trainer.llm_trainer import grpo_trainer
    from cosmos_rl.utils import util

    calls, bare = [], torch.logsumexp
    monkeypatch.setattr(torch, "logsumexp", lambda *args, **kwargs: calls.append(1) or bare(*args, **kwargs))
    util.selective_log_softmax.bare(torch.randn(5, 40), torch.randint(40, (5,)))
    assert len(calls) == 5
    iterated, walk = [], torch.Tensor.__iter__
    monkeypatch.setattr(torch.Tensor, "__iter__", lambda tensor: iterated.append(1) or walk(tensor))
    grpo_trainer.pack_sequences_for_logprobs.bare(torch.ones(2, 3).bool(), torch.tensor([3, 2]), torch.ones(2))
    assert iterated
