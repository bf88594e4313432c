"""Qwen3-VL on cosmos-rl, as far as it runs on a CPU: what its trainer computes and its rollouts say is what we do.

A test called `test_the_engine_still…` that fails says: the engine has mended this itself, so take the part out of
`cookbook/engine`.
"""

import sys

import pytest
import torch
from rollouts import backend, handed_out, roll_out

from cookbook.data.encoder import Encoder
from cookbook.engine.bridge.attention import see_all
from cookbook.model.generation import generate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.fixture
def prompts3(questions, contract3):
    """Questions on one clip, on none, and on two, as the engine hands them out."""
    return handed_out(questions, contract3)


def test_the_engine_has_no_model_and_no_packer_of_its_own_for_it(engine):
    """So transformers' model is trained (policy/model/base.py:619), and HFVLMDataPacker packs (comm/base.py:159)."""
    from cosmos_rl.dispatcher.data.packer import BaseDataPacker
    from cosmos_rl.policy.model.base import ModelRegistry

    assert not ModelRegistry.check_model_type_supported("qwen3_vl")
    with pytest.raises(ValueError):
        BaseDataPacker.get_default_data_packer("qwen3_vl")


def batch_of(packer, prompts, answer="it stops"):
    """Returns what the trainer's forward gets, without positions and mask, as the engine calls it."""
    made = [packer.get_policy_input(prompt, answer) for prompt in prompts]
    length = packer.policy_compute_max_len(made)
    batch = packer.policy_collate_fn(made, length)
    return {name: value for name, value in batch.items() if name != "logprob_masks"}


def test_the_trainers_logits_are_those_of_the_stock_model(packer3, prompts3, policy, stock3):
    batch = batch_of(packer3, prompts3)
    got = policy(**batch).logits
    lengths = [len(packer3.get_policy_input(prompt, "it stops")["input_ids"]) for prompt in prompts3]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    want = stock3(input_ids=batch["input_ids"], attention_mask=mask.long(), pixel_values_videos=batch[
        "pixel_values_videos"], video_grid_thw=batch["video_grid_thw"]).logits  # fmt: skip
    assert torch.allclose(got[mask], want[mask], atol=1e-4), (got[mask] - want[mask]).abs().max()


def test_the_engine_still_needs_a_mask_from_us(packer3, prompts3, stock3):
    """Without one, and without flash-attn, the words behind a clip do not see it."""
    batch = batch_of(packer3, prompts3[:1])
    other = batch | {"pixel_values_videos": -batch["pixel_values_videos"]}
    assert torch.equal(stock3(**batch, use_cache=False).logits[:, -1], stock3(**other, use_cache=False).logits[:, -1])
    see_all(stock3.model.language_model)
    seen = [stock3(**one, use_cache=False).logits[:, -1] for one in (batch, other)]
    assert not torch.allclose(*seen, atol=1e-3)


def test_a_prompt_goes_through_once_for_its_completions(packer3, questions, contract3, policy):
    """Groups of three, two and one, one of them of another question on the same clip, and a row that asks nothing."""
    first, other, bare = questions[0], questions[1], questions[2]
    asked = handed_out([first, first, first, other, other, bare, first], contract3)
    words, rng = (9, 4, 1, 12, 5, 7, 3), torch.Generator().manual_seed(0)
    rows = [packer3.get_policy_input(prompt, torch.randint(20, 300, (n,), generator=rng).tolist(), 0)
            for prompt, n in zip(asked, words)]  # fmt: skip
    batch = packer3.policy_collate_fn(rows, packer3.policy_compute_max_len(rows))
    batch["logprob_masks"][-1] = False
    batch["interested_tokens"] = wanted = batch["logprob_masks"]
    policy.model.double()
    weights = torch.randn(int(wanted.sum()), policy.hf_config.text_config.vocab_size, generator=rng, dtype=torch.double)
    found, seen = {}, []
    policy.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    for name, forward in (("ours", type(policy).forward), ("theirs", type(policy).forward.bare)):
        policy.model.zero_grad()
        logits = forward(policy, **batch).logits
        logits = logits if logits.ndim == 2 else logits[wanted]
        (logits * weights).sum().backward()
        found[name] = logits.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    assert len(found["ours"][0]) == sum(words[:-1]) and seen[0] < 0.7 * seen[1]
    assert torch.allclose(found["ours"][0], found["theirs"][0], rtol=1e-6, atol=1e-6)
    assert found["ours"][1].keys() == found["theirs"][1].keys()
    for name, grad in found["theirs"][1].items():
        assert (found["ours"][1][name] - grad).norm() <= 1e-5 * grad.norm() + 1e-9, name


def test_greedy_completions_are_those_of_the_local_engine(packer3, prompts3, questions, contract3, stock3, qwen3):
    made = backend(**{"policy.model_name_or_path": str(qwen3), "rollout.sampling_config": {"temperature": 0.0}})
    made.model.load_state_dict(stock3.state_dict())  # it is loaded in bfloat16
    encoder = Encoder(packer3.hf_processor, contract3, stock3.config)
    want = generate(stock3, encoder.prompt_batch(questions), 12)
    said = [packer3.tokenizer.decode(t[m], skip_special_tokens=True) for t, m in zip(want.tokens, want.mask)]
    assert [r.completions for r in roll_out(made, packer3, prompts3)] == [[words] * 3 for words in said]


def test_several_completions_of_a_clip_are_drawn(packer3, prompts3, qwen3):
    made = backend(**{"policy.model_name_or_path": str(qwen3), "rollout.sampling_config": {"temperature": 1.0}})
    drawn = [r.completions for r in roll_out(made, packer3, prompts3)]
    assert all(len(group) == 3 for group in drawn) and len(set(drawn[0])) > 1


def test_the_weights_that_are_synced_have_the_names_that_the_policy_sends(policy, qwen3):
    from cosmos_rl.policy.model.hf_models.weight_mapper import HFModelWeightMapper

    made = backend(**{"policy.model_name_or_path": str(qwen3)})
    mapper = HFModelWeightMapper(made.model_config)
    sent = {mapper.policy_map_local_key_to_hf_key(name) for name, _ in policy.named_parameters()}
    assert sent <= set(made.model_param_map(mapper)) and any("deepstack" in name for name in sent)
