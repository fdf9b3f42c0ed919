"""`maskgen similarity`: whether states tell which text belongs to which picture (Section 3.1, Fig. 2).

The paper compares "the final hidden states of image tokens (or their projected representations) and text
tokens" by cosine similarity and does not say how tokens become one number. Here, by default, the states of a
picture's tokens are averaged, those of its text's tokens too, and the cosine is between the two means;
`pool="pairs"` is the mean over the cosines of all pairs of an image and a text token.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from maskgen import bootstrap
from maskgen.analysis.samples import Item
from maskgen.analysis.separation import RIDGE, auroc, edges, overlap, probe
from maskgen.bootstrap import Figure
from maskgen.errors import MaskgenError

FOLDS = 5
_FEW = "too few texts have tokens and another text's picture to be compared with. Give more samples."
Pool = Literal["mean", "pairs"]


class Reader(Protocol):
    """A model that gives the states of pictures and texts: `Gaze`, or `llava.Llava`."""

    name: str
    kind: str

    def states(self, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each item float32 (N, width) of its image tokens and (T, width) of its text's."""
        ...


@dataclass(frozen=True)
class Similarity:
    """`matching`, `other`: float64 (pairs,), the cosine of each text with its own picture and with another.

    `probe`: AUROC of a linear probe on each fold. `skipped`: items without text or without a partner.
    """

    name: str
    kind: str
    pool: Pool
    matching: np.ndarray
    other: np.ndarray
    auroc: Figure
    overlap: float
    probe: list[float]
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the histogram's counts."""
        steps = edges(self.matching, self.other)
        return {
            "model": self.name,
            "architecture": self.kind,
            "pool": self.pool,
            "pairs": len(self.matching),
            "skipped": self.skipped,
            "mean_matching": float(self.matching.mean()),
            "mean_non_matching": float(self.other.mean()),
            "overlap": self.overlap,
            "auroc": self.auroc.to_dict(),
            "probe_auroc": float(np.mean(self.probe)),
            "probe_auroc_folds": self.probe,
            "probe_ridge": RIDGE,
            "histogram": {
                "edges": steps.tolist(),
                "matching": np.histogram(self.matching, steps)[0].tolist(),
                "non_matching": np.histogram(self.other, steps)[0].tolist(),
            },
        }


def similarity(
    reader: Reader,
    items: Sequence[Item],
    pool: Pool = "mean",
    folds: int = FOLDS,
    seed: int = 0,
    count: Callable[[int], None] = lambda done: None,
) -> Similarity:
    """Each text with its own picture and with another's, drawn by lot, read by the model anew.

    The probe gets the mean image state, the mean text state and their product, number by number, and is
    tested on pictures it was not fitted on: partners come from the same fold. Every text stands once with its
    own picture and once with another, so neither alone says which it is. `count` is told how many of twice
    the texts are read. MaskgenError as `pairing`.
    """
    pictures, texts = [], []
    for item in items:
        pictures.append(item.picture_id())
        texts.append(" ".join(item.text.split()).casefold())
    rows, partners, fold = pairing(pictures, texts, folds, seed)
    if len(np.unique(fold)) < folds:
        raise MaskgenError(_FEW)
    own = _Pooled(reader.states(items[row] for row in rows.tolist()), pool, count)
    swapped = (
        items[row].shown(items[partner])
        for row, partner in zip(rows.tolist(), partners.tolist(), strict=True)
    )
    other = _Pooled(reader.states(swapped), pool, lambda done: count(len(rows) + done))
    asks = own.asks & other.asks
    if not all(asks[fold == number].any() for number in range(folds)):
        raise MaskgenError(_FEW)
    matching, apart = own.cosines[asks], other.cosines[asks]
    features = np.concatenate([own.features[asks], other.features[asks]])
    labels = np.repeat([True, False], int(asks.sum()))
    return Similarity(
        reader.name,
        reader.kind,
        pool,
        matching,
        apart,
        bootstrap.statistic(lambda drawn: auroc(matching[drawn], apart[drawn]), len(matching), seed=seed),
        overlap(matching, apart),
        probe(features, labels, np.tile(fold[asks], 2)),
        len(items) - int(asks.sum()),
    )


def pairing(
    pictures: Sequence[str], texts: Sequence[str], folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which items take part, whose picture each gets besides its own, and each one's fold: int arrays.

    Items of one picture are in one fold together. A partner has another picture and another text; items
    without such a partner in their fold take no part. MaskgenError with fewer than two pictures a fold.
    """
    kinds, groups = np.unique(pictures, return_inverse=True)
    if len(kinds) < 2 * folds:
        raise MaskgenError(f"{len(kinds)} different pictures: {2 * folds} are needed for {folds} folds.")
    random = np.random.default_rng(seed)
    folds_of = (random.permutation(len(kinds)) % folds)[groups]
    chosen, partners = [], []
    for fold in range(folds):
        circle = random.permutation(np.flatnonzero(folds_of == fold)).tolist()
        for place, row in enumerate(circle):
            after = (circle[(place + step) % len(circle)] for step in range(1, len(circle)))
            other = next((n for n in after if pictures[n] != pictures[row] and texts[n] != texts[row]), None)
            if other is not None:
                chosen.append(row)
                partners.append(other)
    return np.array(chosen, int), np.array(partners, int), folds_of[np.array(chosen, int)]


class _Pooled:
    """States of many items as one row each.

    `asks`: bool (items,), those with a token of text and of image. `cosines`: float64 (items,). `features`:
    float32 (items, 3 width), mean image state, mean text state, product.
    """

    def __init__(
        self, states: Iterable[tuple[np.ndarray, np.ndarray]], pool: Pool, count: Callable[[int], None]
    ):
        asks, cosines, features = [], [], []
        for done, (image, text) in enumerate(states, 1):
            count(done)
            asks.append(bool(len(image) and len(text)))
            if not asks[-1]:
                image, text = np.zeros((1, image.shape[1])), np.zeros((1, text.shape[1]))
            one, other = image.mean(axis=0, dtype=np.float64), text.mean(axis=0, dtype=np.float64)
            if pool == "mean":
                cosines.append(float(_unit(one) @ _unit(other)))
            else:  # the mean of all cosines is the product of the mean directions
                cosines.append(float(_unit(image).mean(axis=0) @ _unit(text).mean(axis=0)))
            features.append(np.concatenate([one, other, one * other]).astype(np.float32))
        self.asks, self.cosines, self.features = np.array(asks), np.array(cosines), np.stack(features)


def _unit(states: np.ndarray) -> np.ndarray:
    """Each state (..., width) at length 1."""
    states = np.asarray(states, np.float64)
    scaled: np.ndarray = states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
    return scaled
