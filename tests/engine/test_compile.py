"""`train.compile` changes the speed alone: compiled blocks give the loss and the gradients of plain ones.

In float64, so that what is left is the order of sums; attention stays outside of the compiled code, because its CPU
path reads the edges of the sequences (on CUDA one kernel takes them, and a block is one graph).
"""

import shutil
import sys
from functools import partial

import pytest
import torch
from learning import adapt, collate, learn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import CheckpointError

from cookbook.engine.bridge.attention import attend, attend_packed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")


@pytest.fixture
def apart(native):
    """The engine's model, its attention outside of what is compiled."""
    for block in native.visual.blocks.values():
        block.attn.attn_func = torch._dynamo.disable(attend_packed)
    for block in native.model.layers.values():
        block.self_attn.attn_func = torch._dynamo.disable(attend)
        block.self_attn.attn_func_varlen = torch._dynamo.disable(attend_packed)
    return native


@pytest.fixture
def exact(apart):
    """The same in float64; angles and norms compute in float32 as ever."""
    for weight in apart.parameters():
        weight.data = weight.data.double()
    return apart


@pytest.fixture
def compiled(monkeypatch):
    """Compile a model as the engine does, with another backend."""
    from cosmos_rl.policy.model.qwen2_5_vl import parallelize

    bare = torch.compile

    def with_backend(model, backend, unmended=False):
        monkeypatch.setattr(torch, "compile", partial(bare, backend=backend))
        (parallelize.apply_compile.bare if unmended else parallelize.apply_compile)(model, fullgraph=False)
        monkeypatch.setattr(torch, "compile", bare)

    torch._dynamo.reset()
    yield with_backend
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("lora", "recompute", "backend"),
    [
        (True, True, "aot_eager"),
        pytest.param(True, False, "aot_eager", marks=pytest.mark.slow),
        pytest.param(False, True, "aot_eager", marks=pytest.mark.slow),
        pytest.param(False, False, "aot_eager", marks=pytest.mark.slow),
        pytest.param(True, False, "inductor", marks=[pytest.mark.slow, needs_compiler]),
    ],
)
def test_compiled_blocks_teach_what_plain_ones_teach(exact, packer, rows, compiled, lora, recompute, backend, request):
    """The slow ones with fewer samples too, which compiles again, for other shapes."""
    if lora:
        adapt(exact)
    exact.set_gradient_checkpointing_enabled(recompute)
    parts = [rows, rows[:2]] if request.node.get_closest_marker("slow") else [rows]
    parts = [collate(packer, part) for part in parts]
    for part in parts:
        part["pixel_values_videos"] = part["pixel_values_videos"].double()
    plain = [learn(exact, packer, part) for part in parts]
    compiled(exact, backend)
    for part, (want, grads) in zip(parts, plain):
        got, ours = learn(exact, packer, part)
        assert got == pytest.approx(want, rel=1e-6)
        assert {name.replace("_orig_mod.", "") for name in ours} == grads.keys()
        for name, grad in ours.items():
            want = grads[name.replace("_orig_mod.", "")]
            assert (grad - want).norm() <= 1e-5 * want.norm() + 1e-12, name


@pytest.mark.slow
@pytest.mark.parametrize("unmended", [False, True])
def test_a_compiled_tower_is_recomputed_under_fsdp(apart, packer, batch, compiled, unmended):
    """FSDP casts what a block gets on the way there only; the engine's own compiled tower cannot go back."""
    apart.set_gradient_checkpointing_enabled(True)
    compiled(apart, "aot_eager", unmended)
    how = {"mesh": init_device_mesh("cpu", (1,)), "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)}
    for part in (*apart.visual.blocks.values(), apart.visual, *apart.model.layers.values(), apart):
        fully_shard(part, **how)
    if unmended:
        with pytest.raises(CheckpointError):
            learn(apart, packer, batch)
    else:
        _, grads = learn(apart, packer, batch)
        assert all(grad.to_local().norm() > 0 for name, grad in grads.items() if name.endswith("qkv.weight"))
