"""8-bit linear layers: the arithmetic they claim, and what it costs in precision."""

import copy

import pytest
import torch
from torch import nn

from maskgen.errors import MaskgenError
from maskgen.grounding.fast.fp8 import LARGEST, Fp8Linear, use_fp8
from maskgen.small_models import checkpoint, small_sam

pytestmark = pytest.mark.usefixtures("one_thread")


def to_8_bits(values):
    scale = values.abs().amax(dim=1, keepdim=True) / LARGEST
    return (values / scale).to(torch.float8_e4m3fn).float() * scale


@torch.inference_mode()
def test_it_is_a_product_of_rounded_rows():
    torch.manual_seed(0)
    linear, states = nn.Linear(64, 48), torch.randn(2, 5, 64) * torch.logspace(-3, 3, 5)[:, None]
    ours = Fp8Linear(linear)(states)
    expected = to_8_bits(states.flatten(0, 1)) @ to_8_bits(linear.weight).T + linear.bias
    # What is left is the rounding of the product to bfloat16.
    assert ours.shape == (2, 5, 48) and ours.dtype == torch.float32
    torch.testing.assert_close(ours.flatten(0, 1), expected, rtol=2**-7, atol=1e-4)
    exact = linear(states)
    assert 0 < (ours - exact).norm() / exact.norm() < 0.05


@torch.inference_mode()
def test_an_encoder_in_8_bits_sees_nearly_the_same():
    encoder = small_sam.load(checkpoint("sam")).image_encoder
    given = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    exact = encoder(given)
    use_fp8(encoder, torch.device("cpu"), "refiner.fp8")
    assert any(isinstance(module, Fp8Linear) for module in encoder.modules())
    assert not any(
        isinstance(module, nn.Linear) and module.in_features % 16 == module.out_features % 16 == 0
        for module in encoder.modules()
    )
    near = encoder(given)
    assert 0 < (near - exact).norm() / exact.norm() < 0.2


def test_layers_of_other_sizes_stay_as_they_are():
    module = nn.Sequential(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 16))
    before = copy.deepcopy(module)
    use_fp8(module, torch.device("cpu"), "refiner.fp8")
    assert str(module) == str(before)


def test_a_gpu_without_8_bit_floats_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(
        MaskgenError, match=r"refiner\.fp8: NVIDIA A100 has no 8-bit floats.*refiner\.fp8=false"
    ):
        use_fp8(nn.Linear(16, 16), torch.device("cuda:0"), "refiner.fp8")
