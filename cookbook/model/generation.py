"""Generate completions, and score them: the two places where the model meets a prompt.

Why: RL asks for many completions of one prompt. The prompt, and the clip in it, go through the model once; its
key-value cache is then copied for each completion. Scoring does the same with gradients, so that a training step
costs the completions, not the prompts. Evaluation asks many prompts that begin with the same words: those go through
once for all. All of it equals the plain forward: `tests/model/test_generation.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cookbook.model.decoding import Place, go_on, stepper


@dataclass
class Completions:
    """Sampled tokens (n, length), their mask (1 up to and with the end token), and whether each one ended itself."""

    tokens: Tensor
    mask: Tensor
    ended: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens per completion, the end token included."""
        return self.mask.sum(1)

    def texts(self, tokenizer) -> list[str]:
        """Returns the words of each completion, without special tokens."""
        kept = [tokens[mask] for tokens, mask in zip(self.tokens, self.mask)]
        return tokenizer.batch_decode(kept, skip_special_tokens=True)


def prefill(model, prompts: dict[str, Tensor], copies: int, begun=None):
    """Run left-padded prompts once. Returns their last hidden state (n·copies, 1, width), cache and place, repeated.

    `begun` is the cache of what the attention mask has in front of them (see `begin_together`).
    """
    out = model.model(**prompts, past_key_values=begun, use_cache=True)
    cache = out.past_key_values
    cache.batch_repeat_interleave(copies)
    after = out.last_hidden_state[:, -1:], prompts["position_ids"].amax((0, 2)) + 1, prompts["attention_mask"]
    hidden, *place = (tensor.repeat_interleave(copies, dim=0) for tensor in after)
    return hidden, cache, Place(*place)


def begin_together(model, prompts: dict[str, Tensor]):
    """Run the words that all prompts begin with once, for all of them. Returns the rest of the prompts, and the cache.

    These are the system prompt's, up to the first clip: where clips and questions are short, half of a batch. Padding
    then stands behind them. Where nothing is shared, the prompts come back as they are, and None.
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    lengths = mask.sum(1)
    most = int(lengths.min()) - 1  # each keeps at least one token of its own
    columns = ids.shape[1] - lengths[:, None] + torch.arange(most, device=ids.device)
    words = ids.gather(1, columns)
    clips = torch.tensor([model.config.video_token_id, model.config.image_token_id], device=ids.device)
    same = (words == words[0]).all(0) & ~torch.isin(words[0], clips)
    shared = int(same.cumprod(0).sum())
    if len(ids) == 1 or not shared:
        return prompts, None
    cache = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(words[:1, :shared]),
        position_ids=torch.arange(shared, device=ids.device).expand(3, 1, -1),
        use_cache=True,
    ).past_key_values
    cache.batch_repeat_interleave(len(ids))
    own = torch.ones_like(mask, dtype=torch.bool).scatter(1, columns[:, :shared], False)
    rest = {
        "input_ids": ids[own].view(len(ids), -1),
        "position_ids": prompts["position_ids"][:, own].view(3, len(ids), -1),
        "attention_mask": torch.cat([mask.new_ones(len(ids), shared), mask[own].view(len(ids), -1)], dim=1),
    }
    return prompts | rest, cache


def to(model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the batch on the model's device."""
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def is_finite(model) -> bool:
    """Returns whether every weight is a number: what is not must not be exported."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())


@torch.no_grad()
def generate(
    model,
    prompts: dict[str, Tensor],
    max_new_tokens: int,
    temperature: float = 0.0,
    copies: int = 1,
    generator: torch.Generator | None = None,
    warp: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Completions:
    """Continue left-padded prompts, `copies` times each. Greedy at temperature 0, else sampled with `generator`.

    `warp` changes the scores (rows, vocabulary) by the words so far (rows, length): transformers' LogitsProcessorList.
    Returns Completions with n·copies rows; rows of one prompt stand together.
    """
    asked = _words(prompts).repeat_interleave(copies, dim=0)
    ends = torch.tensor(model.generation_config.eos_token_id, device=model.device)
    prompts, begun = begin_together(model, prompts)
    hidden, cache, place = prefill(model, prompts, copies, begun)
    scores, ahead = model.lm_head(hidden[:, -1]), stepper(model, cache, place)
    tokens = torch.full((len(hidden), max_new_tokens), model.generation_config.pad_token_id, device=model.device)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    running = torch.arange(len(hidden), device=model.device)  # rows that are still computed
    goes_on = torch.ones_like(running, dtype=torch.bool)  # those among them that have not ended
    for step in range(max_new_tokens):
        scores = scores.float() / temperature if temperature > 0 else scores.float()
        if warp:
            scores = warp(torch.cat([asked[running], tokens[running, :step]], dim=1), scores)
        if temperature > 0:
            token = torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=generator)[:, 0]
        else:
            token = scores.argmax(-1)
        tokens[running[goes_on], step], mask[running[goes_on], step] = token[goes_on], True
        goes_on = goes_on & ~torch.isin(token, ends)
        if not goes_on.any():
            break
        if ahead.may_drop and not goes_on.all():  # so that the slow rows are not held up by what has ended
            left = goes_on.nonzero()[:, 0]
            running, token, goes_on = running[left], token[left], goes_on[left]
            ahead.keep(left)
        scores = ahead(token) if step + 1 < max_new_tokens else scores
    longest = int(mask.sum(1).max())
    ended = torch.ones(len(tokens), dtype=torch.bool, device=model.device)
    ended[running[goes_on]] = False
    return Completions(tokens[:, :longest], mask[:, :longest], ended)


def _words(prompts: dict[str, Tensor]) -> Tensor:
    """Returns the prompts' tokens, their last one where there is padding: a penalty for repeating must not see that."""
    ids = prompts["input_ids"]
    return torch.where(prompts["attention_mask"].bool(), ids, ids[:, -1:])


def token_logits(model, prompts: dict[str, Tensor], tokens: Tensor, copies: int) -> Tensor:
    """Returns the logits (n·copies, length, vocabulary) that the model gives each completion token's place."""
    hidden, cache, place = prefill(model, prompts, copies)
    if tokens.shape[1] > 1:
        hidden = torch.cat([hidden, go_on(model, tokens[:, :-1], cache, place, 0)], dim=1)
    return model.lm_head(hidden).float()
