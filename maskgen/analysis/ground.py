"""`maskgen ground`: whether a model looks where its masks are, layer by layer and by the masks' size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskgen import bootstrap
from maskgen.analysis.attention_maps import Gaze, Look
from maskgen.analysis.attention_metrics import Inside, evenly, inside
from maskgen.analysis.samples import Item
from maskgen.bootstrap import Figure
from maskgen.errors import MaskgenError

SMALL, LARGE = 0.02, 0.10
"""Shares of the grid: below the first a mask is small, from the second on large."""

MEAN = "mean of layers"
OTHER = "with another text"
EVEN = "even attention"
MEASURES = ("mass", "pointing", "iou")


@dataclass(frozen=True)
class Measured:
    """Of one model. `rows`: for each size ("all", "small", "medium", "large") and each of `layers` the
    figures of `MEASURES`; then of `MEAN`, of several layers; `OTHER`, the same while the text is another
    item's, which tells what the text itself does; and of the baseline `EVEN`. `counts`: samples of each size.

    `image_share`: for each layer, how much of the attention goes to the image at all; 1 in a cross-attention.
    `skipped`: items without mask, or without a token of the text.
    """

    name: str
    kind: str
    cells: int
    layers: list[str]
    counts: dict[str, int]
    rows: dict[str, dict[str, dict[str, Figure]]]
    image_share: list[float]
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        rows = {
            size: {
                layer: {measure: figure.to_dict() for measure, figure in figures.items()}
                for layer, figures in layers.items()
            }
            for size, layers in self.rows.items()
        }
        return {
            "model": self.name,
            "architecture": self.kind,
            "cells": self.cells,
            "samples": self.counts,
            "skipped": self.skipped,
            "image_share": dict(zip(self.layers, self.image_share, strict=False)),
            "figures": rows,
        }


def ground(
    gaze: Gaze, items: Sequence[Item], count: Callable[[int], None] = lambda done: None, seed: int = 0
) -> Measured:
    """Hold a model's attention against the items' own masks, and once more with other items' texts (`OTHER`).

    `count` is told how many of twice the items are read. Intervals are bootstrap ones over pictures.
    MaskgenError if no item has a mask and a text.
    """
    kept, texts, masks, open_cells, found, shares, pictures = [], [], [], [], [], [], []
    for number, (item, look) in enumerate(gaze.looks(items)):
        if item.mask is not None and item.mask.any() and look.asking:
            kept.append(number)
            texts.append(item.text)
            masks.append(np.asarray(item.mask, bool).ravel())
            open_cells.append(look.open.ravel())
            found.append(_held(_with_mean(look), masks[-1]))
            shares.append(look.maps.sum(axis=(1, 2)))
            pictures.append(item.picture_id())
        count(number + 1)
    if not masks:
        raise MaskgenError("no sample has a mask and a text: there is nothing to hold the attention against.")
    swapped: list[np.ndarray] = []
    for done, (_, look) in enumerate(gaze.looks(_other_texts(items, kept, texts)), len(items) + 1):
        swapped.append(_held(_with_mean(look)[-1:], masks[len(swapped)]))
        count(done)
    wanted = np.stack(masks)
    layers = gaze.layers if len(gaze.layers) == 1 else [*gaze.layers, MEAN]
    rows = dict(zip(layers, np.stack(found, axis=1), strict=True))
    if swapped:
        rows[OTHER] = np.concatenate(swapped)
    rows[EVEN] = _columns(evenly(wanted, np.stack(open_cells)))
    groups = np.unique(pictures, return_inverse=True)[1]
    sizes = by_size(wanted)
    return Measured(
        gaze.name,
        gaze.kind,
        gaze.frame.cells,
        layers,
        {size: int(chosen.sum()) for size, chosen in sizes.items()},
        {size: _figures(rows, chosen, groups, seed) for size, chosen in sizes.items() if chosen.any()},
        np.stack(shares).mean(axis=0).tolist(),
        len(items) - len(kept),
    )


def _held(maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The measures of each map, (maps, cells^2), against one mask, (cells^2,): (maps, `MEASURES`)."""
    return _columns(inside(maps, np.broadcast_to(mask, maps.shape)))


def _columns(found: Inside) -> np.ndarray:
    return np.stack([getattr(found, measure) for measure in MEASURES], axis=-1)


def _with_mean(look: Look) -> np.ndarray:
    """The maps as rows, and their mean if there are several."""
    flat = look.maps.reshape(len(look.maps), -1)
    return flat if len(flat) == 1 else np.concatenate([flat, look.mean().reshape(1, -1)])


def _other_texts(items: Sequence[Item], kept: Sequence[int], texts: Sequence[str]) -> Iterator[Item]:
    """Each kept item's picture with the next kept item's text that reads otherwise, if there is any."""
    if len(set(texts)) < 2:
        return
    for place, number in enumerate(kept):
        after = ((place + step) % len(kept) for step in range(1, len(kept)))
        other = next(each for each in after if texts[each] != texts[place])
        yield items[kept[other]].shown(items[number])


def by_size(masks: np.ndarray) -> dict[str, np.ndarray]:
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
) -> dict[str, dict[str, Figure]]:
    """The figures of the chosen samples, each row being (samples, `MEASURES`); the same draws for all."""
    values = np.concatenate([row[chosen] for row in rows.values()], axis=1)
    figures = iter(bootstrap.means(values, groups[chosen], seed))
    return {name: {measure: next(figures) for measure in MEASURES} for name in rows}
