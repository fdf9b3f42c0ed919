"""Segment Anything's forward over batches: the package's weights, the same logits, less to do.

The image encoder's relative positions are folded into its keys, so that a fused attention can run. The mask
decoder takes prompts of many images at once.
"""

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition

_WIDTH_MULTIPLE = 8  # of a head's queries, keys and values, for fused attention in half precision


class ImageEncoder:
    """An ImageEncoderViT's forward, on its own weights."""

    def __init__(self, encoder: ImageEncoderViT):
        self._encoder = encoder

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised, padded pixels, float (B, 3, S, S), to (B, channels, cells, cells)."""
        encoder = self._encoder
        states = encoder.patch_embed(pixels)
        if encoder.pos_embed is not None:
            states = states + encoder.pos_embed
        for block in encoder.blocks:
            attended = _attention(block.attn, block.norm1(states), block.window_size)
            states = states + attended
            states = states + block.mlp(block.norm2(states))
        out: torch.Tensor = encoder.neck(states.permute(0, 3, 1, 2))
        return out


def _attention(attention: Any, states: torch.Tensor, window: int) -> torch.Tensor:
    """Attention of (B, H, W, width), in windows of `window` cells a side, or over all cells if 0."""
    _, height, width, _ = states.shape
    side = (height, width)
    if window:
        # Before projecting: to fill up and cut what is three times as wide takes longer than the products.
        states, whole = window_partition(states, window)
        side = (window, window)
    heads = attention.qkv(states).unflatten(-1, (3, attention.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)
    query, key, value = heads.flatten(3, 4)  # (windows, heads, cells, d) each
    if attention.use_rel_pos:
        query, key = _with_relative_positions(attention, query, key, side)
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    out = out.transpose(1, 2).flatten(2).unflatten(1, side)
    if window:
        out = window_unpartition(out, window, whole, (height, width))
    projected: torch.Tensor = attention.proj(out)
    return projected


def _with_relative_positions(
    attention: Any, query: torch.Tensor, key: torch.Tensor, side: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys whose product is q k^T / sqrt(d) plus the relative positions' terms.

    A query gets what it says to each row and each column; a key, one-hot vectors of its row and column. Zeros
    fill both up to a width that the fused kernels of a GPU take: without them, in half precision, windows
    would get the one that writes all scores to memory.
    """
    height, width = side
    rows = get_rel_pos(height, height, attention.rel_pos_h).to(query.dtype)
    columns = get_rel_pos(width, width, attention.rel_pos_w).to(query.dtype)
    grid = query.unflatten(2, side)
    to_rows = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3)
    to_columns = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3)
    row = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, dim=0)
    column = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    filling = -(query.shape[-1] + height + width) % _WIDTH_MULTIPLE
    one_hot = F.pad(torch.cat([row, column], dim=1), (0, filling)).expand(*key.shape[:2], -1, -1)
    zeros = query.new_zeros(1).expand(*query.shape[:-1], filling)
    query = torch.cat([query * attention.scale, to_rows, to_columns, zeros], dim=-1)
    return query, torch.cat([key, one_hot], dim=-1)


def decode(
    decoder: MaskDecoder,
    embeddings: torch.Tensor,
    owners: torch.Tensor,
    dense_pe: torch.Tensor,
    sparse: torch.Tensor,
    dense: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The three masks of each prompt, float32 logits (P, 3, side, side), and their predicted IoUs (P, 3).

    `embeddings`: (B, channels, cells, cells). `owners`: int64 (P,), the image that each prompt is about.
    `dense_pe`: (1, channels, cells, cells), the dense position encoding. `sparse`: (P, points, channels).
    `dense`: (P, channels, cells, cells).
    """
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(owners), -1, -1)
    source = embeddings[owners] + dense
    tokens_out, source_out = decoder.transformer(
        source, dense_pe.expand(len(owners), -1, -1, -1), torch.cat([tokens, sparse], dim=1)
    )
    upscaled = decoder.output_upscaling(source_out.transpose(1, 2).view_as(source))
    count = decoder.num_mask_tokens
    hyper = torch.stack(
        [decoder.output_hypernetworks_mlps[i](tokens_out[:, 1 + i]) for i in range(1, count)], dim=1
    )
    masks = (hyper @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
    return masks, decoder.iou_prediction_head(tokens_out[:, 0])[:, 1:]
