"""The untrained Florence-2 and SAM of the demo: real formats, loadable by the real classes."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from maskgen import small_models
from maskgen.errors import MaskgenError
from maskgen.small_models import small_florence2, small_sam

TEXTS = ["a small red circle", "the blue square left of the green star"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("florence2")
    small_florence2.build(folder, small_florence2.TINY, TEXTS, seed=0)
    return folder


def test_processor_speaks_the_format(folder):
    processor = AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    answer = "<poly><loc_0><loc_999><loc_5><loc_5><loc_7><loc_7></poly>"
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    assert len(ids) == 8
    polygons = processor.post_process_generation(
        answer, task="<REFERRING_EXPRESSION_SEGMENTATION>", image_size=(1000, 1000)
    )
    assert polygons["<REFERRING_EXPRESSION_SEGMENTATION>"]["polygons"] == [[[0, 999, 5, 5, 7, 7]]]
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert set(small_florence2.ADDED_TOKENS) <= set(tokenizer.all_special_tokens)


@pytest.mark.slow
def test_model_reads_its_own_processor(folder):
    processor = AutoProcessor.from_pretrained(folder)
    model = Florence2ForConditionalGeneration.from_pretrained(folder)
    inputs = processor(
        text="<REFERRING_EXPRESSION_SEGMENTATION>" + TEXTS[0],
        images=np.zeros((40, 30, 3), np.uint8),
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == processor.image_token_id).sum() == small_florence2.TINY.image_tokens
    answer = model.generate(**inputs, max_new_tokens=8)
    assert answer[0, :2].tolist() == [2, 0]  # decoder start, forced beginning
    assert model.generation_config.num_beams == 3
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_words_of_the_texts_are_tokens(folder):
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert len(tokenizer("Locate a red circle in the image with mask").input_ids) < 20
    assert tokenizer.decode(tokenizer("Ünïcode ☃").input_ids, skip_special_tokens=True) == "Ünïcode ☃"


def test_demo_sizes_are_as_documented():
    assert small_florence2.DEMO.cells == 8
    assert small_florence2.TINY.image_tokens == 17


def test_seed_decides_the_weights(folder, tmp_path):
    small_florence2.build(tmp_path / "again", small_florence2.TINY, TEXTS, seed=0)
    small_florence2.build(tmp_path / "other", small_florence2.TINY, TEXTS, seed=1)
    first = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_sam_round_trip(tmp_path):
    state = torch.random.get_rng_state()
    small_sam.build(tmp_path, small_sam.TINY, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again = small_sam.load(tmp_path), small_sam.load(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(first.image_encoder(images), again.image_encoder(images))
    assert first.prompt_encoder.mask_input_size == (32, 32)


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_damaged_sam_is_one_sentence(tmp_path, damage):
    small_sam.build(tmp_path, small_sam.TINY, seed=0)
    path = tmp_path / damage
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MaskgenError, match="Write the folder again"):
        small_sam.load(tmp_path)


def test_missing_demo_model_is_one_sentence():
    with pytest.raises(MaskgenError, match="demo model nothing"):
        small_models.checkpoint("nothing")
