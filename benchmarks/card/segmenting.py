"""SAM on the device: our encoder and decoder against the package's own, and against SamPredictor."""

import copy

import numpy as np
import torch
from segment_anything import SamPredictor
from shapely import MultiPolygon

from card.models import given, masker
from card.numerics import error, in_full_precision
from card.record import Record
from maskgen import config
from maskgen.geometry import Frame
from maskgen.grounding import polygon
from maskgen.grounding.fast.sam_forward import ImageEncoder
from maskgen.grounding.interface import Refinement
from maskgen.grounding.sam import SamRefiner
from maskgen.pixels import decode
from maskgen.sample import Picture
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query

FRAMES = (Frame.of(config.Grid()), Frame.of(config.Grid(fit="crop", size=384, cells=7)))


def embeddings(large: bool, device: torch.device, record: Record) -> None:
    """In every dtype; in half precision ours are off by at most twice what the package's are."""
    with in_full_precision(), torch.inference_mode():
        made = masker(large, device)
        side = made.image_encoder.img_size
        pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)
        reference = made.image_encoder(pixels)
        off = error(ImageEncoder(made.image_encoder)(pixels), reference)
        record.figure("float32 embeddings, error", off, "")
        record.check("float32 embeddings", off < 1e-4, f"off by {off:.1e}")
        for dtype in (torch.bfloat16, torch.float16):
            half = copy.deepcopy(made.image_encoder).to(dtype)
            theirs = error(half(pixels.to(dtype)), reference)
            ours = error(ImageEncoder(half)(pixels.to(dtype)), reference)
            name = str(dtype).removeprefix("torch.")
            record.figure(f"{name} embeddings, error", ours, "", f"the package's {theirs:.1e}")
            record.check(f"{name} embeddings", ours < 2 * theirs + 1e-4, f"off by {ours:.1e}, {theirs:.1e}")


def masks(large: bool, device: torch.device, record: Record) -> None:
    """Masks and scores by both engines and by SamPredictor, and grids in whole numbers."""
    pictures, regions = scenes(4 if large else 12)
    with in_full_precision():
        plain = _refined(large, device, pictures, regions, "reference", "float32", None)
        for frame in FRAMES:
            fast = _refined(large, device, pictures, regions, "fast", "float32", frame)
            grids = sum(
                bool(np.array_equal(one.grid, frame.grid(one.mask))) for one in fast if one.grid is not None
            )
            name = f"grids of {frame.cells} cells a side"
            record.check(name, grids == len(fast), f"{grids} of {len(fast)} equal, in whole numbers")
        _compare("float32", fast, plain, record, least=0.98)
        half = _refined(large, device, pictures, regions, "fast", "bfloat16", FRAMES[0])
        _compare("bfloat16", half, plain, record, least=0.5 if large else 0.95)
        # A random model's masks are noise about its threshold, and a level of a pixel may turn them.
        _compare("SamPredictor", plain, _predicted(large, device, pictures, regions), record, least=0.95)


def _compare(
    name: str, found: list[Refinement], reference: list[Refinement], record: Record, least: float
) -> None:
    ious = [_iou(one.mask, other.mask) for one, other in zip(found, reference, strict=True)]
    off = max(abs(one.sam_iou - other.sam_iou) for one, other in zip(found, reference, strict=True))
    record.figure(f"{name}: IoU of masks, mean", sum(ious) / len(ious), "", f"least {min(ious):.4f}")
    record.check(f"{name}: masks", min(ious) >= least, f"least IoU {min(ious):.4f}, scores within {off:.1e}")


def _refined(
    large: bool,
    device: torch.device,
    pictures: list[Picture],
    regions: list[MultiPolygon],
    engine: str,
    dtype: str,
    frame: Frame | None,
) -> list[Refinement]:
    chosen = {"model": "vit_h" if large else "demo", "checkpoint": "", "dtype": dtype, "engine": engine}
    with given(refiner=masker(large, device)):
        return SamRefiner(config.Sam.model_validate(chosen), str(device), frame).refine(pictures, regions)


def _predicted(
    large: bool, device: torch.device, pictures: list[Picture], regions: list[MultiPolygon]
) -> list[Refinement]:
    """A box a region by segment-anything's own predictor."""
    predictor = SamPredictor(masker(large, device))
    found = []
    for picture, region in zip(pictures, regions, strict=True):
        predictor.set_image(picture.pixels)
        all_masks, scores, _ = predictor.predict(box=np.array(region.bounds), multimask_output=True)
        best = int(scores.argmax())
        found.append(
            Refinement(all_masks[best], float(np.clip(scores[best], 0, 1)), polygon.box(region), None)
        )
    return found


def scenes(count: int) -> tuple[list[Picture], list[MultiPolygon]]:
    """Held-out scenes, and of each the outline of what its query names."""
    pictures: list[Picture] = []
    regions: list[MultiPolygon] = []
    seed = FIRST_HELD_OUT_SEED
    while len(pictures) < count:
        scene = draw_scene(seed)
        seed += 1
        outlines = [
            points for target in scene_query(scene).targets for points in scene.visible_outlines(target)
        ]
        if outlines:
            pictures.append(decode(encode_image(scene)[1], config.Limits()))
            regions.append(polygon.clean(outlines, pictures[-1].width, pictures[-1].height))
    return pictures, regions


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0
