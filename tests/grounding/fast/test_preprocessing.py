"""Pictures as the models see them, against the processors' own."""

import numpy as np
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide
from transformers import CLIPImageProcessor

from maskgen.grounding.fast.preprocessing import Florence2Images, Upload, resized, resized_in_floats

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPES = [(48, 80), (101, 37), (3, 50), (64, 64), (300, 420), (1, 1), (999, 640)]


def pictures(seed=0):
    """Noise, the hardest there is, and smooth slopes, on which rounding shows."""
    draw = np.random.default_rng(seed)
    noise = [draw.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
    slopes = [
        np.stack([np.add.outer(np.linspace(0, 127, h), np.linspace(0, 127, w))] * 3, axis=2).astype(np.uint8)
        for h, w in SHAPES
    ]
    return noise + slopes


def florence2(**settings):
    return CLIPImageProcessor(
        size={"height": 96, "width": 96},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        **settings,
    )


def sams_size(picture):
    return ResizeLongestSide.get_preprocess_shape(*picture.shape[:2], 128)


def test_florence2s_pixel_values_are_the_processors():
    processor = florence2()
    theirs = processor(pictures(), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    ours = Florence2Images(processor, CPU)(pictures())
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


def apart(pairs):
    """The largest difference in levels, and the share of values that differ."""
    differences = [np.abs(ours.astype(int) - theirs.astype(int)).ravel() for ours, theirs in pairs]
    together = np.concatenate(differences)
    return int(together.max()), float((together > 0).mean())


def test_a_gpus_sam_images_are_pillows_but_for_rounding():
    """A GPU resizes floats; the same function runs here."""
    seen = [picture for picture in pictures() if 0 not in sams_size(picture)]
    furthest, share = apart(
        (
            resized_in_floats(image, sams_size(picture), "bilinear").permute(1, 2, 0).numpy(),
            ResizeLongestSide(128).apply_image(picture),
        )
        for picture, image in zip(seen, Upload(CPU)(seen), strict=True)
    )
    print(f"furthest {furthest}, {share:.3%} of values")
    assert furthest <= 1 and share < 0.002


def test_a_gpus_florence2_images_are_two_levels_away_at_most():
    """The processor resizes by torchvision's whole numbers on a CPU, with coarser weights."""
    furthest, share = apart(
        (
            resized_in_floats(image, (96, 96), "bicubic").numpy(),
            resized(image, (96, 96), "bicubic").numpy(),
        )
        for image in Upload(CPU)(pictures())
    )
    print(f"furthest {furthest}, {share:.3%} of values")
    assert furthest <= 2 and share < 0.01


@pytest.mark.parametrize("settings", [{"do_pad": True}, {"resample": 1}, {"do_normalize": False}])
def test_a_processor_that_does_anything_else_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Florence2Images(florence2(**settings), CPU)


def test_a_processor_that_crops_is_refused():
    with pytest.raises(ValueError, match="do_center_crop"):
        Florence2Images(CLIPImageProcessor(), CPU)
