"""PyTorch's attention: exact, with its gradients, and what the engine's models get where flash-attn is missing.

The engine is imported once (13 s). A test called `test_the_engine_still…` that fails says: the engine has mended this
itself, so take the part out of `cookbook/engine`.
"""

import inspect
import sys
from itertools import pairwise

import pytest
import torch
from rollouts import BASE
from torch.nn import functional as F
from transformers import AutoConfig

from cookbook.config import Config
from cookbook.engine.bridge import attention
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


def exact(q, k, v, causal):
    """Attention in float64, head by head: (length, heads, width)."""
    copies = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(copies, 1), v.double().repeat_interleave(copies, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores[0], dtype=torch.bool).tril(), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def compare(ours, reference, inputs):
    """Returns the largest relative error of an output and of the gradients of its inputs."""
    weights = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)).to(reference)
    got = torch.autograd.grad((ours * weights).sum(), inputs)
    want = torch.autograd.grad((reference * weights).sum(), inputs)
    pairs = [(ours, reference), *zip(got, want)]
    return max(((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs)


def attention_errors(device, dtype):
    """Returns {case: error} of dense and packed attention, causal or not, with as many key heads or fewer."""
    rng, edges, errors = torch.Generator().manual_seed(0), [0, 7, 71, 72, 130], {}
    cu = torch.tensor(edges, device=device)
    for heads, keys, width in ((4, 4, 80), (6, 2, 32), (4, 1, 128)):
        shapes = ((130, heads, width), (130, keys, width), (130, keys, width))
        inputs = [torch.randn(s, generator=rng).to(device, dtype).requires_grad_() for s in shapes]
        q, k, v = inputs
        for causal in (True, False):
            name = f"{heads}/{keys} heads of {width}, {'causal' if causal else 'full'}"
            whole = attention.attend(q[None], k[None], v[None], causal)[0]
            errors[name] = compare(whole, exact(q, k, v, causal), inputs)
            packed = attention.attend_packed(q, k, v, cu, cu, 64, 64, causal=causal)
            parts = [exact(q[a:b], k[a:b], v[a:b], causal) for a, b in pairwise(edges)]
            errors[f"{name}, packed"] = compare(packed, torch.cat(parts), inputs)
    return errors


def test_attention_and_its_gradients_are_exact():
    errors = attention_errors("cpu", torch.float32)
    assert len(errors) == 12 and max(errors.values()) < 1e-5, errors


def test_a_scale_of_ones_own_is_used_and_the_last_query_sees_the_last_key():
    q, k, v = torch.randn(3, 1, 9, 2, 16).unbind()
    doubled = attention.attend(2 * q, k, v, softmax_scale=0.125)
    assert torch.allclose(attention.attend(q, k, v), doubled, atol=1e-6)
    few = attention.attend(q[:, 6:], k, v, causal=True)
    assert torch.allclose(few, attention.attend(q, k, v, causal=True)[:, 6:], atol=1e-6)


@pytest.mark.gpu
def test_attention_on_the_gpu_in_bfloat16():
    errors = attention_errors("cuda", torch.bfloat16)
    assert len(errors) == 12 and max(errors.values()) < 1e-2, errors


def test_rotation_is_that_of_transformers():
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    x, angles = torch.randn(1, 11, 3, 80), torch.randn(11, 40)
    both = torch.cat([angles, angles], -1)
    want, _ = apply_rotary_pos_emb_vision(x[0], x[0], both.cos(), both.sin())
    assert torch.allclose(attention.rotate(x, angles.cos(), angles.sin())[0], want, atol=1e-6)


def test_the_native_model_gives_the_logits_of_transformers(native, stock, packer, world, contract):
    data = EngineDataset(road_vqa.read(world, "train", contract)[:2], Config.load(ROOT / "configs/tiny_sft.toml"))
    rows = [packer.sft_process_sample(data[i]) for i in range(2)]
    batch = packer.sft_collate_fn(rows, packer.sft_compute_max_len(rows), -100)
    labels = batch.pop("label_ids")
    with torch.no_grad():
        places, _, _ = native.get_position_ids(**batch)
        ours = native(**{**batch, "position_ids": places}).logits.float()
        names = ("input_ids", "position_ids", "pixel_values_videos", "video_grid_thw")
        want = stock(**{key: batch[key] for key in names}).logits
    assert ((ours - want).norm() / want.norm()).item() < 0.01  # the native model attends in bfloat16
    one, other = (F.cross_entropy(x[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item() for x in (ours, want))
    assert one == pytest.approx(other, abs=0.01)


def test_the_engine_still_has_no_attention_of_its_own(engine, monkeypatch):
    from cosmos_rl.policy.kernel import modeling_utils
    from cosmos_rl.policy.model.hf_models import patch

    if modeling_utils.check_if_fa_installed():
        pytest.skip("flash-attn is installed")
    assert engine["attention"] == "torch"
    monkeypatch.setattr(modeling_utils, "decide_fa_version", lambda: 2)
    stock = type.__call__(modeling_utils.FlashAttnMeta)  # past the singleton
    for function in (stock.flash_attn_func, stock.flash_attn_varlen_func, stock.apply_rotary_emb):
        with pytest.raises(NotImplementedError, match="FlashAttention is not installed"):
            function(*[torch.zeros(1)] * 7)
    settings = AutoConfig.from_pretrained(BASE, trust_remote_code=False)
    patch.pre_hf_models_patch(settings)
    assert settings._attn_implementation == "flash_attention_2"


def test_transformers_models_get_an_attention_that_is_there(engine):
    from cosmos_rl.policy.model import hf_models
    from cosmos_rl.policy.model.hf_models import HFModel

    settings = AutoConfig.from_pretrained(BASE, trust_remote_code=False)
    hf_models.pre_hf_models_patch(settings)
    assert settings._attn_implementation == "sdpa"
    model = HFModel.from_pretrained(AutoConfig.from_pretrained(BASE, trust_remote_code=False), str(BASE)).model
    assert {m.config._attn_implementation for m in (model, model.model.language_model, model.model.visual)} == {"sdpa"}


def test_flash_attention_stays_where_it_is_installed(engine, monkeypatch):
    from cosmos_rl.policy.kernel import modeling_utils

    monkeypatch.setattr(modeling_utils, "check_if_fa_installed", lambda: True)
    monkeypatch.setattr(modeling_utils.FlashAttnMetaSingleton, "_instances", {})
    assert attention.install_attention() == "flash-attn" and not modeling_utils.FlashAttnMetaSingleton._instances


def test_the_tower_attends_as_the_engines_own_does(engine):
    from cosmos_rl.policy.model.vision_encoder.qwen2_5_vl import Qwen2_5_VLVisionAttention

    torch.manual_seed(0)
    block, edges = Qwen2_5_VLVisionAttention(64, 4), torch.tensor([0, 5, 12], dtype=torch.int32)
    hidden, angles = torch.randn(12, 64, requires_grad=True), torch.randn(12, 8).repeat(1, 2)
    asked, found = (edges, (angles.cos(), angles.sin()), 7), []
    for forward in (attention.see.bare, attention.see):
        out = forward(block, hidden, *asked)
        found.append([out, *torch.autograd.grad(out.sin().sum(), [hidden, *block.parameters()])])
    assert all(torch.equal(one, two) for one, two in zip(*found))
    assert block(hidden, *asked).equal(found[0][0])


def test_the_engine_still_reorders_queries_keys_and_values(engine):
    assert "permute(1, 0, 2, 3)" in inspect.getsource(attention.see.bare)
