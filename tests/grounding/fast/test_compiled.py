"""Compiled encoders: the same features, and one compilation for all sizes up to a power of two."""

import pytest
import torch
from transformers import Florence2ForConditionalGeneration

from helpers.tiny_florence2 import drawing_florence2
from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.encoder import PromptEncoder
from maskgen.grounding.fast.sam_forward import ImageEncoder
from maskgen.small_models import small_sam

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def check(encode):
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled, graphs = Compiled(encode), []
    with torch.inference_mode():
        for count in (4, 3):
            ours, plain = compiled(images[:count]), encode(images[:count])
            assert ours.shape == plain.shape
            assert (ours - plain).abs().max() < 1e-4 * plain.abs().max()
            # Three are filled up to four: nothing is compiled again.
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


def test_sams_encoder():
    torch.manual_seed(0)
    check(ImageEncoder(small_sam.create(small_sam.TINY).image_encoder))


def test_florence2s_image_encoder(tmp_path):
    drawing_florence2(tmp_path, ["a circle"], 0)
    model = Florence2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    check(PromptEncoder(model, DecoderWeights.of(model, torch.float32), 4, 1)._image_tokens)
