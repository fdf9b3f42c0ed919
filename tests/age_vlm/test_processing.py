"""Pixels by the grid's own geometry, prompts by the chat template, both loaded by the Auto classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
)

from helpers import tiny_age_vlm as tiny
from maskgen.age_vlm import AgeVlmImageProcessor, AgeVlmProcessor
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.age_vlm.image_processing import normalise
from maskgen.geometry import Frame
from maskgen.sample import Turn
from maskgen.small_models import checkpoint


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(checkpoint("llama"))


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_pixels_go_through_the_frame(fit):
    pixels = picture(50, 30)
    found = AgeVlmImageProcessor(64, 4, fit)([Image.fromarray(pixels), pixels])
    framed = torch.from_numpy(Frame(fit, 64, 4).image(pixels))[None]
    assert torch.equal(found["pixel_values"][:1], normalise(framed))
    assert torch.equal(found["pixel_values"][0], found["pixel_values"][1])
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = (framed[0].numpy() / 255 - mean) / std
    assert np.allclose(found["pixel_values"][0].permute(1, 2, 0), expected, atol=1e-5)
    assert ("image_cells" in found) == (fit == "pad")


def test_padding_cells_are_told():
    cells = AgeVlmImageProcessor(64, 4, "pad")(picture(60, 30))["image_cells"].view(4, 4)
    assert cells.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]


def test_a_picture_of_another_kind_is_a_sentence():
    with pytest.raises(ValueError, match="give a PIL image"):
        AgeVlmImageProcessor(64, 4)(np.zeros((4, 4), np.float32))


def test_five_lines_of_python(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = tiny.age_vlm()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    AgeVlmProcessor(AgeVlmImageProcessor(tiny.SIDE, 4), tokenizer).save_pretrained(tmp_path)

    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is the star?"}]}
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=Image.fromarray(picture(40, 40)), text=prompt)
    answer = model.generate(**inputs, max_new_tokens=5)

    assert inputs["input_ids"].tolist() == [
        ChatTemplate(tokenizer).prompt([Turn("human", "<image>\nWhere is the star?")]).input_ids
    ]
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), AgeVlmImageProcessor)


def test_prompts_without_an_image(tokenizer):
    processor = AgeVlmProcessor(AgeVlmImageProcessor(64, 4), tokenizer)
    found = processor(
        images=[picture(9, 9), None], text=["<s>User: a\nAssistant:", "<s>User: longer text\nAssistant:"]
    )
    assert found["has_image"].tolist() == [True, False] and len(found["pixel_values"]) == 1
    assert found["attention_mask"][0, 0] == 0 and found["attention_mask"][:, -1].all()
    with pytest.raises(ValueError, match="1 images for 2 prompts"):
        processor(images=[picture(9, 9)], text=["<s>a", "<s>b"])


def test_transparency_is_laid_over_white_as_in_training():
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    white = Image.new("RGB", (64, 64), "white")
    images = AgeVlmImageProcessor(64, 4)([clear, white])["pixel_values"]
    assert torch.equal(images[0], images[1])
