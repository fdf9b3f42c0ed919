"""Figures from readings, under weights: a question drawn twice by the bootstrap counts twice."""

from collections.abc import Callable, Sequence

import numpy as np

from maskgen.evaluation.question import Question, Reading

Measure = Callable[[np.ndarray], dict[str, float]]
"""From a weight a question, float or int (N,), to figures by name; NaN where there is nothing to count."""

Figures = Callable[[Sequence[Question], Sequence[Reading]], Measure]


def rights(readings: Sequence[Reading]) -> np.ndarray:
    """Bool (N,)."""
    return np.array([reading.right for reading in readings], bool)


def column(questions: Sequence[Question], name: str) -> np.ndarray:
    """The group `name` of every question, str (N,); "" where it has none."""
    return np.array([question.groups.get(name, "") for question in questions], object)


def ratio(part: float, whole: float) -> float:
    """`part` / `whole`, NaN for nothing of nothing."""
    return float(part) / float(whole) if whole else float("nan")


def mean(right: np.ndarray, weights: np.ndarray, among: np.ndarray | None = None) -> float:
    """Weighted share of `right`, bool (N,), `among` those of a mask."""
    if among is not None:
        right, weights = right[among], weights[among]
    return ratio(weights[right].sum(), weights.sum())


def all_of(right: np.ndarray, keys: Sequence[str]) -> Callable[[np.ndarray], float]:
    """The share of groups all of whose questions are right. A group weighs as its first question does."""
    _, first, group = np.unique(np.array(keys, str), return_index=True, return_inverse=True)
    wrong = np.bincount(group, ~right, minlength=len(first)) > 0
    return lambda weights: mean(~wrong, weights[first])


def accuracy(group: str = "") -> Figures:
    """The share of right answers, 0-1: over all, and under each name of `group`."""

    def figures(questions: Sequence[Question], readings: Sequence[Reading]) -> Measure:
        right = rights(readings)
        groups = column(questions, group) if group else np.array([], object)
        masks = {name: groups == name for name in sorted(set(groups) - {""})}

        def measure(weights: np.ndarray) -> dict[str, float]:
            found = {"accuracy": mean(right, weights)}
            return found | {name: mean(right, weights, mask) for name, mask in masks.items()}

        return measure

    return figures
