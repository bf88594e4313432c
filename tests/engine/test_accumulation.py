"""A step whose mini-batches share their weights teaches what one does that gathers them for each."""

import inspect
import sys
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """One process as a group of its own, on the CPU."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path_factory.mktemp('mesh')}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def train(mesh, reshard: str, world_size: int, inner: bool, wrap) -> tuple[list, list]:
    """Three steps of four mini-batches with a frozen first layer. Returns weights, and bfloat16 copies made a step."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    model[0].requires_grad_(False)
    numbers = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in [*model, model]:
        fully_shard(layer, mesh=mesh, mp_policy=numbers, reshard_after_forward=reshard != "never")
    if inner:  # as transformers' models, which stand in one of the engine's that FSDP does not know
        model = torch.nn.Sequential(model)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer, clips = torch.optim.AdamW(learned, lr=0.1, fused=False), torch.randn(8, 8)
    gathered, bare = [], FSDPParamGroup.unshard

    def unshard(group, *args, **kwargs):
        gathered.append(not group.is_unsharded)
        return bare(group, *args, **kwargs)

    def step(self, batch) -> None:
        optimizer.zero_grad()
        for i in range(0, len(batch), 2):
            self.model(batch[i : i + 2]).float().square().mean().backward()
        optimizer.step()

    config = SimpleNamespace(fsdp_reshard_after_forward=reshard, train_policy=SimpleNamespace(mini_batch=2))
    dims = SimpleNamespace(pp_enabled=False, world_size=world_size)
    packer = SimpleNamespace(batch_size=len)
    trainer = SimpleNamespace(config=SimpleNamespace(train=config), parallel_dims=dims, model=model,
                              data_packer=packer, enable_dp_load_balancing=False)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FSDPParamGroup, "unshard", unshard)
        for _ in range(3):
            wrap(step)(trainer, clips)
    return [p.full_tensor() for p in model.parameters()], sum(gathered) / 3


@pytest.mark.parametrize("reshard", ["never", "default"])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("inner", [False, True])
def test_weights_after_some_steps_are_those_of_the_engines_own_loop(mesh, reshard, world_size, inner):
    import torch

    from cookbook.engine.bridge.accumulation import _once_a_step

    want, often = train(mesh, reshard, world_size, inner, lambda step: step)
    got, once = train(mesh, reshard, world_size, inner, _once_a_step)
    assert all(torch.equal(a, b) for a, b in zip(want, got))
    assert not torch.equal(want[2], want[4])  # they have learned
    assert once < often / 3 if reshard == "never" else once == often


def test_the_engine_still_reduces_after_each_mini_batch():
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer

    source = inspect.getsource(sft_trainer)
    assert "set_requires_gradient_sync" not in source and "set_reshard_after_backward" not in source
