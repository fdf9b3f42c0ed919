"""Scores: of sets whose masks are made from the truth, so the figures are known beforehand."""

import numpy as np
import pytest

from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.evaluation import mask_quality
from maskgen.geometry import Frame
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Picture, Query, Sample
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import TRUTH, encode_image, scene_query, target_mask, write_scenes
from maskgen.sharding.writer import Record, ShardWriter

SEEDS = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 30)
GRID = config.Grid(size=96, cells=12)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, len(SEEDS), SEEDS.start)
    return str(folder / TRUTH)


def finished_set(folder, answer):
    """One shard of all scenes; `answer(scene, query)` gives outcome, polygons and mask."""
    store = Store(str(folder))
    with ShardWriter(store, 0, "demo", GRID, "none") as writer:
        for scene in map(draw_scene, SEEDS):
            asked = scene_query(scene)
            outcome, polygons, mask = answer(scene, asked)
            extension, data = encode_image(scene)
            row_id = f"scene-{scene.seed}"
            sample = Sample(row_id, row_id, "", (), Query(asked.text, ()))
            grounding = Grounding(
                outcome,
                "",
                polygons,
                mask,
                Frame.of(GRID).grid(mask),
                (0.0, 0.0, 1.0, 1.0),
                sam_iou=0.0,
                agreement=0.0,
                coverage=float(mask.mean()),
                query_truncated=False,
                tokens=0,
            )
            picture = Picture(data, extension, scene.pixels)
            writer.add(Record(sample, outcome, "", picture, grounding))
        writer.commit()
    return store


def knowing(scene, asked):
    if not asked.targets:
        return Outcome.NO_GROUNDING, [], target_mask(scene, asked)
    outlines = [points for index in asked.targets for points in scene.visible_outlines(index)]
    return Outcome.OK, outlines, target_mask(scene, asked)


def contrary(scene, asked):
    """Everything but what was asked for."""
    height, width = scene.pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    return Outcome.OK, [corners], ~target_mask(scene, asked)


def test_the_truth_itself_scores_full_marks(tmp_path, truth):
    figures = mask_quality.score(finished_set(tmp_path, knowing), truth)
    assert figures["n"] == len(SEEDS) == figures["named"] + figures["nothing"]
    assert figures["mask_iou"] == figures["grid_iou"] == figures["right"] == figures["refused"] == 1
    assert 0.95 < figures["polygon_iou"] < 1
    low, high = figures["gain_interval"]
    assert 0 < low <= figures["gain"] <= high
    assert figures["gain"] == pytest.approx(1 - figures["polygon_iou"], abs=2e-4)
    assert figures["outcomes_of_nothing"] == {"no_grounding": figures["nothing"]}
    assert sum(kind["n"] for kind in figures["kinds"].values()) == figures["named"]


def test_everything_but_the_truth_scores_nothing(tmp_path, truth):
    figures = mask_quality.score(finished_set(tmp_path, contrary), truth)
    assert figures["mask_iou"] == figures["right"] == figures["refused"] == 0
    assert 0 < figures["polygon_iou"] < 0.3
    assert figures["gain_interval"][1] < 0
    assert figures["outcomes_of_nothing"] == {"ok": figures["nothing"]}


def test_figures_are_rendered_for_a_person(tmp_path, truth):
    lines = mask_quality.render(mask_quality.score(finished_set(tmp_path, knowing), truth))
    assert any("mask IoU after SAM" in line and "1.000" in line for line in lines)


def test_a_foreign_truth_is_refused(tmp_path, truth):
    store = finished_set(tmp_path / "set", knowing)
    write_scenes(tmp_path / "others", 2, 0)
    with pytest.raises(MaskgenError, match="no sample of"):
        mask_quality.score(store, str(tmp_path / "others" / TRUTH))
    (tmp_path / "plain.json").write_text('{"annotations": [{"image_id": 1}]}')
    with pytest.raises(MaskgenError, match="row_id"):
        mask_quality.score(store, str(tmp_path / "plain.json"))
