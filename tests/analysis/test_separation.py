"""AUROC against all pairs, the overlap's ends, and a probe that finds what is there and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.analysis.separation import auroc, fit_logistic, overlap_coefficient, probe_auroc

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_order(positive, negative):
    one, other = np.array(positive, float), np.array(negative, float)
    pairs = np.sign(one[:, None] - other[None]) / 2 + 0.5
    assert auroc(one, other) == pytest.approx(pairs.mean())
    assert auroc(other, one) == pytest.approx(1 - pairs.mean())


def test_overlap_from_none_to_all():
    values = np.random.default_rng(0).normal(size=500)
    assert overlap_coefficient(values, values) == pytest.approx(1)
    assert overlap_coefficient(values, values + 100) == 0
    assert 0.3 < overlap_coefficient(values, values + 1) < 0.9
    assert overlap_coefficient(np.ones(3), np.ones(3)) == 1


def test_logistic_is_at_its_least():
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(60, 4)), random.random(60) < 0.4
    weights, bias = fit_logistic(x, labels, 0.1)
    wrong = 1 / (1 + np.exp(-(x @ weights + bias))) - labels
    np.testing.assert_allclose(x.T @ wrong / 60 + 0.1 * weights, 0, atol=1e-5)
    assert wrong.mean() == pytest.approx(0, abs=1e-5)


def test_a_probe_finds_what_is_there_on_pairs_it_has_not_seen():
    random = np.random.default_rng(0)
    labels, folds = np.tile([True, False], 150), np.arange(300) // 60
    noise = random.normal(size=(300, 40))
    assert 0.35 < np.mean(probe_auroc(noise, labels, folds)) < 0.65
    assert np.mean(probe_auroc(noise + 3 * labels[:, None] * (np.arange(40) == 7), labels, folds)) > 0.9
    constant = np.ones((300, 3))
    assert probe_auroc(constant, labels, folds) == [0.5] * 5
