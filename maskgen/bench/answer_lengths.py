"""How long answers are where the weights are random: drawn for each image, and the same for every way."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

COUNT = 32
SPREAD = 0.45  # of the logarithm
SHORTEST = 12
WORDS = tuple(f"{first}{vowel}" for first in "bdgkmnpr" for vowel in "aeio")
"""Words that end a query and say how long its answer is: short, and none of them in the scenes' texts."""


@dataclass(frozen=True)
class Lengths:
    """A log-normal distribution of tokens an answer, by its mean, as 32 values equally likely."""

    mean: int

    @property
    def values(self) -> list[int]:
        """The 32 lengths in tokens, end token included, shortest first."""
        middle = self.mean / float(np.exp(SPREAD**2 / 2))
        draws = [NormalDist().inv_cdf((number + 0.5) / COUNT) for number in range(COUNT)]
        return [max(SHORTEST, round(middle * float(np.exp(SPREAD * draw)))) for draw in draws]

    @property
    def longest(self) -> int:
        """The largest of them."""
        return self.values[-1]

    def draw(self, count: int, seed: int) -> list[str]:
        """The word that ends each of `count` queries."""
        drawn = np.random.default_rng(seed).integers(COUNT, size=count)
        return [WORDS[number] for number in drawn]

    def __str__(self) -> str:
        low, high = self.values[0], self.longest
        return (
            f"log-normal of mean {self.mean} and sigma {SPREAD}, in {COUNT} steps from {low} to {high} tokens"
        )
