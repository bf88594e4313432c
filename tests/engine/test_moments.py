"""torchao's optimizer of 8 bits learns the same to the last bit, with one compiled function for each shape."""

import inspect
import shutil
import sys

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from cookbook.engine.bridge.moments import ShapeByShape

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only"),
    pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler"),
]


def learn(instead, monkeypatch) -> tuple[list, dict]:
    """Three steps of sharded weights of three shapes, of which one has no moments of 8 bits. Returns all that is left.

    Half-way another rate and no decay: what was compiled may not hold on to the old ones.
    """
    from torchao.optim import AdamW8bit, adam

    monkeypatch.setattr(adam, "torch", instead)
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(3)), torch.nn.Linear(64, 128))
    for part in (*model, model):
        fully_shard(part, mesh=init_device_mesh("cpu", (1,)))
    optimizer = AdamW8bit(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        for weight in model.parameters():
            weight.grad = torch.sin(weight.detach() * 100 + step)
        if step == 2:
            optimizer.param_groups[0]["lr"].fill_(5e-3)
            optimizer.param_groups[0]["weight_decay"] = 0.0
        optimizer.step()
    return [p.full_tensor() for p in model.parameters()], optimizer.state_dict()


def test_weights_and_moments_are_those_of_the_library(alone, monkeypatch):
    want, theirs = learn(torch, monkeypatch)
    got, ours = learn(made := ShapeByShape(), monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(want, got))
    assert {shape for kind in made.compiled for _, shape, *_ in kind if len(shape) == 2} == {(64, 64), (128, 64)}
    for number, state in theirs["state"].items():
        for name, value in state.items():
            mine = ours["state"][number][name]
            assert type(value) is type(mine)  # a checkpoint holds what it held
            assert torch.equal(plain(value), plain(mine))


def plain(value: torch.Tensor) -> torch.Tensor:
    """Returns the numbers of a moment, whatever it is kept as."""
    value = getattr(value, "to_local", lambda: value)()
    return getattr(value, "dequantize", lambda: value)()


def test_the_library_still_compiles_for_each_weight():
    from torchao.optim import adam

    assert "torch.compile(single_param_adam" in inspect.getsource(adam._AdamBase.step)
