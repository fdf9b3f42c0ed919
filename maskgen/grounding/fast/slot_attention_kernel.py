"""The Triton kernel of `slot_attention`: flash decoding with each slot's own length, split over the keys."""

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 64  # keys read at a time
PROGRAMS = 512  # of a launch, to fill a GPU
_MOST_SPLITS = 8


def attend_by_lengths(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """See `slot_attention.Attend`. Shapes alone decide what is launched: it can be captured in a graph.

    The keys of a slot and head are shared out between `splits` programs, whose results a second kernel puts
    together; where slots and heads are programs enough, one writes the result by itself.
    """
    slots, heads, beams, d = query.shape
    if keys.stride() != values.stride() or keys.stride(3) != 1 or query.stride(3) != 1 or d & (d - 1):
        raise ValueError("the last axis must be dense and a power of two, keys and values strided alike")
    # Rows in the order in which the output projection reads them.
    out = query.new_empty(slots, beams, heads, d)
    splits = max(1, min(_MOST_SPLITS, PROGRAMS // (slots * heads)))
    partial = query.new_empty((splits, slots * heads, beams, d + 2), dtype=torch.float32)
    rows = max(16, triton.next_power_of_2(beams))  # the least that a product of tiles takes
    _attend[(slots * heads, splits)](
        query,
        keys,
        values,
        bias,
        lengths,
        out,
        partial,
        query.stride(0),
        query.stride(1),
        query.stride(2),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        bias.stride(0),
        bias.stride(2) if bias.shape[2] > 1 else 0,
        keys.shape[2],
        heads,
        d**-0.5,
        splits,
        BEAMS=beams,
        ROWS=rows,
        D=d,
        BLOCK=BLOCK,
        SPLIT=splits > 1,
    )
    if splits > 1:
        _combine[(slots * heads,)](partial, out, heads, splits, BEAMS=beams, ROWS=rows, D=d)
    return out.transpose(1, 2)


@triton.jit
def _attend(
    query: Any,
    keys: Any,
    values: Any,
    bias: Any,
    lengths: Any,
    out: Any,
    partial: Any,
    query_slot_stride: Any,
    query_head_stride: Any,
    query_row_stride: Any,
    slot_stride: Any,
    head_stride: Any,
    key_stride: Any,
    bias_slot_stride: Any,
    bias_row_stride: Any,
    most_keys: Any,
    heads: Any,
    scale: Any,
    splits: Any,
    BEAMS: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """Online softmax of one slot and head over its share of the keys."""
    pair, split = tl.program_id(0), tl.program_id(1)
    slot, head = pair // heads, pair % heads
    row, column, place = tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, BLOCK)
    real = row < BEAMS
    ask = query + slot * query_slot_stride + head * query_head_stride
    asked = tl.load(ask + row[:, None] * query_row_stride + column, mask=real[:, None], other=0.0)
    length = tl.minimum(tl.load(lengths + slot), most_keys)
    # Whole blocks to each program, so that none is read twice.
    share = tl.cdiv(tl.cdiv(length, BLOCK), splits) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, length)
    # A slot's place in the cache may lie beyond what 32 bits can count.
    base = slot.to(tl.int64) * slot_stride + head * head_stride
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, D), tl.float32)
    for start in range(begin, end, BLOCK):
        at = start + place
        held = at < end
        where = base + at[:, None] * key_stride + column
        key = tl.load(keys + where, mask=held[:, None], other=0.0)
        seen = tl.load(
            bias + slot * bias_slot_stride + row[:, None] * bias_row_stride + at,
            mask=real[:, None] & held,
            other=float("-inf"),
        )
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale + seen.to(tl.float32)
        larger = tl.maximum(most, tl.max(scores, axis=1))
        # Where nothing was seen yet, the difference of two infinities would be no number.
        finite = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp(scores - finite[:, None])
        shrink = tl.exp(most - finite)
        value = tl.load(values + where, mask=held[:, None], other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        total = total * shrink + tl.sum(weights, axis=1)
        most = larger
    if SPLIT:
        to = partial + ((split * tl.num_programs(0) + pair) * BEAMS + row) * (D + 2)
        tl.store(to[:, None] + column, mixed, mask=real[:, None])
        tl.store(to + D, most, mask=real)
        tl.store(to + D + 1, total, mask=real)
    else:
        to = out + ((slot * BEAMS + row) * heads + head)[:, None] * D + column
        tl.store(to, mixed / total[:, None], mask=real[:, None])


@triton.jit
def _combine(
    partial: Any,
    out: Any,
    heads: Any,
    splits: Any,
    BEAMS: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """The shares of one slot and head together."""
    pair = tl.program_id(0)
    slot, head = pair // heads, pair % heads
    row, column = tl.arange(0, ROWS), tl.arange(0, D)
    real = row < BEAMS
    most = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, D), tl.float32)
    for split in range(0, splits):
        at = partial + ((split * tl.num_programs(0) + pair) * BEAMS + row) * (D + 2)
        own = tl.load(at + D, mask=real, other=float("-inf"))
        larger = tl.maximum(most, own)
        finite = tl.where(larger == float("-inf"), 0.0, larger)
        before, now = tl.exp(most - finite), tl.exp(own - finite)
        mixed = mixed * before[:, None] + now[:, None] * tl.load(
            at[:, None] + column, mask=real[:, None], other=0.0
        )
        total = total * before + now * tl.load(at + D + 1, mask=real, other=0.0)
        most = larger
    to = out + ((slot * BEAMS + row) * heads + head)[:, None] * D + column
    tl.store(to, mixed / total[:, None], mask=real[:, None])
