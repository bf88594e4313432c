"""Packed samples teach all that unpacked ones teach, and logits of labels alone give the same loss and gradients."""

import sys

import pytest
from learning import learn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.mark.parametrize(("packed", "places"), [(True, False), (False, True), (True, True)])
def test_loss_and_gradients_are_those_of_samples_side_by_side(native, packer, batch, packed, places):
    want, grads = learn(native, packer, batch, packed=False, places=False)
    got, ours = learn(native, packer, batch, packed, places)
    assert got == pytest.approx(want, rel=1e-3)  # the native model attends in bfloat16
    assert ours.keys() == grads.keys() == dict(native.named_parameters()).keys()
    for name, grad in grads.items():
        assert (ours[name] - grad).norm() <= 0.02 * grad.norm() + 1e-7, name


def test_logits_are_made_of_labels_alone(native, batch):
    labels = batch.pop("label_ids")
    batch["position_ids"] = native.get_position_ids(**batch)[0]
    logits = native(**batch).logits
    assert logits.shape == ((labels != -100).sum(), native.vocab_size) and len(logits) < labels.numel() / 2


def test_the_engine_still_packs_without_gradients(native, packer, batch, monkeypatch):
    from cosmos_rl.policy.model import qwen2_5_vl

    monkeypatch.setattr(qwen2_5_vl, "pack_sequences_for_inputs", qwen2_5_vl.pack_sequences_for_inputs.bare)
    _, grads = learn(native, packer, batch, packed=True, places=False)
    assert not [name for name in grads if name.startswith("visual.")]


def test_the_engine_still_makes_logits_of_every_token():
    import inspect

    from cosmos_rl.policy.trainer.llm_trainer import grpo_trainer, sft_trainer

    assert "interested_tokens" in inspect.getsource(grpo_trainer)
    assert "interested_tokens" not in inspect.getsource(sft_trainer)
