"""How far a figure would move on other questions of the same kind: a bootstrap over clusters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskgen.evaluation.figures import Measure
from maskgen.evaluation.question import Question

RESAMPLES = 1000
_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def intervals(
    questions: Sequence[Question], measure: Measure, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Figure]:
    """Every figure of `measure` with its percentile interval.

    Whole clusters are drawn, with replacement, since questions about one picture are right or wrong together;
    an interval over single questions would be too narrow. NaN for both ends without resamples.
    """
    values = measure(np.ones(len(questions)))
    names = [question.cluster or f"question {question.id}" for question in questions]
    _, cluster = np.unique(np.array(names, str), return_inverse=True)
    count, random = int(cluster.max()) + 1, np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples):
        weights = np.bincount(random.integers(count, size=count), minlength=count)[cluster]
        for name, value in measure(weights).items():
            drawn[name].append(value)
    return {name: Figure(value, *_ends(drawn[name])) for name, value in values.items()}


def _ends(values: list[float]) -> tuple[float, float]:
    known = np.array(values)[~np.isnan(values)] if values else np.array([])
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, _TAILS)
    return float(low), float(high)
