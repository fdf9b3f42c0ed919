"""`AttentionReader` gives what the models give: maps, maps of each token, padding and hidden states."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import peaked_attention as peaked
from helpers import small_training
from maskgen.age_vlm import AgeVlmProcessor
from maskgen.analysis.attention_maps import AttentionReader, short_name
from maskgen.analysis.samples import Item, ShardItems, question_item
from maskgen.errors import MaskgenError
from maskgen.sample import Turn
from maskgen.training.collate import collate
from maskgen.training.dataset import ShardDataset
from maskgen.training.model_folders import normaliser


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {kind: peaked.model_folder(place / kind / "model", kind) for kind in ("age_vlm", "concat_vlm")}


@pytest.fixture(params=["age_vlm", "concat_vlm"])
def reader(request, folders) -> AttentionReader:
    return AttentionReader.load(folders[request.param], device="cpu")


def picture(seed: int = 0, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.slow
def test_the_maps_are_those_that_training_guides(reader, folders, tmp_path):
    place = small_training.shards(tmp_path / "set", 9)
    dataset = ShardDataset([place], reader.template, reader.frame)
    batch = collate([dataset[n] for n in range(9)], reader.template.pad_id)
    with torch.inference_mode():
        wanted = reader.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=normaliser(folders[reader.model_type])(batch.pixels),
            query_mask=batch.query_mask,
            guided=batch.guided,
        ).guidance_maps.numpy()
    items = ShardItems([place], reader.frame)
    assert len(items) == 3
    for number, (item, attention) in enumerate(reader.attention_maps(items)):
        np.testing.assert_allclose(attention.maps.reshape(len(wanted), -1), wanted[:, number], atol=1e-6)
        assert item.mask is not None
        np.testing.assert_array_equal(item.mask.ravel(), batch.masks[number].numpy())


def test_one_by_one_or_together(reader):
    items = [question_item(picture(n), "where is it" * (n + 1)) for n in range(3)]
    together = [attention.maps for _, attention in reader.attention_maps(items)]
    alone = [attention.maps for item in items for _, attention in reader.attention_maps([item])]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_the_tokens_maps_have_the_texts_map_as_their_mean(reader):
    item = question_item(picture(), "red star")
    ((_, attention),) = reader.attention_maps([item])
    tokens = reader.token_attention_maps(item)
    assert "".join(word for word, _ in tokens) == "red star"
    np.testing.assert_allclose(np.mean([each.maps for _, each in tokens], axis=0), attention.maps, atol=1e-6)
    first, last = tokens[0][1].maps, tokens[-1][1].maps
    assert np.abs(first - last).max() > 0.01  # or the mean would say nothing


def test_attention_sums_to_one_or_to_what_the_image_gets(reader):
    ((_, attention),) = reader.attention_maps([question_item(picture(), "where?")])
    sums = attention.maps.sum(axis=(1, 2))
    if reader.model_type == "age_vlm":
        assert reader.layers == ["slot 1", "slot 3"]
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    else:
        assert reader.layers == ["first self-attention"]
        assert 0 < sums[0] < 1


def test_what_follows_the_text_does_not_matter(reader):
    short = question_item(picture(), "where?")
    turns = (*short.turns, Turn("gpt", "there"), Turn("human", "and now?"))
    ((_, one), (_, other)) = reader.attention_maps([short, Item(short.pixels, turns, short.spans)])
    np.testing.assert_array_equal(one.maps, other.maps)


@pytest.mark.slow
def test_padding_is_closed_to_cross_attention_and_open_to_concat(folders):
    for kind, closed in (("age_vlm", True), ("concat_vlm", False)):
        reader = AttentionReader.load(folders[kind], fit="pad", device="cpu")
        ((_, attention),) = reader.attention_maps([question_item(picture(0, 10, 40), "where?")])
        assert attention.image_cells.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
        assert reader.masks_padding == closed
        np.testing.assert_array_equal(
            attention.attendable, attention.image_cells if closed else np.ones((4, 4), bool)
        )
        assert (attention.maps[:, ~attention.image_cells].max() == 0) == closed


def test_states_are_of_the_image_and_of_the_text(reader, folders):
    item = question_item(picture(), "red star")
    ((image, text),) = reader.hidden_states([item])
    assert image.shape == (16, 16) and text.shape == (len("red star"), 16)
    processor = AgeVlmProcessor.from_pretrained(folders[reader.model_type])
    inputs = processor(images=item.pixels, text="<s>User: red star\nAssistant:")
    with torch.inference_mode():
        out = reader.model(**inputs)
    start = 1 + len("User: ")
    np.testing.assert_allclose(text, out.text_states[0, start : start + 8].numpy(), atol=1e-5)
    np.testing.assert_allclose(image, out.image_states[0].numpy(), atol=1e-5)


def test_a_text_without_tokens_asks_nothing(reader):
    ((_, attention),) = reader.attention_maps([question_item(picture(), "")])
    assert attention.query_tokens == 0 and not attention.maps.any()


def test_a_model_is_named_after_its_run(folders, tmp_path):
    run = folders["age_vlm"].parent
    assert AttentionReader.load(run, device="cpu").name == short_name(run / "model") == "age_vlm"
    assert short_name(tmp_path / "stage-2" / "model") == f"{tmp_path.name}/stage-2"
    with pytest.raises(MaskgenError, match="--fit stretch"):
        AttentionReader.load(run, fit="stretch")
