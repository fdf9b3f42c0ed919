"""GroundingTasks: what the small models are taught is what the pipeline asks of them, and true."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from maskgen.grounding import polygon
from maskgen.pretraining import train_sam
from maskgen.pretraining.florence2_tasks import MASK_CELLS, TASK, GroundingTasks, polygon_answer
from maskgen.scenes import texts
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import target_mask
from maskgen.small_models import small_florence2, small_sam


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("florence2")
    small_florence2.build(folder, small_florence2.TINY, texts.vocabulary(), 0)
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def tasks(processor):
    return GroundingTasks(processor, side=64, cells=4, steps=100, scenes=3, queries=2)


def test_a_step_is_the_same_every_time(tasks):
    first, again = tasks[5], tasks[5]
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pixels"], tasks[6]["pixels"])


def test_shapes(tasks):
    batch = tasks[8]
    assert batch["pixels"].shape == (3, 3, 64, 64)
    assert batch["prompt"].shape == batch["prompt_mask"].shape
    assert len(batch["prompt"]) == len(batch["labels"]) == 6
    assert batch["shape"].shape == batch["colour"].shape == batch["size"].shape == (3, 4, 4)
    assert batch["box"].shape == (3, 4, 4, 4)
    assert batch["referred"].shape == (6, MASK_CELLS, MASK_CELLS)


def test_prompts_are_the_processors_own(processor, tasks):
    text = "Where is the small red star?"
    pixels = np.zeros((50, 60, 3), np.uint8)
    ids = processor(text=TASK + text, images=pixels, return_tensors="pt")["input_ids"][0]
    words = ids[ids != processor.image_token_id].tolist()
    assert tasks.prompt_ids(text) == words


def test_answers_parse_back_to_the_target(processor):
    overlaps = []
    for scene in map(draw_scene, range(40)):
        query = texts.random_query(scene, np.random.default_rng(scene.seed))
        height, width = scene.pixels.shape[:2]
        written = f"</s><s>{polygon_answer(scene, query)}</s>"
        parsed = processor.post_process_generation(written, task=TASK, image_size=(1000, 1000))[TASK]
        bins = [np.reshape(points, (-1, 2)) for instance in parsed["polygons"] for points in instance]
        if not query.targets:
            assert not bins
            continue
        region = polygon.clean([(b + 0.5) / 1000 * [width, height] for b in bins], width, height)
        mask, truth = polygon.rasterise(region, width, height), target_mask(scene, query)
        overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(overlaps) > 0.93
    assert min(overlaps) > 0.75


def test_the_referred_cells_are_the_target(tasks):
    batch = tasks[3]
    named = batch["labels"].gt(3).any(dim=1)
    assert torch.equal(named, batch["referred"].flatten(1).any(dim=1))
    assert torch.equal(named, (batch["referred_box"][:, 2] > 0))


def test_sam_is_prompted_with_boxes_that_hold_the_masks():
    prompts = train_sam.BoxPrompts(small_sam.create(small_sam.TINY), steps=10, scenes=3, jitter=0.0)
    batch = prompts[2]
    assert batch["counts"].sum() == len(batch["boxes"]) == len(batch["masks"])
    for box, mask in zip(batch["boxes"], batch["masks"], strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        exact = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (box - exact).abs().max() <= 1.5
    loose = train_sam.BoxPrompts(small_sam.create(small_sam.TINY), steps=10, scenes=3, jitter=0.2)[2]
    assert not torch.equal(loose["boxes"], batch["boxes"])
    assert torch.equal(loose["masks"], batch["masks"])
