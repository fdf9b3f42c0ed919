"""Proposer and refiner together: every outcome, and no sample failing another."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from shapely import MultiPolygon, Polygon

from maskgen import small_models
from maskgen.config import parse
from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding import polygon
from maskgen.grounding.grounder import HARMLESS, HARMLESS_REGION, HARMLESS_SAMPLE, Grounder
from maskgen.grounding.interface import Refinement
from maskgen.outcome import Outcome
from maskgen.sample import Grounding, Picture, Proposal, Query, Sample
from maskgen.small_models import small_florence2 as small_florence2
from maskgen.small_models import small_sam as small_sam

pytestmark = pytest.mark.usefixtures("one_thread")

SQUARE = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]])
SLIVER = np.array([[5.0, 5], [40, 5], [40, 5]])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    small_florence2.build(folder / "florence2", small_florence2.TINY, ["a red circle"], seed=0)
    small_sam.build(folder / "sam", small_sam.TINY, seed=0)
    return folder


@pytest.fixture
def make(checkpoints, monkeypatch):
    """Grounders with the tiny models, in float32."""
    monkeypatch.setattr(small_models, "checkpoint", lambda name: checkpoints / name)

    def grounder(grid=None, proposer=None, **refiner):
        refiner = {"kind": "sam", "model": "demo", "checkpoint": ""} | refiner
        if refiner["kind"] == "none":
            refiner = {"kind": "none"}
        tree = {
            "split": "test",
            "source": {"files": ["rows.json"]},
            "text": {"query": "caption"},
            "proposer": {"kind": "florence2", "model": "demo", "dtype": "float32", "max_new_tokens": 8}
            | (proposer or {}),
            "refiner": refiner,
            "grid": {"size": 48, "cells": 6} | (grid or {}),
        }
        return Grounder(parse(tree, "test"), "", "cpu")

    return grounder


class Answers:
    """A proposer that gives the answers it was made with, by the samples' ids."""

    def __init__(self, answers):
        self.answers = answers
        self.room = 1000

    def propose(self, pictures, samples):
        if len(samples) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = [self.answers[int(sample.id)] for sample in samples if sample.id]
        found += [Proposal([SQUARE]) for sample in samples if not sample.id]
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return found


class Shifted:
    """A refiner whose mask is the region's, moved `shift` pixels to the right."""

    def __init__(self, shift, iou=0.9):
        self.shift, self.iou = shift, iou

    def refine(self, pictures, regions):
        return [
            Refinement(
                np.roll(polygon.rasterise(region, picture.width, picture.height), self.shift, axis=1),
                self.iou,
                polygon.box(region),
            )
            for picture, region in zip(pictures, regions, strict=True)
        ]


