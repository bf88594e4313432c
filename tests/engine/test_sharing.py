"""A prompt that goes through once teaches what it taught in front of each completion."""

import inspect
import sys

import pytest
import torch

from cookbook.config import Config
from cookbook.engine.bridge import sharing
from cookbook.engine.bridge.attention import attend_packed
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


LENGTHS = 9, 4, 1, 12, 5, 7  # of completions


@pytest.fixture
def group(native, packer, world, contract):
    """Packed as GRPO's trainer does it: three completions of a prompt, two of the same words on another clip, one of
    another question on that one.
    """
    from cosmos_rl.utils import sequence_packing as packing

    found = road_vqa.read(world, "train", contract)
    data = EngineDataset([found[0], found[4], found[5]], Config.load(ROOT / "configs/tiny_sft.toml"))
    asked = [data[i][:-1] for i in (0, 0, 0, 1, 1, 2)]
    assert asked[0][-1]["content"][1] == asked[3][-1]["content"][1] != asked[5][-1]["content"][1]
    rng = torch.Generator().manual_seed(0)
    rows = []
    for prompt, length in zip(asked, LENGTHS):
        words = torch.randint(20, 300, (length,), generator=rng).tolist()
        rows.append(packer.get_policy_input(prompt, words, 0))
    batch = packer.policy_collate_fn(rows, packer.policy_compute_max_len(rows))
    batch["position_ids"] = native.get_position_ids(**batch)[0]
    batch["interested_tokens"] = batch["logprob_masks"]
    ids, masks = batch["input_ids"], batch["logprob_masks"]
    return batch | packing.pack_sequences_info_collect(ids, packer.tokenizer.pad_token_id, logprob_masks=masks)


def run(model, batch, weights):
    """Returns (logits, gradients by name, tokens that the layers were given)."""
    seen = []
    hook = model.model.layers["0"].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    model.zero_grad()
    logits = model(**batch).logits
    hook.remove()
    (logits * weights[: len(logits)]).sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), grads, seen[0]


def test_logits_and_gradients_are_those_of_prompts_apart(native, group, monkeypatch):
    native.model.double()  # its attention takes float32 for 16 bits
    native.model.rotary_emb.float()
    places = int(group["interested_tokens"].sum())
    weights = torch.randn(places, native.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got, ours, fewer = run(native, group, weights)
    monkeypatch.setattr(type(native), "forward", inspect.unwrap(type(native).forward))
    want, theirs, all_of_them = run(native, group, weights)
    assert len(got) == places == sum(LENGTHS)
    begins = group["interested_tokens"].int().argmax(1).tolist()
    assert all_of_them == group["valid_input_len"].sum()  # the engine still repeats the prompt
    assert all_of_them - fewer == 2 * begins[0] + begins[4]
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-9), (got - want).abs().max()
    assert ours.keys() == theirs.keys() and any(name.startswith("visual.") for name in ours)
    for name, grad in theirs.items():
        within = 0.02 if name.startswith("visual.") else 1e-6
        assert (ours[name] - grad).norm() <= within * grad.norm() + 1e-12, name


def test_a_row_that_asks_for_nothing_stands_alone():
    parts, places = sharing._parts([0, 0, 2], [3, 3, 0], [5, 4, 2])
    assert parts == [(0, 3, 0, 0), (3, 5, 0, 3), (5, 6, 0, 3), (6, 8, 6, 6)]
    assert places == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (2, 0), (2, 1)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_attention_of_shared_prompts_is_that_of_whole_rows(device):
    rng = torch.Generator().manual_seed(0)
    heads, keys, width, prompt, own = 6, 2, 64, 37, (5, 1, 20)
    parts, _ = sharing._parts([0, 0, 0], [prompt] * 3, [prompt + n for n in own])
    shared, dtype = sharing._shared_keys(parts, device), torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(prompt + sum(own), n, width, generator=rng).to(device, dtype).requires_grad_()
               for n in (heads, keys, keys))  # fmt: skip
    packed = sharing.attends_shared(attend_packed)(q, k, v, shared, shared, None, None, causal=True)
    begins, whole = prompt, []
    for n in own:
        row = [*range(prompt), *range(begins, begins + n)]
        edges = torch.tensor([0, len(row)], device=device)
        out = attend_packed(q[row], k[row], v[row], edges, edges, len(row), len(row), causal=True)
        whole.append(out[prompt:] if whole else out)
        begins += n
    whole, weights = torch.cat(whole), torch.randn(packed.shape, generator=rng).to(device, dtype)
    within = 1e-5 if device == "cpu" else 1e-2
    assert ((packed - whole).norm() / whole.norm()).item() < within
    got, want = (torch.autograd.grad((out * weights).sum(), (q, k, v)) for out in (packed, whole))
    for one, other in zip(got, want):
        assert ((one - other).norm() / other.norm()).item() < within
