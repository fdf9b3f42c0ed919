"""Random weights that write outlines of drawn lengths, by `generate` and by the engine alike."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from maskgen import config
from maskgen.bench import random_checkpoints
from maskgen.bench.answer_lengths import COUNT, WORDS, Lengths
from maskgen.grounding.florence2 import Florence2Proposer
from maskgen.sample import Picture, Query, Sample
from maskgen.scenes import texts
from maskgen.small_models import small_florence2

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = dataclasses.replace(
    small_florence2.TINY, width=64, layers=2, feed_forward=128, positions=256, words=900, attention_heads=4
)
LENGTHS = Lengths(40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clockwork")
    random_checkpoints.write_florence2(place, SIZES, 3000, LENGTHS, texts.vocabulary(), torch.float32)
    return place


def answers(folder, engine, words, beams=3):
    settings = {"model": str(folder), "dtype": "float32", "max_new_tokens": 150, "engine": engine}
    proposer = Florence2Proposer(
        config.Florence2.model_validate(settings | {"num_beams": beams, "slots": 4, "batch": 4}), "cpu"
    )
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (50, 60, 3), dtype=np.uint8) for _ in words]
    pictures = [Picture(b"", "png", each) for each in pixels]
    samples = [
        Sample(str(n), str(n), "", (), Query(f"the red star {word}", ())) for n, word in enumerate(words)
    ]
    return proposer.propose(pictures, samples)


def test_lengths_have_the_mean_that_was_asked_for():
    values = Lengths(150).values
    assert len(values) == len(WORDS) == COUNT
    assert np.mean(values) == pytest.approx(150, rel=0.03)
    assert values == sorted(values) and values[0] < 75 < 300 < values[-1]
    assert Lengths(150).draw(5, 1) == Lengths(150).draw(5, 1)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_an_answer_is_as_long_as_its_word_says(folder, engine):
    chosen = range(0, COUNT, 5)
    found = answers(folder, engine, [WORDS[number] for number in chosen])
    for number, proposal in zip(chosen, found, strict=True):
        expected = LENGTHS.values[number]
        assert abs(proposal.tokens - expected) <= 3 + 0.12 * expected
        assert not proposal.truncated
        (outline,) = proposal.polygons
        assert len(outline) >= (proposal.tokens - 4) // 2
        assert np.ptp(outline[:, 1]) > 1  # it encloses something


def test_both_engines_write_the_same(folder):
    words = [WORDS[number] for number in (3, 30, 11, 17, 25)]
    ours, theirs = answers(folder, "fast", words), answers(folder, "reference", words)
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(np.array_equal, one.polygons, other.polygons))


def test_the_model_has_its_own_words_to_write_by(folder):
    model = Florence2ForConditionalGeneration.from_pretrained(folder)
    assert model.lm_head.weight.shape == (3000, 64)
    assert model.lm_head.weight.data_ptr() != model.model.language_model.shared.weight.data_ptr()
    assert len(AutoProcessor.from_pretrained(folder).tokenizer) < 3000


def test_weights_of_full_size_are_the_published_models(monkeypatch):
    """By their parameters, on meta: 0.77 billion tied, and another head."""
    with torch.device("meta"):
        config_ = small_florence2.florence2_config(
            random_checkpoints.LARGE, random_checkpoints.LARGE_ROWS, 1200
        )
        model = Florence2ForConditionalGeneration(config_)
    total = sum(weight.numel() for weight in model.parameters())
    assert total == pytest.approx(0.77e9, rel=0.02)
    assert random_checkpoints.LARGE.image_tokens == 577
