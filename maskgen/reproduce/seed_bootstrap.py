"""Means and intervals over seeds and scenes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskgen.bootstrap import figure

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval at `bootstrap.LEVEL`, and the mean of each seed."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def sure(self) -> int:
        """1 if all of the interval is above zero, -1 if all is below, 0 if it holds zero."""
        return int(self.low > 0) - int(self.high < 0)


def estimate(values: Sequence[np.ndarray], scenes: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """The mean over seeds of the mean over questions, with an interval from a bootstrap in two steps.

    `values`: an array for each seed, float (questions,), NaN where a figure does not exist; `scenes`: the
    scene of each question, int (questions,), alike for all seeds. Seeds are drawn again, and scenes with all
    their questions: the interval holds what another training and other scenes would have changed. With one
    seed it speaks of the scenes alone.
    """
    kinds, members = np.unique(np.concatenate(scenes), return_inverse=True)
    bounds = np.cumsum([0, *(len(each) for each in values)])
    sums, counts = (np.zeros((len(values), len(kinds))) for _ in range(2))
    for number, each in enumerate(values):
        there = ~np.isnan(each)
        place = members[bounds[number] : bounds[number + 1]][there]
        np.add.at(sums[number], place, each[there])
        np.add.at(counts[number], place, 1)
    random = np.random.default_rng(seed)
    often = random.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), DRAWS)
    drawn = (often @ sums.T) / np.maximum(often @ counts.T, 1)  # (draws, seeds)
    chosen = random.integers(0, len(values), (DRAWS, len(values)))
    means = np.take_along_axis(drawn, chosen, axis=1).mean(axis=1)
    own = sums.sum(axis=1) / counts.sum(axis=1)
    found = figure(float(own.mean()), means)
    return Estimate(found.value, found.low, found.high, tuple(own.tolist()))
