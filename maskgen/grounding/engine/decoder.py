"""BART's decoder over slots: one token for every beam of every slot, on buffers of fixed size."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


@dataclass
class _Layer:
    """A decoder layer's weights, and its keys and values.

    `keys`, `values`: (slots, heads, length, beams, d), appended to and never moved; `cross`: keys and values
    of the encoded prompts, (slots, heads, prompt, d) each.
    """

    source: Any
    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    cross: tuple[torch.Tensor, torch.Tensor]


class Decoder:
    """The decoder of a Florence-2 checkpoint.

    Beams share their prompt's keys: they are the query axis of one attention a slot. Of their own past, each
    beam sees what its ancestors wrote, by a mask over all that was ever written, so that nothing is copied
    when beams change places.
    """

    def __init__(self, model: Any, slots: int, beams: int, length: int, prompt: int):
        """`length`: tokens an answer; `prompt`: encoded tokens a slot can hold."""
        self._language = model.model.language_model.decoder
        self._head = model.lm_head
        config = model.config.text_config
        self._heads = config.decoder_attention_heads
        self._d = config.d_model // self._heads
        weight = self._head.weight
        room = {"dtype": weight.dtype, "device": weight.device}
        past = (slots, self._heads, length, beams, self._d)
        seen = (slots, self._heads, prompt, self._d)
        self._layers = [
            _Layer(
                layer,
                torch.cat([getattr(layer.self_attn, f"{name}_proj").weight for name in "qkv"]),
                torch.cat([getattr(layer.self_attn, f"{name}_proj").bias for name in "qkv"]),
                torch.zeros(past, **room),
                torch.zeros(past, **room),
                (torch.zeros(seen, **room), torch.zeros(seen, **room)),
            )
            for layer in self._language.layers
        ]
        self._seen = torch.zeros(slots, 1, 1, prompt, dtype=torch.bool, device=weight.device)
        self._ancestors = torch.zeros(slots, beams, length, dtype=torch.long, device=weight.device)
        self._slots = torch.arange(slots, device=weight.device)
        self._beams = torch.arange(beams, device=weight.device)
        self._places = torch.arange(length, device=weight.device)

    def begin(self, slots: list[int], encoded: torch.Tensor, mask: torch.Tensor) -> None:
        """Put encoded prompts, (n, tokens, width) with `mask`, bool (n, tokens), into the slots."""
        where = torch.tensor(slots, device=encoded.device)
        tokens = encoded.shape[1]
        self._seen[where] = False
        self._seen[where, 0, 0, :tokens] = mask
        for layer in self._layers:
            attention = layer.source.encoder_attn
            for held, projection in zip(layer.cross, (attention.k_proj, attention.v_proj), strict=True):
                held[where, :, :tokens] = (
                    projection(encoded).unflatten(-1, (self._heads, self._d)).transpose(1, 2)
                )

    def step(self, tokens: torch.Tensor, lengths: torch.Tensor, longest: int) -> torch.Tensor:
        """Logits, float32 (slots, beams, words), after the last token of each beam.

        `tokens`: int64 (slots, beams), those last tokens; `lengths`: int64 (slots,), how many each slot has,
        them included; `longest`: the maximum over the slots in use.
        """
        place = (lengths - 1).clamp(max=self._ancestors.shape[2] - 1)
        self._ancestors[self._slots, :, place] = self._beams
        past = self._past(place, longest)
        language = self._language
        hidden = language.embed_tokens(tokens)
        hidden = (
            hidden
            + F.embedding(place + language.embed_positions.offset, language.embed_positions.weight)[:, None]
        )
        hidden = language.layernorm_embedding(hidden)
        for layer in self._layers:
            hidden = self._layer(layer, hidden, place, past, longest)
        return self._head(hidden).float()

    def follow(self, parents: torch.Tensor) -> None:
        """Beam b of a slot goes on from what its beam `parents[slot, b]` wrote."""
        self._ancestors = self._ancestors.gather(1, parents[..., None].expand_as(self._ancestors))

    def _past(self, place: torch.Tensor, longest: int) -> torch.Tensor:
        """bool (slots, 1, beams, longest * beams): what each beam's ancestors wrote, up to now."""
        own = self._ancestors[:, :, :longest, None] == self._beams
        written = self._places[:longest] <= place[:, None]
        return (own & written[:, None, :, None]).flatten(2)[:, None]

    def _layer(
        self, layer: _Layer, hidden: torch.Tensor, place: torch.Tensor, past: torch.Tensor, longest: int
    ) -> torch.Tensor:
        source = layer.source
        queries, keys, values = F.linear(hidden, layer.qkv, layer.qkv_bias).chunk(3, dim=-1)
        # (slots, beams, heads, d) into (slots, heads, place, beams, d)
        layer.keys[self._slots, :, place] = keys.unflatten(-1, (self._heads, self._d)).transpose(1, 2)
        layer.values[self._slots, :, place] = values.unflatten(-1, (self._heads, self._d)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            queries.unflatten(-1, (self._heads, self._d)).transpose(1, 2),
            layer.keys[:, :, :longest].flatten(2, 3),
            layer.values[:, :, :longest].flatten(2, 3),
            attn_mask=past,
        )
        out = source.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
        hidden = source.self_attn_layer_norm(hidden + out)
        queries = source.encoder_attn.q_proj(hidden).unflatten(-1, (self._heads, self._d)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(queries, *layer.cross, attn_mask=self._seen)
        out = source.encoder_attn.out_proj(attended.transpose(1, 2).flatten(2))
        hidden = source.encoder_attn_layer_norm(hidden + out)
        out = source.fc2(source.activation_fn(source.fc1(hidden)))
        return source.final_layer_norm(hidden + out)
