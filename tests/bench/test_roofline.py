"""The roofline's rules on single operations, and its totals: a change that costs shows here."""

import pytest
import roofline as budget
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from maskgen.roofline import Ceilings, Roofline, attention_kernel, saved_for_backward

HALF = torch.bfloat16


def test_a_product_costs_its_flops_or_its_bytes():
    with FakeTensorMode(), Roofline() as found:
        square, thin = torch.empty(4096, 4096, dtype=HALF), torch.empty(1, 4096, dtype=HALF)
        with found.part("square"):
            square @ square
        with found.part("thin"):
            thin @ square
    ceilings = Ceilings()
    assert found.cost("square").seconds == pytest.approx(2 * 4096**3 / ceilings.half)
    assert found.cost("thin").seconds == pytest.approx(2 * (4096**2 + 2 * 4096) / ceilings.bandwidth)
    assert (found.cost("square").launches, found.cost("").launches) == (1, 0)


def test_views_are_free_and_a_small_kernel_costs_its_launch():
    with FakeTensorMode(), Roofline() as found:
        small = torch.empty(3, 5)
        small.t()[1:].unsqueeze(0)
        assert found.cost().launches == 0
        small + 1
    assert found.cost().seconds == Ceilings().launch


def test_an_expanded_axis_is_read_once():
    with FakeTensorMode(), Roofline() as found:
        torch.empty(1, 1000).expand(1000, 1000).sum()
    assert found.cost().bytes == 4000 + 4


@pytest.mark.parametrize(
    ("wide", "deep", "dtype", "masked", "kernel"),
    [
        (64, 64, HALF, False, "cudnn"),
        (108, 80, HALF, False, "math"),
        (112, 80, HALF, False, "cudnn"),
        (208, 80, HALF, False, "efficient"),
        (256, 256, HALF, False, "flash"),
        (256, 256, HALF, True, "efficient"),
        (108, 80, torch.float32, False, "efficient"),
        (62, 62, torch.float32, False, "math"),
    ],
)
def test_the_kernel_of_an_attention(wide, deep, dtype, masked, kernel):
    with FakeTensorMode():
        query, value = torch.empty(2, 4, 9, wide, dtype=dtype), torch.empty(2, 4, 9, deep, dtype=dtype)
        mask = torch.empty(9, 9) if masked else None
        assert attention_kernel(query, query, value, mask) == kernel


def test_attention_forward_and_backward():
    with FakeTensorMode(), Roofline() as found:
        query = torch.empty(2, 4, 512, 64, dtype=HALF, requires_grad=True)
        out = F.scaled_dot_product_attention(query, query, query, is_causal=True)
        assert out.shape == query.shape and found.cost().flops == 2 * 2 * 4 * 512**2 * 128 / 2
        with found.part("backward"):
            out.sum().backward()
        assert query.grad is not None and found.cost("backward").flops == 2.5 * found.cost().flops


def test_what_is_saved_for_the_backward_counts_once_and_without_weights():
    weight = torch.zeros(8, 8, requires_grad=True)
    given = torch.zeros(4, 8)
    with saved_for_backward([weight]) as saved:
        F.linear(given, weight).exp()  # its input, and the result of exp
    assert sum(saved.values()) == 4 * (4 * 8 + 4 * 8)


def test_the_decoders_budget():
    (line,) = budget.decode_steps(((64, 512),))
    assert 1e3 * line.cost.seconds == pytest.approx(2.32, rel=0.02)
    assert line.cost.launches == 295


@pytest.mark.slow
def test_the_budget_of_the_encoders():
    found = {line.name: 1e3 * line.cost.seconds / line.items for line in (*budget.encoders(), *budget.sam())}
    assert found == pytest.approx(
        {
            "DaViT and projector, batch 16": 4.73,
            "BART's encoder and keys, batch 16": 0.494,
            "SAM ViT-H's encoder, batch 8": 19.7,
            "prompts and masks, batch 8": 0.267,
        },
        rel=0.02,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "milliseconds", "saved"), [("3", 7.81, 11.0), ("4", 14.97, 45.9)])
def test_the_trainers_budget(stage, milliseconds, saved):
    line = budget.training(stage)
    assert 1e3 * line.cost.seconds / line.items == pytest.approx(milliseconds, rel=0.02)
    assert line.saved is not None and line.saved / 1e9 == pytest.approx(saved, rel=0.02)
