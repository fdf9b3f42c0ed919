"""How far a figure would move on other questions of the same kind: a bootstrap over clusters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskgen.bootstrap import DRAWS, BootstrapEstimate, percentile_interval
from maskgen.evaluation.question import Question
from maskgen.evaluation.weighted_scores import Measure


@dataclass(frozen=True)
class Drawn:
    """A figure on the questions as they are, and on every resample, float (resamples,)."""

    value: float
    resampled: np.ndarray

    def __sub__(self, other: "Drawn") -> "Drawn":
        """The paired difference: both were drawn together."""
        return Drawn(self.value - other.value, self.resampled - other.resampled)

    def figure(self) -> BootstrapEstimate:
        """With its percentile interval."""
        return percentile_interval(self.value, self.resampled)


def draw(
    questions: Sequence[Question],
    measures: Mapping[str, Measure],
    resamples: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Drawn]]:
    """The figures of every measure, by its name and theirs, on the same resamples of `questions`.

    Whole clusters are drawn, with replacement, since questions about one picture are right or wrong together;
    an interval over single questions would be too narrow.
    """
    names = [question.cluster or f"question {question.id}" for question in questions]
    _, cluster = np.unique(np.array(names, str), return_inverse=True)
    count, random = int(cluster.max()) + 1, np.random.default_rng(seed)
    values = {name: measure(np.ones(len(questions))) for name, measure in measures.items()}
    drawn = {name: {key: np.empty(resamples) for key in figures} for name, figures in values.items()}
    for number in range(resamples):
        weights = np.bincount(random.integers(count, size=count), minlength=count)[cluster]
        for name, measure in measures.items():
            for key, value in measure(weights).items():
                drawn[name][key][number] = value
    return {
        name: {key: Drawn(value, drawn[name][key]) for key, value in figures.items()}
        for name, figures in values.items()
    }
