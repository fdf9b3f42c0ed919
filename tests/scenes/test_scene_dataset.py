"""Scenes: the same from the same seed, true to their own texts, and a data set a reader accepts."""

import json

import cv2
import numpy as np
import pytest
import shapely
from pycocotools import mask as coco

from maskgen.scenes import drawing, scene_dataset, texts
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.shapes import COLOURS, SHAPES, outline

SOME = [*range(60), *range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 60)]


def test_the_world_is_as_large_as_promised():
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8


@pytest.mark.parametrize("seed", [0, 7, FIRST_HELD_OUT_SEED])
def test_same_seed_same_bytes(seed):
    assert scene_dataset.encode_image(draw_scene(seed)) == scene_dataset.encode_image(draw_scene(seed))
    assert scene_dataset.scene_query(draw_scene(seed)) == scene_dataset.scene_query(draw_scene(seed))


def test_masks_are_disjoint_and_half_visible():
    for seed in SOME:
        scene = draw_scene(seed)
        assert 2 <= len(scene.things) <= 6
        assert scene.masks.sum(axis=0).max() <= 1
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            assert mask.sum() > 0.45 * shapely.Polygon(thing.outline(48)).area


def test_some_things_hide_others():
    shares = [
        mask.sum() / shapely.Polygon(thing.outline(48)).area
        for scene in map(draw_scene, SOME)
        for thing, mask in zip(scene.things, scene.masks, strict=True)
    ]
    assert np.mean(np.array(shares) < 0.95) > 0.05


@pytest.mark.slow
def test_outlines_cover_the_visible_masks():
    overlaps = []
    for scene in map(draw_scene, SOME):
        for index, mask in enumerate(scene.masks):
            drawn = np.zeros(mask.shape, np.uint8)
            for points in scene.visible_outlines(index):
                assert len(points) <= 16
                assert points[0, 1] == points[:, 1].min()
                cv2.fillPoly(drawn, [np.rint(points * 16 - 8).astype(np.int32)], 1, cv2.LINE_8, 4)
            overlaps.append((mask & (drawn > 0)).sum() / (mask | (drawn > 0)).sum())
    assert np.mean(overlaps) > 0.95
    assert min(overlaps) > 0.8


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_run_clockwise_on_screen(shape):
    x, y = outline(shape).T
    assert np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)) > 0  # y points down


@pytest.mark.parametrize("shape", ["circle", "heart"])
def test_coarse_round_outlines_keep_the_area(shape):
    coarse, fine = (shapely.Polygon(outline(shape, points)).area for points in (12, 400))
    assert coarse == pytest.approx(fine, rel=0.01)


def test_every_kind_of_query_is_asked():
    rng = np.random.default_rng(0)
    queries = [texts.random_query(scene, rng) for scene in map(draw_scene, SOME) for _ in range(4)]
    assert {query.kind for query in queries} == set(texts.KINDS)


def test_a_description_names_exactly_its_targets():
    """Read the plain texts back, word by word, and look for everything they fit."""
    rng = np.random.default_rng(1)
    for scene in map(draw_scene, SOME):
        for _ in range(4):
            query = texts.random_query(scene, rng)
            if query.kind in ("relation", "attribute"):
                continue
            words = set(query.text.lower().replace("?", "").split())
            words |= {word.removesuffix("es") for word in words} | {word.removesuffix("s") for word in words}
            fitting = tuple(
                index
                for index, thing in enumerate(scene.things)
                if words & {"small", "large"} <= {thing.size}
                and words & set(COLOURS) <= {thing.colour}
                and words & set(SHAPES) <= {thing.shape}
            )
            assert fitting == query.targets, query.text


def test_a_relation_holds_for_its_target_alone():
    rng = np.random.default_rng(2)
    for scene in map(draw_scene, SOME):
        query = texts.relation_query(scene, rng)
        if query is None:
            continue
        relation = next(r for r in texts.RELATIONS if f" {r} " in query.text)
        before, after = query.text.strip("?").split(f" {relation} the ")
        (anchor,) = _fitting(scene, after)
        fitting = [i for i in _fitting(scene, before) if i != anchor]
        things = scene.things
        holds = [i for i in fitting if texts.holds_relation(scene, things[i], relation, things[anchor])]
        assert holds == list(query.targets)


def _fitting(scene, text):
    words = set(text.lower().split())
    return [
        index
        for index, thing in enumerate(scene.things)
        if words & {"small", "large"} <= {thing.size}
        and words & set(COLOURS) <= {thing.colour}
        and words & set(SHAPES) <= {thing.shape}
    ]


def test_data_set_has_a_truth_for_every_row(tmp_path):
    scene_dataset.write_scenes(tmp_path, 40, FIRST_HELD_OUT_SEED)
    rows = [json.loads(line) for line in (tmp_path / scene_dataset.ROWS).read_text().splitlines()]
    truth = json.loads((tmp_path / scene_dataset.TRUTH).read_text())
    images = {image["id"]: image for image in truth["images"]}
    by_row = {annotation["row_id"]: annotation for annotation in truth["annotations"]}
    assert [row["id"] for row in rows] == list(by_row)
    empty = 0
    for row in rows:
        annotation = by_row[row["id"]]
        image = images[annotation["image_id"]]
        pixels = cv2.imread(str(tmp_path / row["image"]))
        assert image["file_name"] == row["image"] and pixels is not None
        assert (
            pixels.shape[:2] == (image["height"], image["width"]) == tuple(annotation["segmentation"]["size"])
        )
        mask = coco.decode(annotation["segmentation"])
        assert mask.sum() == annotation["area"]
        assert (annotation["area"] == 0) == (annotation["kind"] == "nothing")
        empty += annotation["area"] == 0
        assert row["conversations"][0]["value"].startswith("<image>\n")
    assert empty


def test_writing_again_changes_nothing_and_a_broken_folder_is_mended(tmp_path):
    scene_dataset.write_scenes(tmp_path, 3, 5)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / scene_dataset.ROWS).touch()
    stamp = (tmp_path / scene_dataset.ROWS).stat().st_mtime_ns
    scene_dataset.write_scenes(tmp_path, 3, 5)
    assert (tmp_path / scene_dataset.ROWS).stat().st_mtime_ns == stamp
    (tmp_path / scene_dataset.MANIFEST).unlink()
    (tmp_path / scene_dataset.ROWS).write_text("cut off")
    scene_dataset.write_scenes(tmp_path, 3, 5)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first


def test_training_and_held_out_seeds_are_apart():
    assert drawing.FIRST_HELD_OUT_SEED == 1_000_000
