"""Train the small SAM on drawn scenes: python -m maskgen.pretraining.train_sam --out DIR."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from segment_anything.modeling import Sam
from torch import nn
from torch.utils.data import Dataset

from maskgen.pretraining.pretraining_loop import Batch, Losses, argument_parser, pretrain
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.small_models import small_sam as small

SIZES = small.SamSizes(
    image=160,
    patch=8,
    width=96,
    depth=3,
    heads=4,
    window=10,
    global_blocks=(1,),
    prompt_width=64,
    decoder_heads=4,
    feed_forward=128,
)
SCENES = 8  # a step


@dataclass
class BoxPrompts(Dataset[Batch]):
    """Item `i` is the batch of step `i`: every thing of `scenes` new scenes, and a few pairs, by its box.

    `pixels`: float32 (scenes, 3, side, side), long side fitted, zero-padded. `boxes`: float32 (prompts, 4)
    in the input's pixels. `masks`: bool (prompts, side, side). `inside`: bool likewise, where there is
    picture and not padding. `counts`: int64 (scenes,), prompts of each scene.
    """

    sam: Sam
    steps: int
    scenes: int
    jitter: float
    first_seed: int = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        side = self.sam.image_encoder.img_size
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("pixels", "boxes", "masks", "inside")}
        counts = []
        for seed in range(step * self.scenes, (step + 1) * self.scenes):
            scene = draw_scene(self.first_seed + seed % FIRST_HELD_OUT_SEED)
            rng = np.random.default_rng((seed, 4))
            height, width = scene.pixels.shape[:2]
            shrink = side / max(height, width)
            new = (int(width * shrink + 0.5), int(height * shrink + 0.5))
            image = np.array(Image.fromarray(scene.pixels).resize(new, Image.Resampling.BILINEAR))
            parts["pixels"].append(self.sam.preprocess(torch.from_numpy(image).permute(2, 0, 1)))
            masks = list(scene.masks)
            if rng.random() < 0.2:  # a region of two things is prompted by the one box around both
                pair = rng.permutation(len(masks))[:2]
                masks.append(scene.masks[pair].any(axis=0))
            for mask in masks:
                box = _jitter(rng, _box(mask), self.jitter, width, height)
                parts["boxes"].append(torch.tensor(box * shrink, dtype=torch.float32))
                parts["masks"].append(torch.from_numpy(_fit_mask(mask, new, side)))
                parts["inside"].append(torch.from_numpy(_fit_mask(np.ones_like(mask), new, side)))
            counts.append(len(masks))
        return {name: torch.stack(each) for name, each in parts.items()} | {"counts": torch.tensor(counts)}


class SamPretraining(nn.Module):
    """Sam, prompted with boxes; `forward` gives the losses of a batch of BoxPrompts."""

    def __init__(self, sam: Sam):
        super().__init__()
        self.sam = sam

    def forward(self, batch: Batch) -> Losses:
        logits, ious = self.predict(batch)
        # The decoder's own grid is coarser than the input; its targets are shares of a cell.
        step = self.sam.image_encoder.img_size // logits.shape[-1]
        wanted, inside = (F.avg_pool2d(batch[name].float()[:, None], step) for name in ("masks", "inside"))
        cells = inside.sum(dim=(2, 3))
        entropy = F.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none")
        # Weighted by the thing's share, or the small ones would hardly count.
        share = (wanted.sum(dim=(2, 3)) / cells).clamp(min=0.02)
        entropy = (entropy * inside).sum(dim=(2, 3)) / cells / share * 0.3
        soft = logits.sigmoid() * inside
        intersection = (soft * wanted).sum(dim=(2, 3))
        dice = 1 - (2 * intersection + 1) / (soft.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3)) + 1)
        each = entropy + dice
        with torch.no_grad():
            true = _overlap((logits > 0) & (inside > 0.5), wanted > 0.5)
        return {
            "mask": each[:, 1:].min(dim=1).values.mean() + 0.3 * each.mean(),
            "iou": F.mse_loss(ious, true),
        }

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (prompts, 4, grid, grid), the single mask first, and predicted IoUs (prompts, 4)."""
        embeddings = self.sam.image_encoder(batch["pixels"])
        place = self.sam.prompt_encoder.get_dense_pe()
        masks, ious = [], []
        for embedding, boxes in zip(embeddings, batch["boxes"].split(batch["counts"].tolist()), strict=True):
            sparse, dense = self.sam.prompt_encoder(points=None, boxes=boxes, masks=None)
            mask, iou = self.sam.mask_decoder.predict_masks(embedding[None], place, sparse, dense)
            masks.append(mask)
            ious.append(iou)
        return torch.cat(masks), torch.cat(ious)


@torch.no_grad()
def measure(learner: SamPretraining, batches: int = 8) -> dict[str, float]:
    """IoU of the mask that Sam itself ranks first, by true and by loose boxes, on held-out scenes."""
    result = {}
    for name, jitter in (("true_box", 0.0), ("loose_box", 0.1)):
        prompts = BoxPrompts(learner.sam, batches, SCENES, jitter, FIRST_HELD_OUT_SEED)
        overlaps = []
        for batch in map(prompts.__getitem__, range(batches)):
            logits, ious = learner.predict(batch)
            best = logits[torch.arange(len(ious)), 1 + ious[:, 1:].argmax(dim=1)][:, None]
            best = F.interpolate(best, batch["masks"].shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            overlaps.append(_overlap((best > 0) & batch["inside"], batch["masks"]))
        result[name] = torch.cat(overlaps).mean().item()
    return result


def export(learner: SamPretraining, folder: Path, sizes: small.SamSizes) -> None:
    """The model in half precision, as `maskgen.small_models.small_sam.load` reads it."""
    small.save(folder, learner.sam.half(), sizes)
    learner.sam.float()


def _overlap(masks: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """IoU over the last two dimensions of bool masks."""
    union = (masks | wanted).sum(dim=(-2, -1))
    return (masks & wanted).sum(dim=(-2, -1)) / union.clamp(min=1)


def _box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def _jitter(rng: np.random.Generator, box: np.ndarray, jitter: float, width: int, height: int) -> np.ndarray:
    """The box as a coarse polygon would give it: each side off by a share of the box's own size."""
    size = np.tile(box[2:] - box[:2], 2)
    off = np.clip(rng.normal(0, jitter * rng.random() * 1.5 if jitter else 0.0, 4), -0.25, 0.25)
    moved = np.clip(box + off * size, 0, [width, height, width, height])
    return np.concatenate([moved[:2], np.maximum(moved[2:], moved[:2] + 2)])


def _fit_mask(mask: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """Bool (side, side): the mask at `size` (width, height), padded below and on the right."""
    fitted = np.zeros((side, side), bool)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    fitted[: size[1], : size[0]] = share >= 0.5
    return fitted


def main() -> None:
    """Train, going on from what lies in --out, and write `--out/model`."""
    parser = argument_parser(__doc__, 2000, f"{SCENES} scenes", 1e-3)
    parser.add_argument("--smaller", action="store_true", help="one encoder block of half the width")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    smaller = replace(SIZES, width=SIZES.width // 2, depth=1, global_blocks=(0,))
    sizes = smaller if options.smaller else SIZES
    learner = SamPretraining(small.create(sizes))
    prompts = BoxPrompts(learner.sam, options.steps, SCENES, jitter=0.1)

    average = pretrain(
        options.out,
        learner,
        prompts,
        measure,
        options.steps,
        options.rate,
    )
    export(average, options.out / "model", sizes)


if __name__ == "__main__":
    main()
