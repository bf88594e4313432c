"""Generation and scoring equal what the stock model computes on whole sequences, one at a time."""

import pytest
import torch

from cookbook.evaluation.controls import blind
from cookbook.model import decoding, generation
from cookbook.model.generation import begin_together, generate, to, token_logits
from cookbook.model.vision_tower import batch_vision


def whole_sequence_logits(model, encoder, sample, tokens):
    """Returns the stock model's logits for the places of `tokens` after the sample's prompt, in one plain forward."""
    prompt = encoder.prompt_batch([sample])
    ids = torch.cat([prompt["input_ids"], tokens[None]], dim=1)
    start = prompt["position_ids"].max() + 1
    after = (start + torch.arange(len(tokens))).expand(3, 1, -1)
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.cat([prompt["position_ids"], after], dim=2),
        pixel_values_videos=prompt["pixel_values_videos"],
        video_grid_thw=prompt["video_grid_thw"],
    ).logits
    return logits[0, -len(tokens) - 1 : -1]


def different_lengths(samples):
    """Three samples whose prompts differ in length, so that padding matters."""
    return [samples[0], max(samples, key=lambda s: len(s.question)), samples[3]]


def test_scoring_with_a_shared_prompt_equals_whole_sequences(stock, encoder, samples):
    picked, copies = different_lengths(samples), 2
    tokens = torch.randint(20, 300, (len(picked) * copies, 7), generator=torch.Generator().manual_seed(0))
    got = token_logits(batch_vision(stock), encoder.prompt_batch(picked), tokens, copies)
    for i, row in enumerate(tokens):
        want = whole_sequence_logits(stock, encoder, picked[i // copies], row)
        assert torch.allclose(got[i], want, atol=2e-4), (got[i] - want).abs().max()


def test_gradients_flow_through_the_shared_prompt(stock, encoder, samples):
    picked = different_lengths(samples)
    tokens = torch.randint(20, 300, (len(picked) * 2, 5), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(len(tokens), 5, generator=torch.Generator().manual_seed(1))

    def gradients(logits_of):
        stock.zero_grad()
        logp = logits_of().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        (logp * weights).sum().backward()
        return {name: p.grad.clone() for name, p in stock.named_parameters() if p.grad is not None}

    plain = gradients(
        lambda: torch.stack([whole_sequence_logits(stock, encoder, picked[i // 2], t) for i, t in enumerate(tokens)])
    )
    batch_vision(stock)
    shared = gradients(lambda: token_logits(stock, encoder.prompt_batch(picked), tokens, 2))
    assert shared.keys() == plain.keys()
    assert any("visual" in name for name in shared)
    for name, want in plain.items():
        assert (shared[name] - want).norm() <= 1e-3 * want.norm() + 1e-5, name


def test_greedy_generation_equals_the_stock_generate(stock, encoder, samples):
    picked = samples[:6]
    ours = generate(batch_vision(stock), encoder.prompt_batch(picked), 24)
    for i, sample in enumerate(picked):
        prompt = encoder.prompt_batch([sample])
        prompt.pop("position_ids")
        seconds = torch.tensor([encoder.media("video", sample.video).seconds_per_step])
        theirs = stock.generate(**prompt, second_per_grid_ts=seconds, max_new_tokens=24, do_sample=False)
        new = theirs[0, prompt["input_ids"].shape[1] :]
        assert ours.tokens[i][ours.mask[i]].tolist() == new.tolist()


def greedy_one_by_one(model, encoder, samples, limit=12):
    """Returns each sample's completion as a list of tokens, asked alone, where no words are shared."""
    alone = [generate(model, encoder.prompt_batch([sample]), limit) for sample in samples]
    return [out.tokens[0][out.mask[0]].tolist() for out in alone]


def test_words_that_all_prompts_begin_with_go_through_once(stock, encoder, samples):
    picked = different_lengths(samples)
    prompts, cache = begin_together(batch_vision(stock), encoder.prompt_batch(picked))
    rows = [encoder.tokens(sample, generate=True).ids for sample in picked]
    shared = cache.get_seq_length()
    assert rows[0][shared] == stock.config.video_token_id  # up to the first clip, whatever its size
    assert all(row[:shared] == rows[0][:shared] for row in rows)
    assert prompts["input_ids"].shape[1] == max(map(len, rows)) - shared
    assert prompts["attention_mask"].sum(1).tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("change", ["none", "no clips", "all the same"])
def test_what_is_shared_changes_no_answer(stock, encoder, samples, change):
    picked = different_lengths(samples)
    picked = {"none": picked, "no clips": blind(picked), "all the same": blind(picked[:1] * 3)}[change]
    model = batch_vision(stock)
    out = generate(model, encoder.prompt_batch(picked), 12)
    assert [row[m].tolist() for row, m in zip(out.tokens, out.mask)] == greedy_one_by_one(model, encoder, picked)


def test_prompts_that_begin_differently_share_nothing(stock, encoder, samples):
    prompts = encoder.prompt_batch(blind(samples[:2]))
    prompts["input_ids"][1, prompts["attention_mask"][1].argmax()] += 1
    rest, cache = begin_together(stock, prompts)
    assert cache is None and rest is prompts


def test_sampling_repeats_with_a_seed_and_keeps_groups_together(stock, encoder, samples):
    model, prompts = batch_vision(stock), encoder.prompt_batch(samples[:2])

    def draw(seed):
        return generate(model, prompts, 16, temperature=1.0, copies=4, generator=torch.Generator().manual_seed(seed))

    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens[:, :5], other.tokens[:, :5])
    assert len(first.tokens) == 8


def test_a_completion_that_is_cut_says_so(stock, encoder, samples):
    cut = generate(batch_vision(stock), encoder.prompt_batch(samples[:2]), 3)
    assert not cut.ended.any()
    assert cut.lengths.tolist() == [3, 3]


@pytest.mark.parametrize("size", [1, 3])
def test_neighbours_do_not_change_an_answer(stock, encoder, samples, size):
    model, picked = batch_vision(stock), samples[:6]
    together = generate(model, encoder.prompt_batch(picked), 24)
    for start in range(0, 6, size):
        apart = generate(model, encoder.prompt_batch(picked[start : start + size]), 24)
        for i in range(size):
            want = together.tokens[start + i][together.mask[start + i]]
            assert apart.tokens[i][apart.mask[i]].tolist() == want.tolist()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("block", [1, 3, 256])
def test_recorded_steps_give_the_same_answers(stock, encoder, samples, monkeypatch, device, block):
    """A cache that grows by blocks, which rows that have ended leave between two; on a GPU played back as graphs."""
    model, prompts = batch_vision(stock), encoder.prompt_batch(different_lengths(samples))
    plain = generate(model, prompts, 24, copies=2)
    assert len(set(plain.lengths.tolist())) > 1 and plain.lengths.max() > 2 * 3  # two blocks and more
    made = []
    monkeypatch.setattr(decoding, "BLOCK", block)
    monkeypatch.setattr(generation, "stepper", lambda *a: made.append(decoding.Replayed(*a)) or made[0])
    model = model.to(device)
    again = generate(model, to(model, prompts), 24, copies=2)
    stock.to("cpu")
    assert torch.equal(again.tokens.cpu(), plain.tokens) and torch.equal(again.ended.cpu(), plain.ended)
    assert (len(made[0].tokens) < len(plain.tokens)) == (block == 1)  # the others end within a block