def pictures(count, height=40, width=60):
    draw = np.random.default_rng(0)
    return [Picture(b"", "png", draw.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(count)]


def samples(count):
    return [Sample(f"key{i}", str(i), "", (), Query(f"circle {'x' * i}", ())) for i in range(count)]


def ground(grounder, answers, refiner=None, batch=16, shape=(40, 60)):
    grounder.proposer = Answers(answers)
    if refiner is not None:
        grounder.refiner = refiner
    return grounder.ground(pictures(len(answers), *shape), samples(len(answers)))


def one(grounder, answer, refiner=None, shape=(40, 60)):
    return ground(grounder, [answer], refiner, shape=shape)[0]


def assert_nothing(grounding, outcome):
    assert grounding.outcome is outcome and grounding.reason
    assert not grounding.mask.any() and grounding.mask.shape == (40, 60)
    assert not grounding.grid.any() and grounding.grid.shape == (6, 6) and grounding.grid.dtype == np.uint8
    assert grounding.box == (0, 0, 0, 0)
    assert (grounding.sam_iou, grounding.agreement, grounding.coverage) == (0, 0, 0)


def test_no_answer(make):
    assert_nothing(one(make(), Proposal(tokens=3)), Outcome.NO_GROUNDING)


def test_degenerate_answer_keeps_its_polygon_for_the_record(make):
    grounding = one(make(), Proposal([SLIVER], query_truncated=True, tokens=9))
    assert_nothing(grounding, Outcome.DEGENERATE_POLYGON)
    assert grounding.polygons == [SLIVER]
    assert grounding.query_truncated and grounding.tokens == 9


@pytest.mark.parametrize("polygons", [[], [SQUARE]])
def test_truncated_answer_is_not_used(make, polygons):
    grounding = one(make(), Proposal(polygons, truncated=True, tokens=8))
    assert_nothing(grounding, Outcome.TRUNCATED_ANSWER)
    assert grounding.polygons == polygons


def test_polygon_alone_is_the_mask(make):
    grounding = one(make(kind="none"), Proposal([SQUARE, SLIVER], tokens=5))
    assert grounding.outcome is Outcome.OK and grounding.reason == ""
    expected = np.zeros((40, 60), bool)
    expected[10:30, 10:30] = True
    np.testing.assert_array_equal(grounding.mask, expected)
    assert grounding.box == (10, 10, 30, 30)
    assert (grounding.agreement, grounding.sam_iou) == (1, 0)
    assert grounding.coverage == 400 / 2400
    assert grounding.grid[3, 2] == 255 and grounding.grid[0, 0] == 0
    assert len(grounding.polygons) == 2


def test_boxes_stand_in_for_polygons(make):
    grounding = one(make(kind="none"), Proposal(boxes=np.array([[10.0, 10, 30, 30], [40, 0, 50, 5]])))
    assert grounding.outcome is Outcome.OK
    assert grounding.mask.sum() == 400 + 50
    assert grounding.box == (10, 0, 50, 30)


def test_agreement_is_the_iou_of_mask_and_polygon(make):
    grounding = one(make(), Proposal([SQUARE]), Shifted(5))
    assert grounding.outcome is Outcome.OK
    assert grounding.agreement == pytest.approx(15 / 25)
    assert grounding.sam_iou == 0.9


@pytest.mark.parametrize(("policy", "first_column"), [("keep", 28), ("polygon", 10)])
def test_disagreement(make, policy, first_column):
    grounding = one(make(on_disagreement=policy), Proposal([SQUARE]), Shifted(18))
    assert grounding.outcome is Outcome.SAM_DISAGREES
    assert grounding.reason == "agreement 0.053 is below 0.3"
    assert grounding.agreement == pytest.approx(2 / 38)
    assert np.flatnonzero(grounding.mask.any(axis=0))[0] == first_column
    assert grounding.grid.any()


def test_an_empty_mask_disagrees_even_at_threshold_zero(make):
    class Empty(Shifted):
        def refine(self, pictures, regions):
            return [Refinement(np.zeros((40, 60), bool), 0.5, polygon.box(region)) for region in regions]

    grounding = one(make(min_agreement=0.0), Proposal([SQUARE]), Empty(0))
    assert grounding.outcome is Outcome.SAM_DISAGREES and not grounding.mask.any()
    replaced = one(make(min_agreement=0.0, on_disagreement="polygon"), Proposal([SQUARE]), Empty(0))
    assert replaced.mask.sum() == 400


def test_mask_outside_the_crop(make):
    corner = np.array([[0.0, 0], [5, 0], [5, 40], [0, 40]])
    cropping = make(grid={"fit": "crop"}, kind="none")
    assert_nothing(one(cropping, Proposal([corner])), Outcome.OUTSIDE_CROP)
    assert one(make(kind="none"), Proposal([corner])).outcome is Outcome.OK


def test_a_score_that_is_no_number(make):
    assert_nothing(one(make(), Proposal([SQUARE]), Shifted(0, float("nan"))), Outcome.ERROR)


@pytest.mark.slow
def test_no_sample_fails_another(make):
    good = Proposal([SQUARE], tokens=7)
    answers = [good, ValueError("at 0x7f"), Proposal(), good, MemoryError(), Proposal([SLIVER]), good]
    results = ground(make(), answers, Shifted(1), batch=3)
    assert [result.outcome for result in results] == [
        Outcome.OK,
        Outcome.ERROR,
        Outcome.NO_GROUNDING,
        Outcome.OK,
        Outcome.OOM,
        Outcome.DEGENERATE_POLYGON,
        Outcome.OK,
    ]
    assert results[1].reason == "unexpected ValueError"
    for i in (1, 2, 4, 5):
        assert_nothing(results[i], results[i].outcome)


def test_a_refiner_that_fails_on_one_region(make):
    class Picky(Shifted):
        def refine(self, pictures, regions):
            if any(region.area < 200 for region in regions):
                raise ZeroDivisionError("float division by zero")
            return super().refine(pictures, regions)

    answers = [Proposal([SQUARE]), Proposal([SQUARE / 3], tokens=4), Proposal([SQUARE])]
    results = ground(make(), answers, Picky(0))
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.ERROR, Outcome.OK]
    assert results[1].tokens == 4 and len(results[1].polygons) == 1


