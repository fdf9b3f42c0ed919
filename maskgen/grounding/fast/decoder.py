"""BART's decoder over slots: one token for every beam of every slot, on buffers of fixed size."""

import copy

import torch
import torch.nn.functional as F

from maskgen.grounding.fast.decoder_weights import DecoderWeights, Linear
from maskgen.grounding.fast.slot_attention import Attend, attend_for


class Decoder:
    """The decoder's forward and its key-value caches, for every slot.

    Beams share their prompt's keys: they are the query axis of one attention a slot. Of their own past, each
    beam sees what its ancestors wrote, by a mask over all that was ever written, so that no key is copied
    when beams change places. Every shape follows from the number of slots and the length alone, and nothing
    is asked of the device: a step can be captured as a graph.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        slots: int,
        beams: int,
        length: int,
        prompt: int,
        attend: Attend | None = None,
    ):
        """`length`: tokens an answer; `prompt`: encoded tokens a slot can hold; `attend`: by default the
        device's.
        """
        self._weights = weights
        self._attend = attend or attend_for(weights.device, weights.token_embedding.dtype)
        heads, d = weights.heads, weights.width // weights.heads
        layers = len(weights.layers)
        embedding = weights.token_embedding
        # Keys and values, of the answers so far and of the prompts: (layers, 2, slots, heads, ..., d).
        self._self_cache = embedding.new_zeros(layers, 2, slots, heads, length, beams, d)
        self._cross_cache = embedding.new_zeros(layers, 2, slots, heads, prompt, d)
        # Added to attention scores: minus infinity for what is not to be seen.
        self._prompt_bias = embedding.new_zeros(slots, prompt)
        self._prompt_lengths = torch.ones(slots, dtype=torch.int32, device=embedding.device)
        self._ancestry = embedding.new_full((slots, beams, length, beams), -torch.inf)
        self._own = embedding.new_full((beams, beams), -torch.inf).fill_diagonal_(0)
        self.set_view(slots, length)

    @staticmethod
    def bytes_per_slot(weights: DecoderWeights, beams: int, length: int, prompt: int) -> int:
        """What one slot takes of the device's memory."""
        states = 2 * len(weights.layers) * weights.width * (length * beams + prompt)
        return (states + prompt + beams * beams * length) * weights.token_embedding.element_size()

    def first(self, slots: int, length: int) -> "Decoder":
        """The same decoder, on the first `slots` and their first `length` positions."""
        other = copy.copy(self)
        other.set_view(slots, length)
        return other

    def start(self, slots: list[int], index: torch.Tensor, prompts: list[torch.Tensor]) -> None:
        """Put prompts, each (layers, 2, heads, tokens, d), into slots; `index`: these slots as int64 (n,)."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self._cross_cache[:, :, slot, :, : prompt.shape[3]] = prompt
        lengths = torch.tensor([prompt.shape[3] for prompt in prompts], device=index.device)
        tokens = torch.arange(self._prompt_bias.shape[1], device=index.device)
        bias = self._prompt_bias.new_zeros(len(index), len(tokens))
        self._prompt_lengths[index] = lengths.int()
        self._prompt_bias[index] = bias.masked_fill_(tokens >= lengths[:, None], -torch.inf)
        self._ancestry.index_fill_(0, index, -torch.inf)

    def copy_slots(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy slots, int64 (n,), onto others."""
        prompts = (self._prompt_bias, 0), (self._prompt_lengths, 0)
        caches = ((self._self_cache, 2), (self._cross_cache, 2), (self._ancestry, 0), *prompts)
        for held, axis in caches:
            held.index_copy_(axis, target, held.index_select(axis, source))

    def step(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (slots * beams, V), after the last token of each beam.

        `tokens`: int64 (slots, beams), those tokens; `position`: int64 (slots,), where they stand.
        """
        weights = self._weights
        rows = (position[:, None] + self._head_rows).flatten()
        beam_rows = (position[:, None] + self._beam_rows).flatten()
        self._flat_ancestry.index_copy_(0, beam_rows, self._owns)
        embedded = F.embedding(tokens, weights.token_embedding)
        embedded = embedded + F.embedding(position, weights.position_embedding)[:, None]
        hidden = _norm(embedded.flatten(0, 1), weights.embedding_norm)
        written = ((position + 1) * tokens.shape[1]).int()
        for number in range(len(weights.layers)):
            hidden = self._layer(number, hidden, rows, written)
        return F.linear(hidden, *weights.lm_head).float()

    def reorder(self, rows: torch.Tensor) -> None:
        """Row r, of slots * beams, goes on from what row `rows[r]` wrote."""
        self._visible.copy_(self._visible.index_select(0, rows))

    def set_view(self, slots: int, length: int) -> None:
        """The buffers as a step on `slots` and `length` positions needs them."""
        _, _, most, heads, positions, beams, d = self._self_cache.shape
        device = self._self_cache.device
        self._shape = slots, beams, 3, heads, d
        self._flat_cache = [each.view(2, most * heads * positions, beams * d) for each in self._self_cache]
        past = self._self_cache[:, :, :slots].flatten(4, 5)[..., : length * beams, :]
        self._self_kv = [tuple(each) for each in past]
        self._cross_kv = [tuple(each) for each in self._cross_cache[:, :, :slots]]
        self._cross_mask = self._prompt_bias[:slots, None, None]
        self._cross_lengths = self._prompt_lengths[:slots]
        self._flat_ancestry = self._ancestry.view(-1, beams)
        self._visible = self._ancestry.view(most * beams, -1)[: slots * beams, : length * beams]
        self._self_mask = self._ancestry.flatten(2)[:slots, None, :, : length * beams]
        self._head_rows = torch.arange(slots * heads, device=device).view(slots, heads) * positions
        self._beam_rows = torch.arange(slots * beams, device=device).view(slots, beams) * positions
        self._owns = self._own.repeat(slots, 1)

    def _layer(
        self, number: int, hidden: torch.Tensor, rows: torch.Tensor, written: torch.Tensor
    ) -> torch.Tensor:
        layer = self._weights.layers[number]
        slots, beams, _, heads, d = self._shape
        # (slots * beams, 3 width) into queries, keys and values of (slots, heads, beams, d)
        qkv = F.linear(hidden, *layer.qkv).view(self._shape).permute(2, 0, 3, 1, 4)
        self._flat_cache[number].index_copy_(1, rows, qkv[1:].reshape(2, len(rows), -1))
        keys, values = self._self_kv[number]
        attended = self._attend(qkv[0], keys, values, self._self_mask, written)
        hidden = _norm(hidden + F.linear(_rows(attended), *layer.out), layer.self_norm)
        query = F.linear(hidden, *layer.cross_q).view(slots, beams, heads, d).transpose(1, 2)
        keys, values = self._cross_kv[number]
        attended = self._attend(query, keys, values, self._cross_mask, self._cross_lengths)
        hidden = _norm(hidden + F.linear(_rows(attended), *layer.cross_out), layer.cross_norm)
        inner = self._weights.activation(F.linear(hidden, *layer.fc1))
        return _norm(hidden + F.linear(inner, *layer.fc2), layer.final_norm)


def _rows(attended: torch.Tensor) -> torch.Tensor:
    """(slots, heads, beams, d) to (slots * beams, width)."""
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def _norm(hidden: torch.Tensor, weights: Linear) -> torch.Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], *weights)
