"""A Florence-2 decoder's weights in the shape in which a step reads them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

# Vocabularies are filled up to whole chunks, so that the largest of many words is found chunk by chunk.
CHUNK = 64

Pair = tuple[torch.Tensor, torch.Tensor]
"""Weight and bias of a projection or a norm."""


@dataclass(frozen=True)
class Layer:
    """One layer. `mix`: queries, keys and values of the answer so far; `ask`: queries to the prompt."""

    mix: Pair
    mixed: Pair
    mix_norm: Pair
    ask: Pair
    asked: Pair
    ask_norm: Pair
    widen: Pair
    narrow: Pair
    norm: Pair


@dataclass(frozen=True)
class Parameters:
    """`words`: (W, width), W a multiple of CHUNK, also the head's weight, with `head` as its bias: minus
    infinity for the rows that are no words. `positions`: (length, width), by place from 0. `cross`: keys and
    values that all layers have of a prompt, (layers * 2 * width, width).
    """

    words: torch.Tensor
    head: tuple[torch.Tensor, torch.Tensor]
    positions: torch.Tensor
    norm: Pair
    cross: Pair
    layers: tuple[Layer, ...]
    heads: int
    activation: Any

    @property
    def width(self) -> int:
        return self.words.shape[1]

    def asked(self, encoded: torch.Tensor) -> torch.Tensor:
        """Keys and values of encoded prompts, (n, tokens, width): (n, layers, 2, heads, tokens, d)."""
        mixed = F.linear(encoded.to(self.words.dtype), *self.cross)
        return mixed.unflatten(-1, (len(self.layers), 2, self.heads, -1)).permute(0, 2, 3, 4, 1, 5)

    @classmethod
    def of(cls, model: Any, dtype: torch.dtype) -> "Parameters":
        """The decoder's weights of a Florence2ForConditionalGeneration, in `dtype`."""
        decoder = model.model.language_model.decoder
        own = decoder.embed_tokens
        words = _filled(_cast(own.weight, dtype))
        tied = own.weight.data_ptr() == model.lm_head.weight.data_ptr()
        head = words if tied else _filled(_cast(model.lm_head.weight, dtype))
        bias = words.new_full((len(words),), -torch.inf)
        bias[: len(own.weight)] = 0
        scale = float(getattr(own, "embed_scale", 1.0))
        # An answer that has ended at the limit stands one place beyond.
        places = _cast(decoder.embed_positions.weight[decoder.embed_positions.offset :], dtype)
        asking = [part for layer in decoder.layers for part in _keys_and_values(layer.encoder_attn)]
        return cls(
            words=words if scale == 1 else words * scale,
            head=(head, bias),
            positions=F.pad(places, (0, 0, 0, 1)),
            norm=_pair(decoder.layernorm_embedding, dtype),
            cross=_joined(asking, dtype),
            layers=tuple(_layer(layer, dtype) for layer in decoder.layers),
            heads=model.config.text_config.decoder_attention_heads,
            activation=decoder.layers[0].activation_fn,
        )


def _layer(layer: Any, dtype: torch.dtype) -> Layer:
    mix, ask = layer.self_attn, layer.encoder_attn
    return Layer(
        mix=_joined([mix.q_proj, mix.k_proj, mix.v_proj], dtype),
        mixed=_pair(mix.out_proj, dtype),
        mix_norm=_pair(layer.self_attn_layer_norm, dtype),
        ask=_pair(ask.q_proj, dtype),
        asked=_pair(ask.out_proj, dtype),
        ask_norm=_pair(layer.encoder_attn_layer_norm, dtype),
        widen=_pair(layer.fc1, dtype),
        narrow=_pair(layer.fc2, dtype),
        norm=_pair(layer.final_layer_norm, dtype),
    )


def _keys_and_values(attention: Any) -> list[Any]:
    return [attention.k_proj, attention.v_proj]


def _pair(module: Any, dtype: torch.dtype) -> Pair:
    return _cast(module.weight, dtype), _cast(module.bias, dtype)


def _joined(modules: list[Any], dtype: torch.dtype) -> Pair:
    pairs = [_pair(module, dtype) for module in modules]
    return torch.cat([weight for weight, _ in pairs]), torch.cat([bias for _, bias in pairs])


def _cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Detached: it stays as it is when its module is cast."""
    return weight.detach().to(dtype)


def _filled(words: torch.Tensor) -> torch.Tensor:
    return F.pad(words, (0, 0, 0, -len(words) % CHUNK))