def test_unexpected_trouble_with_a_polygon_is_an_outcome(make, monkeypatch):
    def clean(polygons, width, height):
        if len(polygons) == 2:
            raise TypeError("unhashable")
        return MultiPolygon([Polygon([(0, 0), (9, 0), (9, 9)])])

    monkeypatch.setattr(polygon, "clean", clean)
    results = ground(make(kind="none"), [Proposal([SQUARE, SQUARE]), Proposal([SQUARE])])
    assert [result.outcome for result in results] == [Outcome.ERROR, Outcome.OK]


def test_a_lost_device_ends_the_process(make):
    with pytest.raises(RuntimeError, match="device-side"):
        ground(make(), [Proposal([SQUARE]), RuntimeError("CUDA error: device-side assert triggered")])


class Broken:
    """A model that fails on whatever it is given."""

    def propose(self, pictures, samples):
        raise RuntimeError("cuDNN Frontend error: no engine")

    refine = propose


@pytest.mark.parametrize("model", ["proposer", "refiner"])
def test_a_model_that_always_fails_ends_the_command(make, model):
    grounder = make()
    grounder.proposer = Answers([Proposal([SQUARE])] * 3)
    setattr(grounder, model, Broken())
    with pytest.raises(MaskgenError, match=f"{model}: RuntimeError: cuDNN Frontend error: no engine"):
        grounder.ground(pictures(3), samples(3))


def test_a_model_that_fails_on_every_given_sample_alone_goes_on(make):
    """What they share may be their own: they are outcomes."""
    results = ground(make(), [ValueError("thin")] * 4)
    assert [result.outcome for result in results] == [Outcome.ERROR] * 4


@pytest.mark.parametrize("kind", ["sam", "none"])
def test_what_is_harmless_harms_no_model(make, kind):
    whole = make(kind=kind)
    assert len(whole.proposer.propose([HARMLESS], [HARMLESS_SAMPLE])) == 1
    (found,) = whole.refiner.refine([HARMLESS], [HARMLESS_REGION])
    assert found.mask.shape == (64, 64)


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.slow
def test_memory_that_runs_out_halves_the_models_batch(make, monkeypatch, engine):
    whole = make()
    images, rows = pictures(6), samples(6)
    expected = whole.ground(images, rows)
    halved = make(proposer={"batch": 8, "slots": 2, "engine": engine}, batch=4)
    proposer, encoder = halved.proposer, halved.refiner.sam.image_encoder
    sizes = []

    def write(pictures, prompts, write=proposer._generate):
        sizes.append(len(prompts))
        if sizes[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return write(pictures, prompts)

    monkeypatch.setattr(proposer, "_generate", write)
    results = halved.ground(images, rows)
    assert sizes == [6, 3, 2, 1, 2, 1] and halved._propose.size == 2
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.outcome is theirs.outcome and mine.tokens == theirs.tokens
        np.testing.assert_array_equal(mine.mask, theirs.mask)
    assert encoder.training is False


def test_real_models_end_to_end(make):
    grounder = make(grid={"fit": "pad"})
    shapes = [(40, 60), (90, 20), (7, 7)]
    images = [pictures(1, *shape)[0] for shape in shapes]
    results = grounder.ground(images, samples(3))
    square = grounder._refine.run(images, [polygon.clean([SQUARE / 10], *s[::-1]) for s in shapes])
    again = grounder.ground(images, samples(3))
    for image, result, refinement, second in zip(images, results, square, again, strict=True):
        assert result.outcome.in_tar
        assert result.mask.shape == image.pixels.shape[:2]
        assert not isinstance(refinement, SampleError) and refinement.mask.shape == image.pixels.shape[:2]
        assert_equal(result, second)
    assert grounder.ground([], []) == []


def assert_equal(first: Grounding, second: Grounding):
    for field in fields(Grounding):
        np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name))


def test_scores_are_plain_floats(make):
    for grounding in [one(make(), Proposal([SQUARE])), one(make(kind="none"), Proposal([SQUARE]))]:
        scores = (*grounding.box, grounding.sam_iou, grounding.agreement, grounding.coverage)
        assert all(type(score) is float for score in scores)


def test_description_is_json_and_names_both_models(make):
    description = make().describe()
    assert json.loads(json.dumps(description)) == description
    assert description["proposer"]["kind"] == "florence2"
    assert description["refiner"]["prompt"] == "box"
    assert make(kind="none").describe()["refiner"] == {"kind": "none"}
