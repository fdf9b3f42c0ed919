"""Where the demo's models look on scenes they have not seen, and what they make of the words there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from maskgen.analysis.attend import maps, seen
from maskgen.analysis.attention_maps import Gaze
from maskgen.analysis.ground import EVEN, MEAN, Measured, ground
from maskgen.analysis.samples import Item, ShardItems
from maskgen.draw import heatmap, text
from maskgen.draw.overlay import with_grid
from maskgen.draw.tiles import Row, Tile, sheet
from maskgen.geometry import Frame
from maskgen.training import model_folders
from maskgen.training.collate import collate
from maskgen.training.dataset import ShardDataset
from maskgen.training.losses import language_sum, targets
from maskgen.training.recipe import Recipe

_ROWS = 16
_SHOWN, _ROOM = 5, (230, 230)


@dataclass(frozen=True)
class Looking:
    """`measured`: attention against the known masks. `lm`: LM loss a token, over all samples. `shown`: the
    first few items with a mask. `overlays`: their mean maps over the layers, as multiples of the even share.
    """

    measured: Measured
    lm: float
    shown: list[Item]
    overlays: list[np.ndarray]
    frame: Frame


def look_at(model: Path, recipe: Recipe, place: str) -> Looking:
    """Run the model over the set at `place`."""
    gaze = Gaze.load(model)
    items = ShardItems([place], gaze.frame, recipe.data.threshold)
    shown = [items[number] for number in range(min(_SHOWN, len(items)))]
    drawn = [maps(gaze, look)[-1].ratios for _, look in gaze.looks(shown)]
    return Looking(ground(gaze, items), _language_loss(gaze, model, recipe, place), shown, drawn, gaze.frame)


@torch.inference_mode()
def _language_loss(gaze: Gaze, model: Path, recipe: Recipe, place: str) -> float:
    """The mean over all learnt tokens of the set."""
    samples = ShardDataset([place], gaze.template, gaze.frame, guided=False)
    normalise = model_folders.normaliser(model)
    total, tokens = 0.0, 0
    for first in range(0, len(samples), _ROWS):
        rows = range(first, min(first + _ROWS, len(samples)))
        batch = collate([samples[row] for row in rows], gaze.template.pad_id).to(gaze.model.device)
        out = gaze.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=normalise(batch.pixels),
            has_image=batch.has_image,
            image_cells=batch.image_cells,
        )
        total += float(language_sum(out.logits, batch.labels))
        tokens += targets(batch)
    return total / tokens


def render(found: Mapping[str, Looking]) -> list[str]:
    """A line a model: attention inside the mask, mean and by layer."""
    some = next(iter(found.values())).measured
    layers = [layer for layer in some.layers if layer != MEAN]
    rows = [("", "inside the mask", *layers, "LM loss")]
    for name, one in found.items():
        mass = {layer: figures["mass"].value for layer, figures in one.measured.rows["all"].items()}
        mean = sum(mass[layer] for layer in layers) / len(layers)
        rows.append(
            (name, text.share(mean, 1), *(text.share(mass[layer], 1) for layer in layers), f"{one.lm:.3f}")
        )
    even = some.rows["all"][EVEN]["mass"].value
    rows.append(("spread evenly", text.share(even, 1), *[""] * len(layers), ""))
    head = (
        f"attention of the question's tokens on {some.counts['all']} held-out scenes, by their known masks:"
    )
    return [head, *(f"  {line}" for line in text.table(rows, right=frozenset(range(1, len(rows[0])))))]


def picture(found: Mapping[str, Looking], to: Path) -> Path:
    """A PNG: a row a scene with the image, the known mask, and every model's mean map over the image."""
    first = next(iter(found.values()))
    top = heatmap.top_of(*(one for looking in found.values() for one in looking.overlays))
    rows = []
    for number, item in enumerate(first.shown):
        image = seen(first.frame, item.pixels, _ROOM)
        over = [heatmap.heated(image, looking.overlays[number], top) for looking in found.values()]
        tiles = [image, _masked(image, item), *over]
        rows.append(Row(item.text, [Tile(tile) for tile in tiles]))
    foot = "Colour: a cell's attention, mean of the layers, as a multiple of its even share."
    sheet(rows, columns=["image", "known mask", *found], foot=foot, key=heatmap.scale(top)).save(to)
    return to


def _masked(image: Image.Image, item: Item) -> Image.Image:
    assert item.mask is not None
    return with_grid(image, item.mask.astype("uint8") * 255)
