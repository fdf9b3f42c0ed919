"""The demo's models on held-out scenes: attention on the known masks, LM loss, and a comparing picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maskgen.analysis.attend import layer_maps, model_view
from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.attention_metrics import attention_metrics
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
_TILE_SIZE = (230, 230)
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class DemoAttention:
    """One model on the held-out set.

    `measured`: attention against the known masks. `language_loss`: LM loss a token, over all samples.
    `items`: those with a mask. `ratios`: float32 (cells, cells) each, their mean maps over the layers as
    multiples of the even share; `mass`: float (items,), 0-1, how much of each is inside the mask.
    """

    measured: AttentionGrounding
    language_loss: float
    items: list[Item]
    ratios: list[np.ndarray]
    mass: np.ndarray
    frame: Frame


def measure_demo_attention(model: Path, recipe: Recipe, place: str) -> DemoAttention:
    """Measure the model on the set at `place`."""
    reader = AttentionReader.load(model)
    items = list(ShardItems([place], reader.frame, recipe.data.threshold))
    means = [layer_maps(reader, attention)[-1] for _, attention in reader.attention_maps(items)]
    maps = np.stack([each.attention.ravel() for each in means])
    masks = np.stack([item.mask.ravel() for item in items if item.mask is not None])
    return DemoAttention(
        measure_grounding(reader, items),
        _language_loss(reader, model, recipe, place),
        items,
        [each.ratios for each in means],
        attention_metrics(maps, masks).mass,
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
        total += float(cross_entropy_sum(out.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()))
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
    """A PNG: image, known mask, and every model's mean map over the image, with its mass inside the mask.

    The rows are chosen by rule: in the order of the last model's mass, the sample in the middle and those at
    10, 30, 70 and 90 % of all.
    """
    last = list(found.values())[-1]
    order = np.argsort(last.mass, kind="stable")
    shown = [int(order[round(part * (len(order) - 1))]) for part in _QUANTILES]
    top = heatmap.scale_top(*(measured.ratios[number] for measured in found.values() for number in shown))
    rows = []
    for part, number in zip(_QUANTILES, shown, strict=True):
        item = last.items[number]
        assert item.mask is not None
        image = model_view(last.frame, item.pixels, _TILE_SIZE)
        masked = with_grid(image, item.mask.astype("uint8") * 255)
        tiles = [Tile(image), Tile(masked, f"{text.share(float(item.mask.mean()), 1)} of the picture")]
        for measured in found.values():
            over = heatmap.overlay_heatmap(image, measured.ratios[number], top)
            tiles.append(Tile(over, f"{text.share(float(measured.mass[number]), 1)} inside the mask"))
        place = "the median sample" if part == 0.5 else f"better than {100 * part:.0f} % of the samples"
        rows.append(TileRow(f"{item.text}  ({place})", tiles))
    foot = (
        "Colour: a cell's attention, mean of the layers, as a multiple of its even share. Samples are in the "
        f"order of what {list(found)[-1]} has inside the mask."
    )
    tile_sheet(rows, columns=["image", "known mask", *found], foot=foot, key=heatmap.colour_bar(top)).save(to)
    return to
