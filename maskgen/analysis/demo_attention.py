"""The demo's models on held-out scenes: attention on the known masks, LM loss, and a comparing picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from maskgen.analysis.attend import layer_maps, model_view
from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.ground import LAYER_MEAN, UNIFORM, AttentionGrounding, measure_grounding
from maskgen.analysis.samples import Item, ShardItems
from maskgen.draw import heatmap, text
from maskgen.draw.overlay import with_grid
from maskgen.draw.tiles import Tile, TileRow, tile_sheet
from maskgen.geometry import Frame
from maskgen.training import model_folders
from maskgen.training.collate import collate
from maskgen.training.dataset import ShardDataset
from maskgen.training.losses import count_targets, cross_entropy_sum
from maskgen.training.recipe import Recipe

_BATCH = 16
_SHOWN, _TILE_SIZE = 5, (230, 230)


@dataclass(frozen=True)
class DemoAttention:
    """One model on the held-out set.

    `measured`: attention against the known masks. `language_loss`: LM loss a token, over all samples.
    `shown`: the first few items with a mask. `overlays`: float32 (cells, cells) each, their mean maps over
    the layers, as multiples of the even share.
    """

    measured: AttentionGrounding
    language_loss: float
    shown: list[Item]
    overlays: list[np.ndarray]
    frame: Frame


def measure_demo_attention(model: Path, recipe: Recipe, place: str) -> DemoAttention:
    """Measure the model on the set at `place`."""
    reader = AttentionReader.load(model)
    items = ShardItems([place], reader.frame, recipe.data.threshold)
    shown = [items[number] for number in range(min(_SHOWN, len(items)))]
    drawn = [layer_maps(reader, attention)[-1].ratios for _, attention in reader.attention_maps(shown)]
    return DemoAttention(
        measure_grounding(reader, items),
        _language_loss(reader, model, recipe, place),
        shown,
        drawn,
        reader.frame,
    )


@torch.inference_mode()
def _language_loss(reader: AttentionReader, model: Path, recipe: Recipe, place: str) -> float:
    """The mean over all learnt tokens of the set."""
    samples = ShardDataset([place], reader.template, reader.frame, guided=False)
    normalise = model_folders.normaliser(model)
    total, tokens = 0.0, 0
    for first in range(0, len(samples), _BATCH):
        rows = range(first, min(first + _BATCH, len(samples)))
        batch = collate([samples[row] for row in rows], reader.template.pad_id).to(reader.model.device)
        out = reader.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=normalise(batch.pixels),
            has_image=batch.has_image,
            image_cells=batch.image_cells,
        )
        total += float(cross_entropy_sum(out.logits, batch.labels))
        tokens += count_targets(batch)
    return total / tokens


def render_table(found: Mapping[str, DemoAttention]) -> list[str]:
    """A line a model: attention inside the mask, mean and by layer."""
    some = next(iter(found.values())).measured
    layers = [layer for layer in some.layers if layer != LAYER_MEAN]
    rows = [("", "inside the mask", *layers, "LM loss")]
    for name, one in found.items():
        mass = {layer: figures["mass"].value for layer, figures in one.measured.rows["all"].items()}
        mean = sum(mass[layer] for layer in layers) / len(layers)
        rows.append(
            (
                name,
                text.share(mean, 1),
                *(text.share(mass[layer], 1) for layer in layers),
                f"{one.language_loss:.3f}",
            )
        )
    even = some.rows["all"][UNIFORM]["mass"].value
    rows.append(("spread evenly", text.share(even, 1), *[""] * len(layers), ""))
    head = (
        f"attention of the question's tokens on {some.counts['all']} held-out scenes, by their known masks:"
    )
    return [head, *(f"  {line}" for line in text.table(rows, right=frozenset(range(1, len(rows[0])))))]


def save_comparison(found: Mapping[str, DemoAttention], to: Path) -> Path:
    """A PNG: a row a scene with the image, the known mask, and every model's mean map over the image."""
    first = next(iter(found.values()))
    top = heatmap.scale_top(*(each for measured in found.values() for each in measured.overlays))
    rows = []
    for number, item in enumerate(first.shown):
        image = model_view(first.frame, item.pixels, _TILE_SIZE)
        over = [heatmap.overlay_heatmap(image, measured.overlays[number], top) for measured in found.values()]
        tiles = [image, _masked(image, item), *over]
        rows.append(TileRow(item.text, [Tile(tile) for tile in tiles]))
    foot = "Colour: a cell's attention, mean of the layers, as a multiple of its even share."
    tile_sheet(rows, columns=["image", "known mask", *found], foot=foot, key=heatmap.colour_bar(top)).save(to)
    return to


def _masked(image: Image.Image, item: Item) -> Image.Image:
    assert item.mask is not None
    return with_grid(image, item.mask.astype("uint8") * 255)
