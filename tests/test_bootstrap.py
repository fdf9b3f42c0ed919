"""Intervals are as wide as the pictures say, and no value of a figure is lost in them."""

import math

import numpy as np
import pytest

from maskgen.bootstrap import clustered_means, clustered_seed_mean, percentile_interval, row_statistic


def test_a_bootstrap_interval_narrows_with_the_pictures_not_with_the_samples():
    random = np.random.default_rng(0)
    few = random.normal(1, 1, (30, 1))
    (first,) = clustered_means(few, np.arange(30))
    assert first.value == pytest.approx(few.mean())
    assert first.low < first.value < first.high
    (again,) = clustered_means(np.repeat(few, 20, axis=0), np.repeat(np.arange(30), 20))
    assert again.high - again.low == pytest.approx(first.high - first.low)
    (many,) = clustered_means(random.normal(1, 1, (3000, 1)), np.arange(3000))
    assert many.high - many.low < (first.high - first.low) / 4


def test_a_statistics_interval():
    values = np.random.default_rng(0).normal(size=400)
    found = row_statistic(lambda rows: float(np.median(values[rows])), 400)
    assert found.value == np.median(values)
    assert found.low < found.value < found.high


def test_draws_without_a_value_do_not_count():
    draws = np.array([*range(101), np.nan])
    found = percentile_interval(50.0, draws)
    assert (found.value, found.low, found.high) == pytest.approx((50, 2.5, 97.5))
    none = percentile_interval(1.0, np.full(3, np.nan))
    assert none.value == 1 and math.isnan(none.low) and math.isnan(none.high)


def test_seeds_and_samples_without_spread_have_no_interval():
    one = clustered_seed_mean([np.ones(4), np.ones(4)], [np.arange(4)] * 2)
    assert (one.value, one.low, one.high, one.seeds) == (1, 1, 1, (1, 1))
    assert one.sign == 1


def test_seeds_count_alike_and_missing_figures_do_not_count():
    one = clustered_seed_mean([np.array([1, np.nan, 0]), np.array([1.0, 1, 1])], [np.array([0, 0, 1])] * 2)
    assert one.seeds == (0.5, 1.0)
    assert one.value == 0.75


def test_the_spread_of_seeds_is_in_the_interval():
    """Questions that agree perfectly leave only the seeds to differ."""
    one = clustered_seed_mean([np.full(50, level) for level in (0.2, 0.5, 0.8)], [np.arange(50)] * 3)
    assert one.low == pytest.approx(0.2) and one.high == pytest.approx(0.8)


def test_questions_of_one_scene_are_drawn_together():
    """Copies of a scene's answer must not make the interval narrower."""
    random = np.random.default_rng(0)
    answers = random.integers(0, 2, 60).astype(float)
    alone = clustered_seed_mean([answers], [np.arange(60)])
    copied = clustered_seed_mean([np.repeat(answers, 9)], [np.repeat(np.arange(60), 9)])
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.05)


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """100 scenes of two questions with an effect of their own: 95 %, less the bootstrap's usual bit."""
    random = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        level = np.clip(random.normal(0.6, 0.2, 100), 0, 1)
        answers = (random.random((100, 2)) < level[:, None]).astype(float).ravel()
        one = clustered_seed_mean([answers], [np.repeat(np.arange(100), 2)], seed=trial)
        held += one.low <= 0.6 <= one.high
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize(("shift", "sign"), [(0.5, 1), (0.0, 0), (-0.5, -1)])
def test_the_sign_is_known_where_zero_is_outside(shift, sign):
    noise = np.random.default_rng(2).normal(0, 0.3, (3, 80)) + shift
    assert clustered_seed_mean(list(noise), [np.arange(80)] * 3).sign == sign
