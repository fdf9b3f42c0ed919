"""The largest by chunks, against a plain top-k."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.grounding.fast.decoder_weights import CHUNK
from maskgen.grounding.fast.topk import chunked_argmax, chunked_topk

pytestmark = pytest.mark.usefixtures("one_thread")


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 15),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_largest_is_topk(groups, rows, chunks, count, seed, coarse):
    """With `coarse`, values repeat: then the values must be the same, and stand where they are said to."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(groups * rows, chunks * CHUNK, generator=generator)
    offsets = torch.randn(groups, rows, generator=generator)
    if coarse:
        scores, offsets = scores.round(), offsets.round()
        scores[:, ::3] = -torch.inf
    total = (scores.view(groups, rows, -1) + offsets[..., None]).flatten(1)
    values, places = total.topk(count, dim=1)
    best, where = chunked_topk(scores, offsets, count)
    assert torch.equal(best, values)
    assert torch.equal(total.gather(1, where), best)
    assert all(len(set(row)) == count for row in where.tolist())
    if not coarse:
        assert torch.equal(where, places)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_likeliest_is_argmax(rows, chunks, seed):
    scores = torch.randn(rows, chunks * CHUNK, generator=torch.Generator().manual_seed(seed)).round()
    assert torch.equal(chunked_argmax(scores), scores.argmax(dim=1))
