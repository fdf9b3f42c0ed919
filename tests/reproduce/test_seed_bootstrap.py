"""Intervals over seeds and scenes: what they must hold, and how often they do."""

import numpy as np
import pytest

from maskgen.reproduce.seed_bootstrap import estimate


def test_no_spread_is_no_interval():
    one = estimate([np.ones(4), np.ones(4)], [np.arange(4)] * 2)
    assert (one.value, one.low, one.high, one.seeds) == (1, 1, 1, (1, 1))
    assert one.sure == 1


def test_seeds_count_alike_and_missing_figures_do_not_count():
    one = estimate([np.array([1, np.nan, 0]), np.array([1.0, 1, 1])], [np.array([0, 0, 1])] * 2)
    assert one.seeds == (0.5, 1.0)
    assert one.value == 0.75


def test_the_spread_of_seeds_is_in_the_interval():
    """Questions that agree perfectly leave only the seeds to differ."""
    one = estimate([np.full(50, level) for level in (0.2, 0.5, 0.8)], [np.arange(50)] * 3)
    assert one.low == pytest.approx(0.2) and one.high == pytest.approx(0.8)


def test_questions_of_one_scene_are_drawn_together():
    """Copies of a scene's answer must not make the interval narrower."""
    random = np.random.default_rng(0)
    answers = random.integers(0, 2, 60).astype(float)
    alone = estimate([answers], [np.arange(60)])
    copied = estimate([np.repeat(answers, 9)], [np.repeat(np.arange(60), 9)])
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """100 scenes of two questions with an effect of their own: 95 %, less the bootstrap's usual bit."""
    random = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        level = np.clip(random.normal(0.6, 0.2, 100), 0, 1)
        answers = (random.random((100, 2)) < level[:, None]).astype(float).ravel()
        one = estimate([answers], [np.repeat(np.arange(100), 2)], seed=trial)
        held += one.low <= 0.6 <= one.high
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize(("shift", "sure"), [(0.5, 1), (0.0, 0), (-0.5, -1)])
def test_a_difference_is_sure_where_zero_is_outside(shift, sure):
    noise = np.random.default_rng(2).normal(0, 0.3, (3, 80)) + shift
    assert estimate(list(noise), [np.arange(80)] * 3).sure == sure
