"""`maskgen similarity`: do hidden states separate matching pairs of image and text? (Section 3.1, Fig. 2)

The paper compares "the final hidden states of image tokens (or their projected representations) and text
tokens" by cosine similarity and does not say how tokens become one number. Here, by default, the states of a
picture's tokens are averaged, those of its text's tokens too, and the cosine is between the two means;
`pool="pairs"` is the mean over the cosines of all pairs of an image token and a text token.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from maskgen import bootstrap
from maskgen.analysis.samples import Item
from maskgen.analysis.separation import RIDGE, auroc, histogram_edges, overlap_coefficient, probe_auroc
from maskgen.bootstrap import BootstrapEstimate
from maskgen.errors import MaskgenError

FOLDS = 5
_TOO_FEW = "too few texts have tokens and another text's picture to be compared with. Give more samples."
Pool = Literal["mean", "pairs"]


class StateReader(Protocol):
    """A model that gives the states of pictures and texts: `AttentionReader`, `PeerReader`,
    or `llava.LlavaReader`.
    """

    name: str
    model_type: str

    def hidden_states(self, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each item float32 (N, width) of its image tokens and (T, width) of its text's."""
        ...


@dataclass(frozen=True)
class Similarity:
    """`matching`, `other`: float64 (pairs,), the cosine of each text with its own picture and with another.

    `probe`: AUROC of a linear probe on each fold. `skipped`: items without text or without a partner.
    """

    name: str
    model_type: str
    pool: Pool
    matching: np.ndarray
    other: np.ndarray
    auroc: BootstrapEstimate
    overlap: float
    probe: list[float]
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the histogram's counts."""
        steps = histogram_edges(self.matching, self.other)
        return {
            "model": self.name,
            "architecture": self.model_type,
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


def measure_similarity(
    reader: StateReader,
    items: Sequence[Item],
    pool: Pool = "mean",
    folds: int = FOLDS,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Similarity:
    """Compare each text with its own picture and with another one, drawn at random and read by the model
    anew.

    The probe gets the mean image state, the mean text state and their product, number by number, and is
    tested on pictures it was not fitted on: partners come from the same fold. Every text stands once with its
    own picture and once with another, so neither alone says which it is. `progress` is called with how many
    of twice the texts have been read. MaskgenError as `pair_items`.
    """
    pictures, texts = [], []
    for item in items:
        pictures.append(item.image_id())
        texts.append(" ".join(item.text.split()).casefold())
    rows, partners, fold = pair_items(pictures, texts, folds, seed)
    if len(np.unique(fold)) < folds:
        raise MaskgenError(_TOO_FEW)
    own = _PooledStates(reader.hidden_states(items[row] for row in rows.tolist()), pool, progress)
    swapped = (
        items[row].with_image_of(items[partner])
        for row, partner in zip(rows.tolist(), partners.tolist(), strict=True)
    )
    other = _PooledStates(reader.hidden_states(swapped), pool, lambda done: progress(len(rows) + done))
    valid = own.valid & other.valid
    if not all(valid[fold == number].any() for number in range(folds)):
        raise MaskgenError(_TOO_FEW)
    matching, non_matching = own.cosines[valid], other.cosines[valid]
    features = np.concatenate([own.features[valid], other.features[valid]])
    labels = np.repeat([True, False], int(valid.sum()))
    return Similarity(
        reader.name,
        reader.model_type,
        pool,
        matching,
        non_matching,
        bootstrap.row_statistic(
            lambda drawn: auroc(matching[drawn], non_matching[drawn]), len(matching), seed=seed
        ),
        overlap_coefficient(matching, non_matching),
        probe_auroc(features, labels, np.tile(fold[valid], 2)),
        len(items) - int(valid.sum()),
    )


def pair_items(
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
        members = random.permutation(np.flatnonzero(folds_of == fold)).tolist()
        for place, row in enumerate(members):
            following = (members[(place + step) % len(members)] for step in range(1, len(members)))
            other = next(
                (n for n in following if pictures[n] != pictures[row] and texts[n] != texts[row]), None
            )
            if other is not None:
                chosen.append(row)
                partners.append(other)
    return np.array(chosen, int), np.array(partners, int), folds_of[np.array(chosen, int)]


class _PooledStates:
    """States of many items as one row each.

    `valid`: bool (items,), those with a token of text and of image. `cosines`: float64 (items,). `features`:
    float32 (items, 3 width), mean image state, mean text state, product.
    """

    def __init__(
        self, states: Iterable[tuple[np.ndarray, np.ndarray]], pool: Pool, progress: Callable[[int], None]
    ):
        valid, cosines, features = [], [], []
        for done, (image, text) in enumerate(states, 1):
            progress(done)
            valid.append(bool(len(image) and len(text)))
            if not valid[-1]:
                image, text = np.zeros((1, image.shape[1])), np.zeros((1, text.shape[1]))
            one, other = image.mean(axis=0, dtype=np.float64), text.mean(axis=0, dtype=np.float64)
            if pool == "mean":
                cosines.append(float(_normalised(one) @ _normalised(other)))
            else:  # the mean of all cosines is the product of the mean directions
                cosines.append(float(_normalised(image).mean(axis=0) @ _normalised(text).mean(axis=0)))
            features.append(np.concatenate([one, other, one * other]).astype(np.float32))
        self.valid, self.cosines, self.features = np.array(valid), np.array(cosines), np.stack(features)


def _normalised(states: np.ndarray) -> np.ndarray:
    """Each state (..., width) at length 1."""
    states = np.asarray(states, np.float64)
    scaled: np.ndarray = states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
    return scaled
