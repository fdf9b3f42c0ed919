"""Bootstrap intervals: how far a figure could be off, had other pictures been drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRAWS, LEVEL = 1000, 0.95
_CHUNK = 50


@dataclass(frozen=True)
class Figure:
    """A value and its interval at `LEVEL`, NaN to NaN if there is none."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def figure(value: float, draws: np.ndarray) -> Figure:
    """`value` with its percentile interval over `draws`, float (draws,), of which NaN do not count."""
    known = draws[~np.isnan(draws)]
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(known) else (np.nan, np.nan)
    return Figure(value, float(low), float(high))


def means(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> list[Figure]:
    """The mean of every column of `values`, float (samples, columns), with a percentile interval.

    Drawn are whole `groups`, int (samples,): samples of the same picture are not independent.
    """
    kinds, members = np.unique(groups, return_inverse=True)
    counts = np.bincount(members).astype(float)
    sums = np.zeros((len(kinds), values.shape[1]))
    np.add.at(sums, members, values)
    random = np.random.default_rng(seed)
    drawn = []
    for first in range(0, DRAWS, _CHUNK):  # or the weights of 100,000 groups would not fit
        often = random.multinomial(
            len(kinds), np.full(len(kinds), 1 / len(kinds)), min(_CHUNK, DRAWS - first)
        )
        drawn.append((often @ sums) / (often @ counts)[:, None])
    return [
        figure(float(value), draws)
        for value, draws in zip(values.mean(axis=0), np.concatenate(drawn).T, strict=True)
    ]


def statistic(compute: Callable[[np.ndarray], float], count: int, draws: int = 200, seed: int = 0) -> Figure:
    """`compute` of all of `count` rows, given as their numbers, with an interval over rows drawn again."""
    random = np.random.default_rng(seed)
    found = [compute(random.integers(0, count, count)) for _ in range(draws)]
    return figure(compute(np.arange(count)), np.array(found))
