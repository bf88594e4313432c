"""One new token a row, again and again: what `cookbook.model.generation` spends its time with.

Why: on a GPU a step of a 7B model asks for so many small kernels that Python is what takes the time. So there a step is
recorded once, as a CUDA graph, and played back (38.3 s became 3.4, LOG.md of 2026-11-30); that wants a cache that does
not move, so it grows by blocks, and rows that have ended leave between two blocks. On a CPU the cache grows with each
token, and rows leave at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "sdpa_grouped"
BLOCK = 256  # tokens by which a recorded step's cache grows


class Place(NamedTuple):
    """Where each row goes on: its next rotary position (n), and which columns of its prompt are real (n, length)."""

    position: Tensor
    prompt: Tensor


def attend_grouped(module, query, key, value, attention_mask, scaling=None, **more) -> tuple[Tensor, None]:
    """transformers' SDPA; for one new token a row (rows, heads, 1, width) without copying a key for each query head.

    Those that share a key head stand as its queries.
    """
    if query.shape[2] > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    query = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.flatten(1, 2)[:, None], None


AttentionInterface.register(GROUPED, attend_grouped)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def go_on(model, tokens: Tensor, cache, place: Place, done: int) -> Tensor:
    """Run `tokens` (n, k), the first `done` completion tokens being in the cache. Returns hidden states."""
    position = place.position[:, None] + done + torch.arange(tokens.shape[1], device=tokens.device)
    seen = torch.cat([place.prompt, place.prompt.new_ones(len(tokens), done + tokens.shape[1])], dim=1)
    return model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(tokens),
        position_ids=position.expand(3, -1, -1),
        attention_mask=seen,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


class Plain:
    """Steps whose cache grows with each token."""

    may_drop = True  # whether rows may leave now

    def __init__(self, model, cache, place: Place) -> None:
        self.model, self.cache, self.place, self.done = model, cache, place, 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Returns the scores (n, vocabulary) that follow `tokens` (n)."""
        hidden = go_on(self.model, tokens[:, None], self.cache, self.place, self.done)
        self.done += 1
        return self.model.lm_head(hidden[:, -1])

    def keep(self, rows: Tensor) -> None:
        """Let all rows but these leave."""
        self.cache.batch_select_indices(rows)
        self.place = Place(*(tensor[rows] for tensor in self.place))


class Replayed:
    """The same, recorded as a CUDA graph for every block of tokens; on a CPU each step is run."""

    def __init__(self, model, cache, place: Place) -> None:
        self.model, self.layers = model, [(layer.keys, layer.values) for layer in cache.layers]
        self.length, self.left = self.layers[0][0].shape[2], 0  # tokens in the cache, steps until the block is full
        self.position = place.position.expand(3, -1)[..., None].contiguous()
        self.seen = place.prompt.bool()[:, None, None]
        self.tokens = torch.zeros_like(place.position)[:, None]

    @property
    def may_drop(self) -> bool:
        """Whether rows may leave now: between two blocks."""
        return self.left == 0

    def keep(self, rows: Tensor) -> None:
        """Let all rows but these leave."""
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        self.position, self.seen, self.tokens = self.position[:, rows], self.seen[rows], self.tokens[rows]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Returns the scores (n, vocabulary) that follow `tokens` (n), which the next call overwrites."""
        if not self.left:
            self._begin_block()
        self.tokens.copy_(tokens[:, None])
        self.length, self.left = self.length + 1, self.left - 1
        if not self.tokens.is_cuda or self.left == BLOCK - 1:  # the first of a block also warms up what is recorded
            return self._step()
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # other threads ask the GPU as well
                self.scores = self._step()
        self.graph.replay()
        return self.scores

    def _begin_block(self) -> None:
        """Make room for a block of tokens."""
        room = -(-(self.length + BLOCK) // 8) * 8
        self.cache, self.graph, self.left = StaticCache(self.model.config, room), None, BLOCK
        for i, (layer, (keys, values)) in enumerate(zip(self.cache.layers, self.layers)):
            layer.lazy_initialization(keys)
            for made, held in ((layer.keys, keys), (layer.values, values)):
                made[:, :, : self.length] = held[:, :, : self.length]
            self.layers[i] = layer.keys, layer.values
        self.seen = F.pad(self.seen[..., : self.length], (0, room - self.length))
        self.column = torch.tensor([self.length], device=self.tokens.device)

    def _step(self) -> Tensor:
        language = self.model.model.language_model
        before, language.config._attn_implementation = language.config._attn_implementation, GROUPED
        self.seen.index_fill_(3, self.column, True)
        hidden = language(
            inputs_embeds=self.model.get_input_embeddings()(self.tokens),
            position_ids=self.position,
            attention_mask=self.seen,
            past_key_values=self.cache,
            cache_position=self.column,
            use_cache=True,
        ).last_hidden_state
        language.config._attn_implementation = before
        self.column += 1
        self.position += 1
        return self.model.lm_head(hidden[:, -1])


def stepper(model, cache, place: Place) -> Plain | Replayed:
    """Returns what computes the next scores of each row, behind the cache of their prompts."""
    return (Replayed if place.position.is_cuda else Plain)(model, cache, place)
