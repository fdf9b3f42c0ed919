"""`maskgen ground`: whether a model looks where its masks are, layer by layer and by the masks' size."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskgen.analysis import bootstrap
from maskgen.analysis.bootstrap import Figure
from maskgen.analysis.gaze import Gaze
from maskgen.analysis.inside import Inside, evenly, inside
from maskgen.analysis.items import Item
from maskgen.errors import MaskgenError

SMALL, LARGE = 0.02, 0.10
"""Shares of the grid: below the first a mask is small, from the second on large."""

MEAN = "mean of layers"
EVEN = "even attention"
MEASURES = ("mass", "pointing", "iou")


@dataclass(frozen=True)
class Measured:
    """Of one model. `rows`: for each size ("all", "small", "medium", "large") and each of `layers` the
    figures of `MEASURES`; the last layers are `MEAN`, of several, and the baseline `EVEN`. `counts`: samples
    of each size.

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
    gaze: Gaze, items: Iterable[Item], count: Callable[[int], None] = lambda done: None, seed: int = 0
) -> Measured:
    """Hold a model's attention against the items' own masks.

    Intervals are bootstrap ones over pictures. MaskgenError if no item has a mask and a text.
    """
    maps, masks, open_cells, shares, pictures, seen = [], [], [], [], [], 0
    for seen, (item, look) in enumerate(gaze.looks(items), 1):
        if item.mask is not None and item.mask.any() and look.asking:
            flat = look.maps.reshape(len(look.maps), -1)
            maps.append(flat if len(flat) == 1 else np.concatenate([flat, look.mean().reshape(1, -1)]))
            masks.append(np.asarray(item.mask, bool).ravel())
            open_cells.append(look.open.ravel())
            shares.append(flat.sum(axis=1))
            pictures.append(item.picture_id())
        count(seen)
    if not masks:
        raise MaskgenError("no sample has a mask and a text: there is nothing to hold the attention against.")
    wanted = np.stack(masks)
    found = inside(np.stack(maps, axis=1), wanted)
    even = evenly(wanted, np.stack(open_cells))
    groups = np.unique(pictures, return_inverse=True)[1]
    sizes = by_size(wanted)
    layers = gaze.layers if len(gaze.layers) == 1 else [*gaze.layers, MEAN]
    return Measured(
        gaze.name,
        gaze.kind,
        gaze.frame.cells,
        layers,
        {size: int(chosen.sum()) for size, chosen in sizes.items()},
        {
            size: _figures(found, even, layers, chosen, groups, seed)
            for size, chosen in sizes.items()
            if chosen.any()
        },
        np.stack(shares).mean(axis=0).tolist(),
        seen - len(masks),
    )


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
    found: Inside, even: Inside, layers: list[str], chosen: np.ndarray, groups: np.ndarray, seed: int
) -> dict[str, dict[str, Figure]]:
    """The figures of the chosen samples; the same draws for every layer and for the baseline."""
    columns = {
        measure: np.concatenate([getattr(found, measure), getattr(even, measure)[None]])[:, chosen].T
        for measure in MEASURES
    }
    names = [*layers, EVEN]
    figures = bootstrap.means(np.concatenate(list(columns.values()), axis=1), groups[chosen], seed)
    return {
        name: {measure: figures[place * len(names) + number] for place, measure in enumerate(MEASURES)}
        for number, name in enumerate(names)
    }
