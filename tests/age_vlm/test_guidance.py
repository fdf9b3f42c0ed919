"""Eq. 3 by its own words, and where it must not break."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskgen.age_vlm.guidance import guidance_loss


def test_the_literal_reading():
    maps = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    masks = torch.tensor([[False, True, True, False]])
    found = guidance_loss(maps, masks)
    assert found.loss.item() == pytest.approx(-math.log(2 * 0.5 / (2 + 1)))
    assert found.floor.item() == pytest.approx(math.log(1.5))
    assert found.mass.item() == pytest.approx(0.5)


def test_max_and_minmax():
    maps = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    masks = torch.tensor([[False, True, True, False]])
    peak = guidance_loss(maps, masks, "max")
    assert peak.loss.item() == pytest.approx(-math.log(2 * 1.25 / (2 + 2.5)))
    stretched = guidance_loss(maps, masks, "minmax")
    assert stretched.loss.item() == pytest.approx(-math.log(2 * 1.0 / (2 + 2.0)))
    assert not peak.floor.any() and not stretched.floor.any()


@pytest.mark.parametrize("normalise", ["sum", "max", "minmax"])
def test_empty_masks_count_for_nothing(normalise):
    maps = torch.rand(2, 3, 9).softmax(dim=-1).requires_grad_()
    masks = torch.zeros(3, 9, dtype=torch.bool)
    masks[1, 4] = True
    found = guidance_loss(maps, masks, normalise)
    assert found.valid.tolist() == [False, True, False]
    assert not found.loss[:, [0, 2]].any() and not found.mass[:, [0, 2]].any()
    found.loss.sum().backward()
    assert (
        maps.grad is not None
        and torch.isfinite(maps.grad).all()
        and not maps.grad[:, [0, 2]].any()
        and maps.grad[:, 1].any()
    )


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.sampled_from(["sum", "max", "minmax"]),
)
def test_it_is_finite_and_not_below_its_floor(values, mask, normalise):
    maps = torch.tensor(values)[None, None].requires_grad_()
    found = guidance_loss(maps, torch.tensor(mask)[None], normalise)
    assert torch.isfinite(found.loss).all() and (found.mass >= 0).all() and (found.mass <= 1 + 1e-6).all()
    assert (found.loss >= found.floor - 1e-5).all() or normalise != "sum"
    found.loss.sum().backward()
    assert maps.grad is not None and torch.isfinite(maps.grad).all()


def test_half_precision_is_widened():
    maps = torch.full((1, 1, 576), 1 / 576, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert guidance_loss(maps, torch.ones(1, 576, dtype=torch.bool)).loss.dtype == torch.float32
