"""A Florence-2 decoder's weights in the shape in which a step reads them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

# Vocabularies are padded to whole chunks, so that the largest of many logits is found chunk by chunk.
CHUNK = 64

Linear = tuple[torch.Tensor, torch.Tensor]
"""Weight and bias, of a projection or a layer norm."""


@dataclass(frozen=True)
class LayerWeights:
    """One layer: self-attention (`qkv` is the three projections in one), cross-attention, feed-forward; each
    with the norm that follows it.
    """

    qkv: Linear
    out: Linear
    self_norm: Linear
    cross_q: Linear
    cross_out: Linear
    cross_norm: Linear
    fc1: Linear
    fc2: Linear
    final_norm: Linear


@dataclass(frozen=True)
class DecoderWeights:
    """`token_embedding`: (V, width), V the padded vocabulary, a multiple of CHUNK. `lm_head`: weight (V,
    width) and bias (V,), minus infinity for the padding. `position_embedding`: (positions, width), from 0.
    `cross_kv`: the keys' and values' projections of all layers, weight (layers * 2 * width, width).
    """

    token_embedding: torch.Tensor
    lm_head: Linear
    position_embedding: torch.Tensor
    embedding_norm: Linear
    cross_kv: Linear
    layers: tuple[LayerWeights, ...]
    heads: int
    activation: Any

    @property
    def width(self) -> int:
        return self.token_embedding.shape[1]

    @property
    def device(self) -> torch.device:
        return self.token_embedding.device

    def cross_keys_values(self, states: torch.Tensor) -> torch.Tensor:
        """Of encoder states, (n, tokens, width): (n, layers, 2, heads, tokens, d)."""
        projected = F.linear(states.to(self.token_embedding.dtype), *self.cross_kv)
        return projected.unflatten(-1, (len(self.layers), 2, self.heads, -1)).permute(0, 2, 3, 4, 1, 5)

    @classmethod
    def of(cls, model: Any, dtype: torch.dtype) -> "DecoderWeights":
        """The decoder's weights of a Florence2ForConditionalGeneration, in `dtype`."""
        decoder = model.model.language_model.decoder
        embedding = decoder.embed_tokens
        tokens = _padded(_cast(embedding.weight, dtype))
        tied = embedding.weight is model.lm_head.weight
        head = tokens if tied else _padded(_cast(model.lm_head.weight, dtype))
        bias = tokens.new_full((len(tokens),), -torch.inf)
        bias[: len(embedding.weight)] = 0
        scale = float(getattr(embedding, "embed_scale", 1.0))
        positions = _cast(decoder.embed_positions.weight[decoder.embed_positions.offset :], dtype)
        crossed = [layer.encoder_attn for layer in decoder.layers]
        return cls(
            token_embedding=tokens if scale == 1 else tokens * scale,
            lm_head=(head, bias),
            # An answer that has ended at the limit stands one position beyond.
            position_embedding=F.pad(positions, (0, 0, 0, 1)),
            embedding_norm=_linear(decoder.layernorm_embedding, dtype),
            cross_kv=_joined([part for each in crossed for part in (each.k_proj, each.v_proj)], dtype),
            layers=tuple(_layer(layer, dtype) for layer in decoder.layers),
            heads=model.config.text_config.decoder_attention_heads,
            activation=decoder.layers[0].activation_fn,
        )


def _layer(layer: Any, dtype: torch.dtype) -> LayerWeights:
    own, cross = layer.self_attn, layer.encoder_attn
    return LayerWeights(
        qkv=_joined([own.q_proj, own.k_proj, own.v_proj], dtype),
        out=_linear(own.out_proj, dtype),
        self_norm=_linear(layer.self_attn_layer_norm, dtype),
        cross_q=_linear(cross.q_proj, dtype),
        cross_out=_linear(cross.out_proj, dtype),
        cross_norm=_linear(layer.encoder_attn_layer_norm, dtype),
        fc1=_linear(layer.fc1, dtype),
        fc2=_linear(layer.fc2, dtype),
        final_norm=_linear(layer.final_layer_norm, dtype),
    )


def _linear(module: Any, dtype: torch.dtype) -> Linear:
    return _cast(module.weight, dtype), _cast(module.bias, dtype)


def _joined(modules: list[Any], dtype: torch.dtype) -> Linear:
    linears = [_linear(module, dtype) for module in modules]
    return torch.cat([weight for weight, _ in linears]), torch.cat([bias for _, bias in linears])


def _cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Detached: it stays as it is when its module is cast."""
    return weight.detach().to(dtype)


def _padded(rows: torch.Tensor) -> torch.Tensor:
    return F.pad(rows, (0, 0, 0, -len(rows) % CHUNK))
