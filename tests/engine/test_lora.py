"""LoRA on the engine costs adapters: its frozen weights are small, and its reference is the policy without adapters."""

import copy
import inspect
import sys
from types import SimpleNamespace

import pytest
import torch
from learning import learn
from rollouts import config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from cookbook.config import Config
from cookbook.training.optimizer import LORA, set_learning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
STATED = {"train.compile": False}  # or the engine refuses GRPO with LoRA
ADAPTERS = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture
def adapted(native):
    """The engine's model with adapters that have learned something."""
    from cosmos_rl.policy.config import LoraConfig
    from cosmos_rl.policy.lora.plugin import inject_lora_adapters, mark_only_lora_as_trainable

    torch.manual_seed(0)
    mark_only_lora_as_trainable(inject_lora_adapters(native, LoraConfig(**ADAPTERS))[0], LoraConfig(**ADAPTERS))
    for name, weight in native.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return native


def trainer(model, **changes):
    """What the reference's methods ask of a GRPOTrainer."""
    stated = STATED | {"policy.lora": ADAPTERS, "train.train_policy.kl_beta": 0.1} | changes
    return SimpleNamespace(model=model, config=config(**stated), parallel_dims=SimpleNamespace(pp_enabled=False))


def test_the_reference_is_the_policy_without_adapters(adapted, packer, batch):
    from cosmos_rl.policy.trainer.llm_trainer.grpo_trainer import GRPOTrainer

    made = trainer(adapted)
    assert GRPOTrainer._reference_model_state(made) == {}
    with_adapters = learn(adapted, packer, batch)[0]
    assert GRPOTrainer._swap_model_state_dict(made) == (True, 0.1)
    without = learn(adapted, packer, batch, backward=False)[0]
    assert GRPOTrainer._swap_model_state_dict(made) == (True, 0.1)
    assert learn(adapted, packer, batch)[0] == with_adapters
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    assert learn(adapted, packer, batch)[0] == without != with_adapters


@pytest.mark.parametrize(
    "changes",
    [
        {"policy.lora": None},
        {"policy.lora": ADAPTERS | {"modules_to_save": ["lm_head"]}},
        {"train.train_policy.reference_reset_interval": 5},
    ],
)
def test_where_more_than_adapters_differs_the_engine_keeps_a_copy(adapted, changes):
    from cosmos_rl.policy.trainer.llm_trainer.grpo_trainer import GRPOTrainer

    assert GRPOTrainer._reference_model_state(trainer(adapted, **changes)).keys() == adapted.state_dict().keys()


def test_the_engine_still_swaps_the_whole_model(engine):
    from cosmos_rl.policy.trainer.llm_trainer.grpo_trainer import GRPOTrainer

    assert "lora" not in inspect.getsource(GRPOTrainer._swap_model_state_dict.bare)


@pytest.mark.parametrize(("mode", "small"), [("colocated", True), ("disaggregated", False)])
def test_frozen_weights_have_the_type_that_they_are_computed_with(engine, mode, small):
    """The engine makes all of them in its master type, and adds adapters to them for rollouts elsewhere."""
    from cosmos_rl.policy.model.base import ModelRegistry

    stated = config(**STATED | {"mode": mode, "policy.lora": ADAPTERS, "train.master_dtype": "float32"})
    model = ModelRegistry.build_model(stated)
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16 if small else torch.float32)}
    still = {weight.dtype for weight in ModelRegistry.build_hf_model.bare(stated).parameters()}
    assert still == {torch.float32}


def test_small_frozen_weights_change_no_gradient(adapted, packer, batch):
    """Under FSDP, which casts to 16 bits for each use: to the last bit, because published weights have no more."""
    small, found = copy.deepcopy(adapted), []
    for weight in small.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(torch.bfloat16)
    how = {"mesh": init_device_mesh("cpu", (1,)), "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)}
    for model in (adapted, small):
        for part in (*model.visual.blocks.values(), *model.model.layers.values(), model):
            fully_shard(part, **how)
        found.append(learn(model, packer, batch))
    (want, grads), (got, ours) = found
    assert got == want and grads.keys() == ours.keys()
    assert all(torch.equal(grads[name].to_local(), ours[name].to_local()) for name in grads)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy.freeze_pattern": ["^visual", "layers[.]0[.]"]},
        {"policy.trainable_pattern": ["mlp", "^model.embed_tokens"]},
        {"policy.trainable_map": {"visual": False, "visual.merger": True}},
        {LORA: ADAPTERS, "policy.trainable_map": {"visual": False}},
    ],
)
def test_on_the_local_engine_learns_what_learns_here(native, stock, changes):
    from cosmos_rl.policy.config import LoraConfig
    from cosmos_rl.policy.lora.plugin import inject_lora_adapters, mark_only_lora_as_trainable

    stated = Config.load("configs/tiny_sft.toml").edit(changes)
    if LORA in changes:
        inject_lora_adapters(native, told := LoraConfig(**ADAPTERS))
        mark_only_lora_as_trainable(native, told)
    for key in ("trainable_pattern", "trainable_map", "freeze_pattern"):
        if said := changes.get(f"policy.{key}"):
            getattr(native, f"apply_{key.replace('_map', '')}")(said)
    wanted = sum(p.numel() for p in native.parameters() if p.requires_grad)
    learned = sum(p.numel() for p in set_learning(stock, stated).parameters() if p.requires_grad)
    assert 0 < learned == wanted < sum(p.numel() for p in stock.parameters())
