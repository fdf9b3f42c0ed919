"""Pairs without leaks, figures of readers that know everything or nothing, and a LLaVA of transformers."""

import json
from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import peaked_attention as peaked
from helpers import small_training, tiny_llava
from maskgen.analysis import histograms, text_report
from maskgen.analysis.llava import LlavaReader
from maskgen.analysis.model_readers import load_state_reader
from maskgen.analysis.samples import Item, ShardItems, question_item
from maskgen.analysis.similarity import measure_similarity, pair_items
from maskgen.errors import MaskgenError


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=30, max_size=60), st.integers(0, 9)
)
@pytest.mark.slow
def test_partners_are_of_the_same_fold_with_another_picture_and_text(named, seed):
    pictures, texts = [f"p{picture}" for picture, _ in named], [f"t{text}" for _, text in named]
    if len(set(pictures)) < 10:
        with pytest.raises(MaskgenError, match="different pictures"):
            pair_items(pictures, texts, 5, seed)
        return
    rows, partners, folds = pair_items(pictures, texts, 5, seed)
    assert len(set(rows.tolist())) == len(rows)
    fold_of = {pictures[row]: fold for row, fold in zip(rows, folds, strict=True)}
    for row, partner, fold in zip(rows, partners, folds, strict=True):
        assert pictures[row] != pictures[partner] and texts[row] != texts[partner]
        assert fold_of[pictures[row]] == fold
        assert fold_of.get(pictures[partner], fold) == fold


class Knowing:
    """States that are alike where the picture's first pixel is the text's number, or that ignore both."""

    name, model_type = "knowing", "test"

    def __init__(self, knows: bool):
        self.knows = knows
        self.random = np.random.default_rng(0)

    def hidden_states(self, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for item in items:
            image = self.random.normal(size=8)
            match = self.knows and int(item.text) == int(item.pixels[0, 0, 0])
            yield np.stack([image, image]), image[None] if match else self.random.normal(size=(3, 8))


def numbered(count: int = 60) -> Sequence[Item]:
    return [question_item(np.full((4, 4, 3), n, np.uint8), str(n)) for n in range(count)]


def test_a_reader_that_knows_and_one_that_does_not():
    knows, ignorant = (measure_similarity(Knowing(knows), numbered()) for knows in (True, False))
    assert knows.matching.min() > 0.999 and knows.auroc.value > 0.99 and knows.overlap < 0.1
    assert len(knows.matching) == len(knows.other) == 60 and knows.skipped == 0
    assert np.mean(knows.probe) > 0.8
    assert 0.3 < ignorant.auroc.value < 0.7 and ignorant.overlap > 0.5
    assert ignorant.auroc.low < ignorant.auroc.value < ignorant.auroc.high
    assert 0.3 < np.mean(ignorant.probe) < 0.7


def test_pairs_of_tokens_have_the_mean_of_their_cosines():
    found = measure_similarity(Knowing(False), numbered(), "pairs")
    states = list(Knowing(False).hidden_states(numbered()))
    cosines = [
        np.mean(
            [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for one in image for other in text]
        )
        for image, text in states
    ]
    np.testing.assert_allclose(found.matching, cosines)
    assert found.matching[0] != pytest.approx(measure_similarity(Knowing(False), numbered()).matching[0])


def test_the_same_seed_says_the_same():
    one, other = (measure_similarity(Knowing(True), numbered(), seed=3).to_dict() for _ in range(2))
    assert one == other
    assert sum(one["histogram"]["matching"]) == 60


def test_too_few_pictures_are_said():
    with pytest.raises(MaskgenError, match="6 different pictures: 10"):
        measure_similarity(Knowing(True), numbered(6))
    with pytest.raises(MaskgenError, match="too few texts"):
        measure_similarity(Knowing(True), [question_item(item.pixels, "1") for item in numbered()])


@pytest.mark.slow
def test_the_drawing_is_svg_and_png_with_the_figures_in_words():
    found = [measure_similarity(Knowing(knows), numbered()) for knows in (True, False)]
    drawing = histograms.draw_histograms(found)
    words = " ".join(ElementTree.fromstring(drawing.svg()).itertext())
    assert f"AUROC {found[0].auroc.value:.3f}" in words and "non-matching, mean" in words
    image = np.asarray(drawing.image())
    assert image.shape == (drawing.height * 2, drawing.width * 2, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 5
    assert "linear probe" in text_report.similarity_table(found)


def test_both_architectures_and_a_llava_on_shards(tmp_path):
    items = ShardItems([small_training.shards(tmp_path / "set", 14)])
    folders = [peaked.model_folder(tmp_path / kind, kind) for kind in ("age_vlm", "concat_vlm")]
    for folder in [*folders, tiny_llava.write(tmp_path / "llava")]:
        found = measure_similarity(load_state_reader(folder), items, seed=1)
        assert found.name == folder.name and len(found.matching) + found.skipped == 14
        assert np.isfinite(found.matching).all() and not np.array_equal(found.matching, found.other)
        assert json.dumps(found.to_dict())


@pytest.mark.parametrize("template", [tiny_llava.TEMPLATE, None])
def test_a_llavas_states_are_those_of_its_image_tokens_and_of_the_text(tmp_path, template):
    reader = LlavaReader.load(tiny_llava.write(tmp_path / "llava", template), device="cpu")
    item = question_item(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8), "red star")
    ((image, text),) = reader.hidden_states([item])
    assert image.shape == (16, 16) and text.shape == (len("red star"), 16)
    inputs = reader.processor(
        images=item.pixels, text="USER: <image>\nred star ASSISTANT:", return_tensors="pt"
    )
    with torch.inference_mode():
        states = reader.model(**inputs, output_hidden_states=True).hidden_states[-1][0].numpy()
    start = (inputs["input_ids"][0] == reader.model.config.image_token_index).nonzero()[-1].item() + 2
    np.testing.assert_allclose(text, states[start : start + 8], atol=1e-5)
    np.testing.assert_allclose(image, states[start - 17 : start - 1], atol=1e-5)


@pytest.mark.slow
def test_folders_that_hold_no_such_model_are_explained(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(MaskgenError, match="cannot be loaded as an image-text-to-text model"):
        load_state_reader(folder)
