"""The shipped models on held-out scenes: floors a little below the figures in docs/demo-models.md."""

import numpy as np
import pytest

from maskgen import config, pixels
from maskgen.grounding import polygon
from maskgen.grounding.grounder import Grounder
from maskgen.grounding.sam import SamRefiner
from maskgen.outcome import Outcome
from maskgen.pretraining import probes
from maskgen.sample import Query, Sample
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query, target_mask
from maskgen.small_models import checkpoint

pytestmark = pytest.mark.slow

SEEDS = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 120)


@pytest.fixture(scope="module")
def world():
    """Scenes, their queries, and the pictures as the pipeline decodes them."""
    scenes = [draw_scene(seed) for seed in SEEDS]
    pictures = [pixels.decode(encode_image(scene)[1], config.Limits()) for scene in scenes]
    return scenes, [scene_query(scene) for scene in scenes], pictures


def overlap(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_sam_finds_the_mask_from_true_outlines(world):
    scenes, queries, pictures = world
    regions, chosen = [], []
    for index, (scene, query) in enumerate(zip(scenes, queries, strict=True)):
        outlines = [points for target in query.targets for points in scene.visible_outlines(target)]
        if outlines:
            regions.append(polygon.clean(outlines, pictures[index].width, pictures[index].height))
            chosen.append(index)
    refiner = SamRefiner(config.Sam(model="demo", checkpoint=""), "cpu")
    found = refiner.refine([pictures[index] for index in chosen], regions)
    overlaps = [
        overlap(refinement.mask, target_mask(scenes[index], queries[index]))
        for index, refinement in zip(chosen, found, strict=True)
    ]
    assert np.mean(overlaps) > 0.89


def test_text_to_mask(world):
    scenes, queries, pictures = world
    samples = [
        Sample(str(scene.seed), str(scene.seed), "", (), Query(query.text, ()))
        for scene, query in zip(scenes, queries, strict=True)
    ]
    found = Grounder(config.load("demo"), "", "cpu").ground(pictures, samples)
    overlaps, refused = [], []
    for scene, query, grounding in zip(scenes, queries, found, strict=True):
        if query.targets:
            overlaps.append(overlap(grounding.mask, target_mask(scene, query)))
        else:
            refused.append(grounding.outcome in (Outcome.NO_GROUNDING, Outcome.SAM_DISAGREES))
    assert np.mean(overlaps) > 0.83
    assert np.mean(np.array(overlaps) > 0.5) > 0.88
    assert np.mean(refused) > 0.85


def test_the_engines_ground_every_scene_alike(world):
    scenes, queries, pictures = world
    samples = [
        Sample(str(scene.seed), str(scene.seed), "", (), Query(query.text, ()))
        for scene, query in zip(scenes, queries, strict=True)
    ]
    fast, plain = (
        Grounder(
            config.load("demo", overrides=[f"proposer.engine={name}", f"refiner.engine={name}"]), "", "cpu"
        )
        for name in ("fast", "reference")
    )
    for ours, theirs in zip(fast.ground(pictures, samples), plain.ground(pictures, samples), strict=True):
        assert ours.outcome is theirs.outcome and ours.tokens == theirs.tokens
        assert all(map(np.array_equal, ours.polygons, theirs.polygons))
        assert np.array_equal(ours.mask, theirs.mask) and np.array_equal(ours.grid, theirs.grid)


def test_the_convnext_and_the_llama_know_their_world():
    figures = probes.measure(checkpoint("convnext"), checkpoint("llama"), scenes=200)
    assert figures["retrieval"]["text_to_image_r5"] > 0.7  # chance is 0.05
    assert figures["retrieval"]["image_to_text_r5"] > 0.7
    assert figures["probe"]["colour"] > 0.9 > 3 * figures["probe"]["colour_most"]
    assert figures["perplexity"]["llama"] < 1.05 * figures["perplexity"]["templates"]
