"""How well attention falls on a mask: mass, pointing accuracy, IoU, and what even attention would have."""

from dataclasses import dataclass
from functools import cache
from math import lgamma

import numpy as np


@dataclass(frozen=True)
class AttentionMetrics:
    """Of maps against masks, each float64 and 0-1 of the maps' leading shape.

    `mass`: the share of the attention inside the mask. `pointing`: 1 if the cell with the most attention is
    inside, the share of them that are if several have the most. `iou`: intersection over union of the mask
    and as many cells as it has, those with the most attention.
    """

    mass: np.ndarray
    pointing: np.ndarray
    iou: np.ndarray


def attention_metrics(maps: np.ndarray, masks: np.ndarray) -> AttentionMetrics:
    """`maps`: float (..., samples, cells^2), not negative, of any sum; `masks`: bool (samples, cells^2).

    A sample with an empty mask or a map of zeros is NaN throughout.
    """
    maps = np.asarray(maps, np.float64)
    wanted = np.broadcast_to(np.asarray(masks, bool), maps.shape)
    total, most = maps.sum(axis=-1), maps.max(axis=-1, keepdims=True)
    counts = wanted.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = (maps * wanted).sum(axis=-1) / total
        peaks = maps == most
        pointing = (peaks & wanted).sum(axis=-1) / peaks.sum(axis=-1)
        ranks = np.argsort(np.argsort(-maps, axis=-1, kind="stable"), axis=-1)
        hits = ((ranks < counts[..., None]) & wanted).sum(axis=-1)
        iou = hits / (2 * counts - hits)
    void = (counts == 0) | (total <= 0)
    return AttentionMetrics(*(np.where(void, np.nan, each) for each in (mass, pointing, iou)))


def uniform_metrics(masks: np.ndarray, attendable: np.ndarray) -> AttentionMetrics:
    """The same, expected of attention spread evenly over `attendable`, bool as `masks`: (samples, cells^2).

    For pointing and IoU its ties are broken by lot; NaN where the mask is empty.
    """
    figures = [
        _evenly(int((m & o).sum()), int(m.sum()), int(o.sum()))
        for m, o in zip(masks, attendable, strict=True)
    ]
    return AttentionMetrics(*np.array(figures, np.float64).reshape(-1, 3).T)


@cache
def _evenly(reachable: int, mask: int, cells: int) -> tuple[float, float, float]:
    if not mask or not cells:
        return (np.nan,) * 3
    share, drawn = reachable / cells, min(mask, cells)
    iou = 0.0
    for hits in range(max(0, drawn + reachable - cells), min(drawn, reachable) + 1):
        # Hypergeometric: `drawn` of the cells by lot, `reachable` of which are in the mask.
        ways = _choose(reachable, hits) + _choose(cells - reachable, drawn - hits) - _choose(cells, drawn)
        iou += np.exp(ways) * hits / (mask + drawn - hits)
    return share, share, iou


def _choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
