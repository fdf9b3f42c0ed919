"""The limit's arithmetic, on models small enough to be counted by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from maskgen import config
from maskgen.bench.ceilings import ImageCost, compute_limit, count_cost, meta_sam
from maskgen.bench.device_peaks import Machine, measure_machine
from maskgen.flops import counted
from maskgen.small_models import small_florence2


def test_a_matrix_product_is_two_operations_a_multiply_add():
    layer = nn.Linear(7, 5, bias=False, device="meta")
    assert counted(lambda: layer(torch.zeros(3, 7, device="meta"))) == 2 * 3 * 7 * 5


def test_decoding_waits_for_memory_or_for_arithmetic():
    one = ImageCost(florence=6e9, sam=4e9, mask=1e8, token=1e6, weights=1e8, cached=1e7)
    found = compute_limit(one, Machine(flops=1e12, bandwidth=1e11), tokens=50, slots=10, prompts=2)
    # A step reads 1e8 + 10 * 1e7 bytes, 2 ms, for ten answers; its 10 * 1e6 FLOPs take 0.01 ms.
    assert dataclasses.astuple(found) == pytest.approx((0.010, 0.0002, 0.010))
    assert found.serial == pytest.approx(1 / 0.0202)
    assert found.overlapped == pytest.approx(1 / 0.0102)
    slow = compute_limit(one, Machine(flops=1e9, bandwidth=1e15), tokens=50, slots=10)
    assert slow.decoding == pytest.approx(50 * 1e6 / 1e9)  # now its FLOPs take longer


def test_work_is_counted_without_weights():
    """The parts that a formula can tell: the decoder's, of a model with round numbers."""
    sizes = small_florence2.TINY
    model, _ = small_florence2.untrained(sizes, ["red"], 0, rows=2000)
    masker = config.Sam(model="demo", checkpoint="")
    found = count_cost(model.config, masker, torch.float16, (sizes.image, 20, 10), beams=3)
    width, ff = sizes.width, sizes.feed_forward
    attention = width * width + width
    layer = 4 * attention + 2 * attention + 2 * width * ff + ff + width + 3 * 2 * width
    bias_of_keys_and_values = 2 * width
    read = layer + bias_of_keys_and_values + 2000 * width
    assert found.weights == 2 * read
    assert found.cached == 2 * 2 * width * (20 + 3 * 10 / 2)
    assert found.token == 3 * (2 * read + 4 * width * (20 + 10 / 2))
    assert found.florence > 0 and found.sam > found.mask > 0


def test_the_small_sam_is_counted_as_its_layers_are():
    """Doubling nothing but the batch doubles the count, so what is counted is the images' work."""
    sam = meta_sam(config.Sam(model="demo", checkpoint="")).requires_grad_(False)
    side = sam.image_encoder.img_size
    pixels = torch.zeros(2, 3, side, side, device="meta")
    one, two = counted(lambda: sam.image_encoder(pixels[:1])), counted(lambda: sam.image_encoder(pixels))
    tokens = (side // sam.image_encoder.patch_embed.proj.kernel_size[0]) ** 2
    blocks = len(sam.image_encoder.blocks)
    width = sam.image_encoder.patch_embed.proj.out_channels
    assert two == 2 * one
    assert one > blocks * 2 * 12 * width**2 * tokens  # the products with weights alone


def test_a_machine_is_measured():
    found = measure_machine(torch.device("cpu"), torch.float32)
    assert found.flops > 1e8 and found.bandwidth > 1e7
