"""`maskgen ground`: a model's attention against known masks, layer by layer and by the masks' size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskgen import bootstrap
from maskgen.analysis.attention_maps import AttentionMaps, MapReader
from maskgen.analysis.attention_metrics import AttentionMetrics, attention_metrics, uniform_metrics
from maskgen.analysis.samples import Item
from maskgen.bootstrap import BootstrapEstimate
from maskgen.errors import MaskgenError

SMALL, LARGE = 0.02, 0.10
"""Shares of the grid: below the first a mask is small, from the second on large."""

LAYER_MEAN = "mean of layers"
OTHER_TEXT = "with another text"
UNIFORM = "even attention"
METRICS = ("mass", "pointing", "iou")


@dataclass(frozen=True)
class AttentionGrounding:
    """How well one model's attention falls on the masks.

    `rows`: for each size ("all", "small", "medium", "large") and each of `layers` the figures of `METRICS`;
    then those of `LAYER_MEAN`, if there are several layers; of `OTHER_TEXT`, the same mean while the text is
    another item's, which shows what the text itself does; and of the baseline `UNIFORM`. `counts`: samples of
    each size. `image_share`: for each layer, how much of the attention goes to the image at all; 1 in a
    cross-attention. `skipped`: items without mask, or without a token of the text.
    """

    name: str
    model_type: str
    cells: int
    layers: list[str]
    counts: dict[str, int]
    rows: dict[str, dict[str, dict[str, BootstrapEstimate]]]
    image_share: list[float]
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        rows = {
            size: {
                layer: {metric: figure.to_dict() for metric, figure in figures.items()}
                for layer, figures in layers.items()
            }
            for size, layers in self.rows.items()
        }
        return {
            "model": self.name,
            "architecture": self.model_type,
            "cells": self.cells,
            "samples": self.counts,
            "skipped": self.skipped,
            "image_share": dict(zip(self.layers, self.image_share, strict=False)),
            "figures": rows,
        }


def measure_grounding(
    reader: MapReader,
    items: Sequence[Item],
    progress: Callable[[int], None] = lambda done: None,
    seed: int = 0,
) -> AttentionGrounding:
    """Compare a model's attention with the items' masks, and once more with other items' texts
    (`OTHER_TEXT`).

    `progress` is called with how many of twice the items have been read. Intervals are bootstrap ones over
    pictures. MaskgenError if no item has a mask and a text.
    """
    kept, texts, masks, attendable, found, shares, pictures = [], [], [], [], [], [], []
    for number, (item, attention) in enumerate(reader.attention_maps(items)):
        if item.mask is not None and item.mask.any() and attention.query_tokens:
            kept.append(number)
            texts.append(item.text)
            masks.append(np.asarray(item.mask, bool).ravel())
            attendable.append(attention.attendable.ravel())
            found.append(_metrics_against(_with_layer_mean(attention), masks[-1]))
            shares.append(attention.maps.sum(axis=(1, 2)))
            pictures.append(item.image_id())
        progress(number + 1)
    if not masks:
        raise MaskgenError("no sample has a mask and a text: there is nothing to hold the attention against.")
    swapped: list[np.ndarray] = []
    for done, (_, attention) in enumerate(
        reader.attention_maps(_other_texts(items, kept, texts)), len(items) + 1
    ):
        swapped.append(_metrics_against(_with_layer_mean(attention)[-1:], masks[len(swapped)]))
        progress(done)
    stacked = np.stack(masks)
    layers = reader.layers if len(reader.layers) == 1 else [*reader.layers, LAYER_MEAN]
    rows = dict(zip(layers, np.stack(found, axis=1), strict=True))
    if swapped:
        rows[OTHER_TEXT] = np.concatenate(swapped)
    rows[UNIFORM] = _columns(uniform_metrics(stacked, np.stack(attendable)))
    groups = np.unique(pictures, return_inverse=True)[1]
    sizes = split_by_size(stacked)
    return AttentionGrounding(
        reader.name,
        reader.model_type,
        reader.frame.cells,
        list(layers),
        {size: int(chosen.sum()) for size, chosen in sizes.items()},
        {size: _figures(rows, chosen, groups, seed) for size, chosen in sizes.items() if chosen.any()},
        np.stack(shares).mean(axis=0).tolist(),
        len(items) - len(kept),
    )


def _metrics_against(maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The metrics of each map, (maps, cells^2), against one mask, (cells^2,): (maps, `METRICS`)."""
    return _columns(attention_metrics(maps, np.broadcast_to(mask, maps.shape)))


def _columns(metrics: AttentionMetrics) -> np.ndarray:
    return np.stack([getattr(metrics, name) for name in METRICS], axis=-1)


def _with_layer_mean(attention: AttentionMaps) -> np.ndarray:
    """The maps as rows, and their mean if there are several."""
    flat = attention.maps.reshape(len(attention.maps), -1)
    return flat if len(flat) == 1 else np.concatenate([flat, attention.mean().reshape(1, -1)])


def _other_texts(items: Sequence[Item], kept: Sequence[int], texts: Sequence[str]) -> Iterator[Item]:
    """Each kept item's picture with the next kept item's text that reads otherwise, if there is any."""
    if len(set(texts)) < 2:
        return
    for place, number in enumerate(kept):
        after = ((place + step) % len(kept) for step in range(1, len(kept)))
        other = next(each for each in after if texts[each] != texts[place])
        yield items[kept[other]].with_image_of(items[number])


def split_by_size(masks: np.ndarray) -> dict[str, np.ndarray]:
    """Which of `masks`, bool (samples, cells^2), are of each size: bool (samples,)."""
    share = masks.mean(axis=1)
    return {
        "all": np.ones(len(masks), bool),
        "small": share < SMALL,
        "medium": (share >= SMALL) & (share < LARGE),
        "large": share >= LARGE,
    }


def _figures(
    rows: Mapping[str, np.ndarray], chosen: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, dict[str, BootstrapEstimate]]:
    """The figures of the chosen samples, each row being (samples, `METRICS`); the same draws for all."""
    values = np.concatenate([row[chosen] for row in rows.values()], axis=1)
    figures = iter(bootstrap.clustered_means(values, groups[chosen], seed))
    return {name: {metric: next(figures) for metric in METRICS} for name in rows}
