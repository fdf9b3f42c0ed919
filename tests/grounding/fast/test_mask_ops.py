"""Masks made on the device against geometry's integers and run lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen import rle
from maskgen.geometry import Frame
from maskgen.grounding.fast.mask_ops import coverage, fetched, pack, plain, unpack

pytestmark = pytest.mark.usefixtures("one_thread")

frames = st.builds(
    Frame,
    st.sampled_from(["squash", "pad", "crop"]),
    st.sampled_from([1, 7, 64, 768]),
    st.sampled_from([1, 3, 5, 24]),
)
masks = st.builds(
    lambda height, width, seed, share: np.random.default_rng(seed).random((height, width)) < share,
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.0005, 0.05, 0.5, 1.0]),
)


@given(masks, frames)
def test_the_grid_is_the_frames_own(mask, frame):
    assert np.array_equal(coverage(torch.from_numpy(mask), frame).numpy(), frame.grid(mask))


@pytest.mark.parametrize("shape", [(1, 5000), (3000, 4), (1200, 1700)])
def test_large_and_thin_grids(shape):
    mask = np.random.default_rng(0).random(shape) < 0.3
    for fit in ("squash", "pad", "crop"):
        frame = Frame(fit, 768, 24)
        assert np.array_equal(coverage(torch.from_numpy(mask), frame).numpy(), frame.grid(mask))


@given(masks)
def test_bits_are_the_mask_and_give_its_run_lengths(mask):
    back = unpack(pack(torch.from_numpy(mask)).numpy(), *mask.shape)
    assert back.dtype == bool and np.array_equal(back, mask)
    assert rle.encode(back) == rle.encode(mask)


@given(st.lists(masks, min_size=1, max_size=4), frames)
def test_many_images_fetched_at_once_are_each_its_own(images, frame):
    """Two parts an image: their union, and each one's scores and area."""
    scores = torch.tensor([[0.25, 0.5], [0.75, 1.0]])  # (parts, kinds)
    chosen = [
        (torch.stack([torch.from_numpy(mask), torch.from_numpy(mask).flip(0)]), scores * (1 + number))
        for number, mask in enumerate(images)
    ]
    for ours, parts, mask in zip(fetched(chosen, frame), chosen, images, strict=True):
        union, expected, areas, _ = plain(*parts)
        assert ours[3] is not None and np.array_equal(ours[3], frame.grid(union))
        assert np.array_equal(ours[0], union)
        assert ours[1].tolist() == expected.tolist() and ours[2].tolist() == areas.tolist()
        assert areas.tolist() == [mask.sum()] * 2
