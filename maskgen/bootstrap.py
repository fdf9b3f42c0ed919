"""Bootstrap intervals: how far a figure could be off, had other images, rows or seeds been drawn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS, LEVEL = 1000, 0.95
SEED_DRAWS = 2000
_CHUNK = 50


@dataclass(frozen=True)
class BootstrapEstimate:
    """A value and its interval at `LEVEL`, NaN to NaN if there is none."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class SeedEstimate:
    """A mean with its interval at `LEVEL`, and the mean of each seed."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def sign(self) -> int:
        """1 if all of the interval is above zero, -1 if all is below, 0 if it holds zero."""
        return int(self.low > 0) - int(self.high < 0)


def percentile_interval(value: float, draws: np.ndarray) -> BootstrapEstimate:
    """`value` with its percentile interval over `draws`, float (draws,), of which NaN do not count."""
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(known) else (np.nan, np.nan)
    return BootstrapEstimate(value, float(low), float(high))


def clustered_means(values: np.ndarray, clusters: np.ndarray, seed: int = 0) -> list[BootstrapEstimate]:
    """The mean of every column of `values`, float (samples, columns), with a percentile interval.

    Drawn are whole `clusters`, int (samples,): samples of the same image are not independent.
    """
    kinds, members = np.unique(clusters, return_inverse=True)
    counts = np.bincount(members).astype(float)
    sums = np.zeros((len(kinds), values.shape[1]))
    np.add.at(sums, members, values)
    drawn = [
        (weights @ sums) / (weights @ counts)[:, None]
        for weights in _cluster_weights(len(kinds), DRAWS, np.random.default_rng(seed))
    ]
    return [
        percentile_interval(float(value), draws)
        for value, draws in zip(values.mean(axis=0), np.concatenate(drawn).T, strict=True)
    ]


def clustered_seed_mean(
    values: Sequence[np.ndarray], clusters: Sequence[np.ndarray], seed: int = 0
) -> SeedEstimate:
    """The mean over training seeds of the mean over samples, with an interval from a bootstrap in two steps.

    `values`: an array for each training seed, float (samples,), NaN where a figure does not exist;
    `clusters`: the cluster of each sample, int (samples,), alike for all training seeds. Training seeds are
    drawn again, and clusters with all their samples: the interval holds what another training and other
    images would have changed. With one training seed it speaks of the clusters alone. `seed` is the
    bootstrap's own.
    """
    kinds, members = np.unique(np.concatenate(clusters), return_inverse=True)
    bounds = np.cumsum([0, *(len(each) for each in values)])
    sums, counts = (np.zeros((len(values), len(kinds))) for _ in range(2))
    for number, each in enumerate(values):
        known = ~np.isnan(each)
        place = members[bounds[number] : bounds[number + 1]][known]
        np.add.at(sums[number], place, each[known])
        np.add.at(counts[number], place, 1)
    random = np.random.default_rng(seed)
    weights = np.concatenate(list(_cluster_weights(len(kinds), SEED_DRAWS, random)))
    drawn = (weights @ sums.T) / np.maximum(weights @ counts.T, 1)  # (draws, training seeds)
    chosen = random.integers(0, len(values), (SEED_DRAWS, len(values)))
    means = np.take_along_axis(drawn, chosen, axis=1).mean(axis=1)
    of_seeds = sums.sum(axis=1) / counts.sum(axis=1)
    found = percentile_interval(float(of_seeds.mean()), means)
    return SeedEstimate(found.value, found.low, found.high, tuple(of_seeds.tolist()))


def row_statistic(
    compute: Callable[[np.ndarray], float], count: int, draws: int = 200, seed: int = 0
) -> BootstrapEstimate:
    """`compute` of all of `count` rows, given as their numbers, with an interval over rows drawn again."""
    random = np.random.default_rng(seed)
    found = [compute(random.integers(0, count, count)) for _ in range(draws)]
    return percentile_interval(compute(np.arange(count)), np.array(found))


def _cluster_weights(clusters: int, draws: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, int (up to `_CHUNK`, clusters) at a time, `draws` rows in all.

    In chunks, since the weights of 100,000 clusters would not fit at once.
    """
    shares = np.full(clusters, 1 / clusters)
    for first in range(0, draws, _CHUNK):
        yield random.multinomial(clusters, shares, min(_CHUNK, draws - first))
