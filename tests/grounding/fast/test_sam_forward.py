"""SAM's forward, ours against segment-anything's own on the same weights (fp32)."""

import dataclasses

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from maskgen import config, pixels
from maskgen.grounding import polygon
from maskgen.grounding.fast.sam_forward import ImageEncoder, _with_relative_positions, decode
from maskgen.grounding.sam import SamRefiner
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query
from maskgen.small_models import checkpoint, small_sam

pytestmark = pytest.mark.usefixtures("one_thread")

# Windows that fit, that need padding, that are larger than the map; and none.
SIZES = [small_sam.TINY, *(dataclasses.replace(small_sam.TINY, window=window) for window in (3, 5, 11, 0))]


def model(sizes, seed=0):
    torch.manual_seed(seed)
    made = small_sam.create(sizes)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "rel_pos" in name or name.endswith("bias") or "pos_embed" in name:
                weight.normal_(0, 0.3)  # the package starts them at zero, where nothing can go wrong
    return made


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"window {sizes.window}")
@torch.inference_mode()
def test_the_encoder_gives_the_same_embeddings(sizes):
    made = model(sizes)
    given = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours, theirs = ImageEncoder(made.image_encoder)(given), made.image_encoder(given)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_heads_have_a_width_that_fused_attention_takes():
    """Of ViT-H: windows of 14 cells a side, and 64 cells a side without windows."""
    attention = Attention(1280, 16, use_rel_pos=True, input_size=(64, 64))
    for side, width in ((14, 112), (64, 208)):
        attention.rel_pos_h = attention.rel_pos_w = torch.nn.Parameter(torch.randn(2 * side - 1, 80))
        states = torch.randn(1, 2, side * side, 80)
        query, key = _with_relative_positions(attention, states, states, (side, side))
        assert query.shape == key.shape == (1, 2, side * side, width)


@torch.inference_mode()
def test_the_decoder_takes_the_prompts_of_many_images(sizes=small_sam.TINY):
    made = model(sizes)
    given = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    embeddings = made.image_encoder(given)
    boxes = torch.tensor([[5.0, 5, 30, 40], [10, 2, 60, 50], [0, 0, 20, 20], [30, 30, 60, 60]])
    owners = torch.tensor([0, 2, 2, 1])
    sparse, dense = made.prompt_encoder(points=None, boxes=boxes, masks=None)
    places = made.prompt_encoder.get_dense_pe()
    masks, ious = decode(made.mask_decoder, embeddings, owners, places, sparse, dense)
    for prompt, owner in enumerate(owners):
        expected_masks, expected_ious = made.mask_decoder(
            image_embeddings=embeddings[owner][None],
            image_pe=places,
            sparse_prompt_embeddings=sparse[prompt][None],
            dense_prompt_embeddings=dense[prompt][None],
            multimask_output=True,
        )
        assert (masks[prompt] - expected_masks[0]).abs().max() < 1e-4
        assert (ious[prompt] - expected_ious[0]).abs().max() < 1e-5


def test_the_shipped_models_embeddings_are_the_same():
    made = small_sam.load(checkpoint("sam"))
    given = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = ImageEncoder(made.image_encoder)(given), made.image_encoder(given)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["box", "box+points", "box+points+prior"])
def test_masks_of_held_out_scenes_are_the_references(prompt):
    scenes = [draw_scene(FIRST_HELD_OUT_SEED + 500 + number) for number in range(60)]
    pictures, regions = [], []
    for scene in scenes:
        outlines = [
            points for target in scene_query(scene).targets for points in scene.visible_outlines(target)
        ]
        if outlines:
            pictures.append(pixels.decode(encode_image(scene)[1], config.Limits()))
            regions.append(polygon.clean(outlines, pictures[-1].width, pictures[-1].height))
    found = {
        engine: SamRefiner(
            config.Sam(model="demo", checkpoint="", prompt=prompt, engine=engine), "cpu"
        ).refine(pictures, regions)
        for engine in ("fast", "reference")
    }
    for ours, theirs in zip(found["fast"], found["reference"], strict=True):
        assert np.array_equal(ours.mask, theirs.mask)
        assert ours.sam_iou == pytest.approx(theirs.sam_iou, abs=1e-4)
