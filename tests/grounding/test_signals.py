"""How sure the models were: both engines say the same, and what the model itself says of its answers."""

import numpy as np
import pytest

from maskgen.config import Florence2, Sam
from maskgen.grounding.florence2 import Florence2Proposer
from maskgen.grounding.mirroring import mirrored_picture, mirrored_polygons, mirrored_text
from maskgen.grounding.sam import SamRefiner
from maskgen.sample import Picture, Query, Sample
from maskgen.scenes.drawing import draw_scene

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ["the red circle", "the small star left of the square", "how many circles are there?"]


@pytest.fixture(scope="module")
def scenes():
    drawn = [draw_scene(1_200_000 + seed) for seed in range(3)]
    pictures = [Picture(b"", "png", np.ascontiguousarray(scene.pixels)) for scene in drawn]
    return pictures, [Sample(str(n), "", "", (), Query(text, ())) for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize("beams", [1, 3])
def test_both_engines_measure_the_same(scenes, beams):
    found = []
    for engine in ("fast", "reference"):
        config = Florence2(model="demo", dtype="float32", batch=3, slots=3, engine=engine, num_beams=beams)
        quality = "mirror" if engine == "fast" else "signals"
        found.append(Florence2Proposer(config, "cpu", quality).propose(*scenes))
        assert all(answer.signals is None for answer in Florence2Proposer(config, "cpu").propose(*scenes))
    for fast, reference in zip(*found, strict=True):
        assert vars(fast.signals) == pytest.approx(vars(reference.signals), abs=1e-4)
        signals = fast.signals
        assert signals.min_log_prob <= signals.structure_log_prob <= 0
        assert 0 <= signals.end_prob <= 1 and signals.stability is None
        assert reference.mirrored is None and fast.mirrored is not None


def test_the_mirrored_answer_is_that_of_the_mirrored_question(scenes):
    pictures, samples = scenes
    config = Florence2(model="demo", dtype="float32", batch=3, slots=3)
    both = Florence2Proposer(config, "cpu", "mirror").propose(pictures, samples)
    others = [Sample(s.key, "", "", (), Query(mirrored_text(s.query.text), ())) for s in samples]
    alone = Florence2Proposer(config, "cpu").propose([mirrored_picture(p) for p in pictures], others)
    assert any(answer.polygons for answer in alone)
    for one, two, picture in zip(both, alone, pictures, strict=True):
        assert one.mirrored is not None
        for polygon, other in zip(one.mirrored, mirrored_polygons(two.polygons, picture.width), strict=True):
            assert np.array_equal(polygon, other)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_stability_and_an_unchanged_mask(scenes, engine):
    from shapely import MultiPolygon, box

    pictures = scenes[0]
    regions = [MultiPolygon([box(20, 20, 90, 80), box(100, 30, 130, 60)])] + [
        MultiPolygon([box(10, 10, 60, 60)])
    ] * 2
    config = Sam(model="demo", checkpoint="", dtype="float32", batch=3, engine=engine)
    measured = SamRefiner(config, "cpu", None, stability=True).refine(pictures, regions)
    plain = SamRefiner(config, "cpu").refine(pictures, regions)
    for one, other in zip(measured, plain, strict=True):
        assert np.array_equal(one.mask, other.mask) and one.sam_iou == other.sam_iou
        assert other.stability is None and one.stability is not None and 0 <= one.stability <= 1
    assert len({one.stability for one in measured}) > 1


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the star left of the square", "the star right of the square"),
        ("Left or RIGHT?", "Right or LEFT?"),
        ("the leftmost, right-hand and lefthand one", "the rightmost, left-hand and righthand one"),
        ("a bright thing that was righted, cleft and copyright", None),
        ("", None),
        ("rightwards, LEFTWARD", "leftwards, RIGHTWARD"),
    ],
)
def test_left_and_right_change_places(text, mirrored):
    assert mirrored_text(text) == (text if mirrored is None else mirrored)
    assert mirrored_text(mirrored_text(text)) == text
