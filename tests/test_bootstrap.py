"""Intervals are as wide as the pictures say, and no value of a figure is lost in them."""

import math

import numpy as np
import pytest

from maskgen.bootstrap import figure, means, statistic


def test_a_bootstrap_interval_narrows_with_the_pictures_not_with_the_samples():
    random = np.random.default_rng(0)
    few = random.normal(1, 1, (30, 1))
    (first,) = means(few, np.arange(30))
    assert first.value == pytest.approx(few.mean())
    assert first.low < first.value < first.high
    (again,) = means(np.repeat(few, 20, axis=0), np.repeat(np.arange(30), 20))
    assert again.high - again.low == pytest.approx(first.high - first.low)
    (many,) = means(random.normal(1, 1, (3000, 1)), np.arange(3000))
    assert many.high - many.low < (first.high - first.low) / 4


def test_a_statistics_interval():
    values = np.random.default_rng(0).normal(size=400)
    found = statistic(lambda rows: float(np.median(values[rows])), 400)
    assert found.value == np.median(values)
    assert found.low < found.value < found.high


def test_draws_without_a_value_do_not_count():
    draws = np.array([*range(101), np.nan])
    found = figure(50.0, draws)
    assert (found.value, found.low, found.high) == pytest.approx((50, 2.5, 97.5))
    none = figure(1.0, np.full(3, np.nan))
    assert none.value == 1 and math.isnan(none.low) and math.isnan(none.high)
