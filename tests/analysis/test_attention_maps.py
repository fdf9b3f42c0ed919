"""Gaze says what the models say: the same maps, token by token too, padding and states included."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import peaked_attention as awake
from helpers import small_training as small_runs
from maskgen.age_vlm import AgeVlmProcessor
from maskgen.analysis.attention_maps import Gaze, short_name
from maskgen.analysis.samples import Item, ShardItems, asked
from maskgen.errors import MaskgenError
from maskgen.sample import Turn
from maskgen.training.collate import collate
from maskgen.training.dataset import ShardDataset
from maskgen.training.model_folders import normaliser


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {kind: awake.model_folder(place / kind / "model", kind) for kind in ("age_vlm", "concat_vlm")}


@pytest.fixture(params=["age_vlm", "concat_vlm"])
def gaze(request, folders) -> Gaze:
    return Gaze.load(folders[request.param], device="cpu")


def picture(seed: int = 0, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def test_the_maps_are_those_that_training_guides(gaze, folders, tmp_path):
    place = small_runs.shards(tmp_path / "set", 9)
    dataset = ShardDataset([place], gaze.template, gaze.frame)
    batch = collate([dataset[n] for n in range(9)], gaze.template.pad_id)
    with torch.inference_mode():
        wanted = gaze.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=normaliser(folders[gaze.kind])(batch.pixels),
            query_mask=batch.query_mask,
            guided=batch.guided,
        ).guidance_maps.numpy()
    items = ShardItems([place], gaze.frame)
    assert len(items) == 3
    for number, (item, look) in enumerate(gaze.looks(items)):
        np.testing.assert_allclose(look.maps.reshape(len(wanted), -1), wanted[:, number], atol=1e-6)
        assert item.mask is not None
        np.testing.assert_array_equal(item.mask.ravel(), batch.masks[number].numpy())


def test_one_by_one_or_together(gaze):
    items = [asked(picture(n), "where is it" * (n + 1)) for n in range(3)]
    together = [look.maps for _, look in gaze.looks(items)]
    alone = [look.maps for item in items for _, look in gaze.looks([item])]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_tokens_maps_have_the_texts_map_as_their_mean(gaze):
    item = asked(picture(), "red star")
    ((_, look),) = gaze.looks([item])
    tokens = gaze.tokens(item)
    assert "".join(word for word, _ in tokens) == "red star"
    np.testing.assert_allclose(np.mean([each.maps for _, each in tokens], axis=0), look.maps, atol=1e-6)
    first, last = tokens[0][1].maps, tokens[-1][1].maps
    assert np.abs(first - last).max() > 0.01  # or the mean would say nothing


def test_attention_sums_to_one_or_to_what_the_image_gets(gaze):
    ((_, look),) = gaze.looks([asked(picture(), "where?")])
    sums = look.maps.sum(axis=(1, 2))
    if gaze.kind == "age_vlm":
        assert gaze.layers == ["slot 1", "slot 3"]
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    else:
        assert gaze.layers == ["first self-attention"]
        assert 0 < sums[0] < 1


def test_what_follows_the_text_does_not_matter(gaze):
    short = asked(picture(), "where?")
    turns = (*short.turns, Turn("gpt", "there"), Turn("human", "and now?"))
    ((_, one), (_, other)) = gaze.looks([short, Item(short.pixels, turns, short.spans)])
    np.testing.assert_array_equal(one.maps, other.maps)


def test_padding_is_closed_to_cross_attention_and_open_to_concat(folders):
    for kind, closed in (("age_vlm", True), ("concat_vlm", False)):
        gaze = Gaze.load(folders[kind], fit="pad", device="cpu")
        ((_, look),) = gaze.looks([asked(picture(0, 10, 40), "where?")])
        assert look.image.tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
        assert gaze.masks_padding == closed
        np.testing.assert_array_equal(look.open, look.image if closed else np.ones((4, 4), bool))
        assert (look.maps[:, ~look.image].max() == 0) == closed


def test_states_are_of_the_image_and_of_the_text(gaze, folders):
    item = asked(picture(), "red star")
    ((image, text),) = gaze.states([item])
    assert image.shape == (16, 16) and text.shape == (len("red star"), 16)
    processor = AgeVlmProcessor.from_pretrained(folders[gaze.kind])
    inputs = processor(images=item.pixels, text="<s>User: red star\nAssistant:")
    with torch.inference_mode():
        out = gaze.model(**inputs)
    start = 1 + len("User: ")
    np.testing.assert_allclose(text, out.text_states[0, start : start + 8].numpy(), atol=1e-5)
    np.testing.assert_allclose(image, out.image_states[0].numpy(), atol=1e-5)


def test_a_text_without_tokens_asks_nothing(gaze):
    ((_, look),) = gaze.looks([asked(picture(), "")])
    assert look.asking == 0 and not look.maps.any()


def test_a_model_is_named_after_its_run(folders, tmp_path):
    run = folders["age_vlm"].parent
    assert Gaze.load(run, device="cpu").name == short_name(run / "model") == "age_vlm"
    assert short_name(tmp_path / "stage-2" / "model") == f"{tmp_path.name}/stage-2"
    with pytest.raises(MaskgenError, match="--fit stretch"):
        Gaze.load(run, fit="stretch")
