"""One mini-batch through the engine's own model, as SFTTrainer.step_training takes it."""

from functools import partial
from types import SimpleNamespace

import torch
from torch.distributed.device_mesh import init_device_mesh


def collate(packer, rows, lays_out=True, longest=None):
    """Returns a mini-batch of the packer's samples, laid out before the GPU sees it or in the engine's own order."""
    packer.lays_out = lays_out
    try:
        return packer.sft_collate_fn([dict(row) for row in rows], longest or packer.sft_compute_max_len(rows), -100)
    finally:
        del packer.lays_out


def learn(native, packer, batch, packed=False, backward=True):
    """Returns (loss, gradients by name) of what SFTTrainer.step_training does with a mini-batch."""
    from cosmos_rl.policy.kernel.loss import CrossEntropyLoss
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer
    from cosmos_rl.utils import sequence_packing as packing

    given = dict(batch)
    labels = given.pop("label_ids")
    given["position_ids"] = native.get_position_ids(**given)[0]
    if packed:
        given |= packing.pack_sequences_info_collect(given["input_ids"], packer.pad_token_id, labels)
        labels = packing.pack_sequences_for_labels(labels, given["valid_input_len"])
        given |= packing.pack_sequences_for_masks(given["valid_input_len"], given["valid_input_len"])
    native.zero_grad()
    masks = {
        f"{k}_packing_mask": given.get(f"{name}_packing_mask") for k, name in (("output", "input"), ("target", "label"))
    }
    ce = partial(sft_trainer.async_safe_ce, ce_impl=CrossEntropyLoss())
    with torch.set_grad_enabled(backward):
        loss = ce(native(**given).logits, labels, **masks)
    if backward:
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in native.named_parameters() if p.grad is not None}


def adapt(model):
    """Give every linear layer an adapter that is no longer at its start, and freeze the rest."""
    from cosmos_rl.policy.config import LoraConfig
    from cosmos_rl.policy.lora.plugin import inject_lora_adapters, mark_only_lora_as_trainable

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    torch.manual_seed(0)
    inject_lora_adapters(model, config)
    mark_only_lora_as_trainable(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)


def hand_over(model, ranks, dtype, kind="sft"):
    """Let the engine compile transformers' model and share it by FSDP, as its trainer does, with a test's compiler."""
    from cosmos_rl.policy.model.hf_models import parallelize

    dims = SimpleNamespace(mesh=init_device_mesh("cpu", (ranks,), mesh_dim_names=("dp_shard_cp",)), pp_coord=(0, 1),
                           cp_enabled=False, tp_enabled=False, pp_enabled=False, dp_shard_enabled=True,
                           dp_replicate_enabled=False)  # fmt: skip
    train = SimpleNamespace(compile=True, param_dtype=dtype, fsdp_reduce_dtype="float32", fsdp_offload=False,
                            fsdp_reshard_after_forward="default",
                            train_policy=SimpleNamespace(type=kind))  # fmt: skip
    bare, torch.compile = torch.compile, partial(torch.compile, backend="aot_eager")
    try:
        parallelize.parallelize(model, dims, SimpleNamespace(train=train))
    finally:
        torch.compile = bare
    assert train.compile is True
    model.post_to_empty_hook(None)  # ties again what FSDP has parted
