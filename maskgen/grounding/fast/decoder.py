"""BART's decoder over slots: one token for every beam of every slot, on buffers of fixed size."""

import copy

import torch
import torch.nn.functional as F

from maskgen.grounding.fast.decoder_weights import Pair, Parameters


class Decoder:
    """The decoder's forward and what it remembers of every slot.

    Beams share their prompt's keys: they are the query axis of one attention a slot. Of their own past, each
    beam sees what its ancestors wrote, by a mask over all that was ever written, so that no key is copied
    when beams change places. Every shape follows from the number of slots and the length alone, and nothing
    is asked of the device: a step can be captured as a graph.
    """

    def __init__(self, weights: Parameters, slots: int, beams: int, length: int, prompt: int):
        """`length`: tokens an answer; `prompt`: encoded tokens a slot can hold."""
        self._weights = weights
        heads, d = weights.heads, weights.width // weights.heads
        layers = len(weights.layers)
        words = weights.words
        # Keys and values, of the answers so far and of the prompts: (layers, 2, slots, heads, ..., d).
        self._past = words.new_zeros(layers, 2, slots, heads, length, beams, d)
        self._cross = words.new_zeros(layers, 2, slots, heads, prompt, d)
        # Added to attention scores: minus infinity for what is not to be seen.
        self._seen = words.new_zeros(slots, prompt)
        self._ancestry = words.new_full((slots, beams, length, beams), -torch.inf)
        self._own = words.new_full((beams, beams), -torch.inf).fill_diagonal_(0)
        self._view(slots, length)

    @staticmethod
    def bytes_a_slot(weights: Parameters, beams: int, length: int, prompt: int) -> int:
        """What one slot takes of the device's memory."""
        states = 2 * len(weights.layers) * weights.width * (length * beams + prompt)
        return (states + prompt + beams * beams * length) * weights.words.element_size()

    def first(self, slots: int, length: int) -> "Decoder":
        """The same decoder, on the first `slots` and their first `length` places."""
        other = copy.copy(self)
        other._view(slots, length)
        return other

    def begin(self, slots: list[int], where: torch.Tensor, prompts: list[torch.Tensor]) -> None:
        """Put prompts, each (layers, 2, heads, tokens, d), into slots; `where`: these slots as int64 (n,)."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self._cross[:, :, slot, :, : prompt.shape[3]] = prompt
        lengths = torch.tensor([prompt.shape[3] for prompt in prompts], device=where.device)
        places = torch.arange(self._seen.shape[1], device=where.device)
        unseen = self._seen.new_zeros(len(where), len(places))
        self._seen[where] = unseen.masked_fill_(places >= lengths[:, None], -torch.inf)
        self._ancestry.index_fill_(0, where, -torch.inf)

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy slots, int64 (n,), onto others."""
        for held, axis in ((self._past, 2), (self._cross, 2), (self._seen, 0), (self._ancestry, 0)):
            held.index_copy_(axis, target, held.index_select(axis, source))

    def step(self, tokens: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (slots * beams, W), after the last token of each beam.

        `tokens`: int64 (slots, beams), those tokens; `place`: int64 (slots,), where they stand.
        """
        weights = self._weights
        rows = (place[:, None] + self._head_rows).flatten()
        beam_rows = (place[:, None] + self._beam_rows).flatten()
        self._flat_ancestry.index_copy_(0, beam_rows, self._owns)
        hidden = F.embedding(tokens, weights.words) + F.embedding(place, weights.positions)[:, None]
        hidden = _norm(hidden.flatten(0, 1), weights.norm)
        for number in range(len(weights.layers)):
            hidden = self._layer(number, hidden, rows)
        return F.linear(hidden, *weights.head).float()

    def follow(self, rows: torch.Tensor) -> None:
        """Row r, of slots * beams, goes on from what row `rows[r]` wrote."""
        self._visible.copy_(self._visible.index_select(0, rows))

    def _view(self, slots: int, length: int) -> None:
        """The buffers as a step on `slots` and `length` places needs them."""
        _, _, most, heads, places, beams, d = self._past.shape
        device = self._past.device
        self._shape = slots, beams, 3, heads, d
        self._flat_past = [each.view(2, most * heads * places, beams * d) for each in self._past]
        past = self._past[:, :, :slots].flatten(4, 5)[..., : length * beams, :]
        self._keys_values = [tuple(each) for each in past]
        self._prompts = [tuple(each) for each in self._cross[:, :, :slots]]
        self._prompt_mask = self._seen[:slots, None, None]
        self._flat_ancestry = self._ancestry.view(-1, beams)
        self._visible = self._ancestry.view(most * beams, -1)[: slots * beams, : length * beams]
        self._mask = self._ancestry.flatten(2)[:slots, None, :, : length * beams]
        self._head_rows = torch.arange(slots * heads, device=device).view(slots, heads) * places
        self._beam_rows = torch.arange(slots * beams, device=device).view(slots, beams) * places
        self._owns = self._own.repeat(slots, 1)

    def _layer(self, number: int, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        layer = self._weights.layers[number]
        # (slots * beams, 3 width) into queries, keys and values of (slots, heads, beams, d)
        mixed = F.linear(hidden, *layer.mix).view(self._shape).permute(2, 0, 3, 1, 4)
        self._flat_past[number].index_copy_(1, rows, mixed[1:].reshape(2, len(rows), -1))
        keys, values = self._keys_values[number]
        out = F.scaled_dot_product_attention(mixed[0], keys, values, attn_mask=self._mask)
        hidden = _norm(hidden + F.linear(_rows(out), *layer.mixed), layer.mix_norm)
        slots, beams, _, heads, d = self._shape
        asking = F.linear(hidden, *layer.ask).view(slots, beams, heads, d).transpose(1, 2)
        keys, values = self._prompts[number]
        out = F.scaled_dot_product_attention(asking, keys, values, attn_mask=self._prompt_mask)
        hidden = _norm(hidden + F.linear(_rows(out), *layer.asked), layer.ask_norm)
        wide = self._weights.activation(F.linear(hidden, *layer.widen))
        return _norm(hidden + F.linear(wide, *layer.narrow), layer.norm)


def _rows(out: torch.Tensor) -> torch.Tensor:
    """(slots, heads, beams, d) to (slots * beams, width)."""
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def _norm(hidden: torch.Tensor, pair: Pair) -> torch.Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], *pair)
