"""Packed samples teach all that unpacked ones teach, and logits of labels alone give the same loss and gradients."""

import sys
from functools import partial

import pytest

from cookbook.config import Config
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.fixture
def batch(engine, packer, world, contract):
    """Four samples of several lengths, as the engine's trainer gets them."""
    data = EngineDataset(road_vqa.read(world, "train", contract)[:8:2], Config.load(ROOT / "configs/tiny_sft.toml"))
    rows = [packer.sft_process_sample(data[i]) for i in range(4)]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    return packer.sft_collate_fn(rows, packer.sft_compute_max_len(rows), -100)


def learn(native, packer, batch, packed, places, loss=None):
    """Returns (loss, gradients by name) of what SFTTrainer.step_training does with a mini-batch."""
    from cosmos_rl.policy.kernel.loss import CrossEntropyLoss
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer
    from cosmos_rl.utils import sequence_packing as packing

    given = dict(batch)
    labels = given.pop("label_ids")
    if not places:
        del given["interested_tokens"]
    given["position_ids"] = native.get_position_ids(**given)[0]
    if packed:
        given |= packing.pack_sequences_info_collect(given["input_ids"], packer.pad_token_id, labels)
        labels = packing.pack_sequences_for_labels(labels, given["valid_input_len"])
        given |= packing.pack_sequences_for_masks(given["valid_input_len"], given["valid_input_len"])
    native.zero_grad()
    masks = {
        f"{k}_packing_mask": given.get(f"{name}_packing_mask") for k, name in (("output", "input"), ("target", "label"))
    }
    loss = (loss or partial(sft_trainer.async_safe_ce, ce_impl=CrossEntropyLoss()))(
        native(**given).logits, labels, **masks
    )
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in native.named_parameters() if p.grad is not None}


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
