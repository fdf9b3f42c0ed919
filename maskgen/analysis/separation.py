"""How far two samples of scores lie apart: AUROC, overlap, and a linear probe tested on other pictures."""

import numpy as np
import torch

RIDGE = 0.1
"""The probe's regularisation: the weight of |w|^2 / 2 beside the mean logistic loss."""

BINS = 40


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that a positive score is above a negative one, a tie counting half: 0.5 is chance."""
    return float(auroc_per_positive(positive, negative).mean())


def auroc_per_positive(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The share of negative scores below each positive one, a tie counting half, float (positives,)."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    share: np.ndarray = (below + up_to) / (2 * len(negative))
    return share


def histogram_edges(*scores: np.ndarray) -> np.ndarray:
    """`BINS` + 1 equal steps over the range of all scores."""
    low, high = min(float(each.min()) for each in scores), max(float(each.max()) for each in scores)
    return np.linspace(low, high if high > low else low + 1e-6, BINS + 1)


def overlap_coefficient(one: np.ndarray, other: np.ndarray) -> float:
    """The overlap coefficient: what two histograms of area 1 over `histogram_edges` have in common, 0-1."""
    steps = histogram_edges(one, other)
    first, second = (np.histogram(each, steps)[0] / len(each) for each in (one, other))
    return float(np.minimum(first, second).sum())


def probe_auroc(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, ridge: float = RIDGE
) -> list[float]:
    """AUROC of a logistic regression on each fold, fitted on the others.

    `features`: float (pairs, width); `labels`: bool (pairs,); `folds`: int (pairs,). Features are
    standardised by the fitting pairs' mean and deviation. Deterministic.
    """
    found = []
    for fold in np.unique(folds):
        held = folds == fold
        centre, spread = features[~held].mean(axis=0), features[~held].std(axis=0)
        scaled = (features - centre) / np.where(spread > 1e-6, spread, 1)
        weights, bias = fit_logistic(scaled[~held], labels[~held], ridge)
        scores = scaled[held] @ weights + bias
        found.append(auroc(scores[labels[held]], scores[~labels[held]]))
    return found


def fit_logistic(features: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """The least mean logistic loss + ridge |w|^2 / 2; the bias is not regularised."""
    x = torch.from_numpy(np.asarray(features, np.float64))
    signs = torch.from_numpy(np.where(labels, 1.0, -1.0))
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        margins = signs * (x @ weights[:-1] + weights[-1])
        total: torch.Tensor = torch.nn.functional.softplus(-margins).mean()
        total = total + ridge * weights[:-1].square().sum() / 2
        total.backward()
        return total

    solver.step(loss)
    solved = weights.detach().numpy()
    return solved[:-1], float(solved[-1])
