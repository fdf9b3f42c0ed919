"""Mass, pointing and IoU by hand, and what even attention is expected to have by going through all draws."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.analysis.attention_metrics import attention_metrics, uniform_metrics


def test_figures_by_hand():
    maps = np.array([[[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]])  # one layer, two samples
    masks = np.array([[True, False, True, False], [True, True, False, False]])
    found = attention_metrics(maps, masks)
    np.testing.assert_allclose(found.mass, [[0.7, 0.3]])
    np.testing.assert_array_equal(found.pointing, [[1, 0]])
    np.testing.assert_allclose(found.iou, [[1 / 3, 0]])  # the two strongest are 0 and 1; then 3 and 2


def test_maps_that_do_not_sum_to_one_are_shares_of_their_sum():
    maps, masks = np.array([[0.2, 0.1, 0.1]]), np.array([[True, False, False]])
    assert attention_metrics(maps, masks).mass == pytest.approx(0.5)


def test_ties_for_the_peak_count_by_their_share():
    assert attention_metrics(np.array([[1.0, 1.0, 0.0]]), np.array([[True, False, False]])).pointing == 0.5


@pytest.mark.parametrize(("maps", "mask"), [([0.0, 0.0], [True, False]), ([0.5, 0.5], [False, False])])
def test_nothing_to_measure_is_nan(maps, mask):
    found = attention_metrics(np.array([maps]), np.array([mask]))
    assert np.isnan([found.mass, found.pointing, found.iou]).all()


@given(st.integers(0, 2**31), st.integers(2, 7))
def test_perfect_attention_has_everything_and_no_attention_has_more(seed, cells):
    random = np.random.default_rng(seed)
    mask = random.random((1, cells)) < 0.5
    mask[0, random.integers(cells)] = True
    perfect = attention_metrics(mask.astype(float), mask)
    assert (perfect.mass, perfect.pointing, perfect.iou) == (1, 1, 1)
    other = attention_metrics(random.random((1, cells)), mask)
    assert 0 <= other.mass[0] <= 1 and 0 <= other.iou[0] <= 1 and other.pointing[0] in (0, 1)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(0, 127))
def test_even_attention_is_the_mean_over_all_draws(mask, closed):
    wanted = np.array(mask)
    allowed = np.array([not closed >> place & 1 for place in range(len(mask))])
    found = uniform_metrics(wanted[None], allowed[None])
    if not wanted.any() or not allowed.any():
        assert np.isnan(found.iou).all()
        return
    places = np.flatnonzero(allowed)
    count = min(int(wanted.sum()), len(places))
    ious = []
    for drawn in combinations(places.tolist(), count):
        hits = wanted[list(drawn)].sum()
        ious.append(hits / (wanted.sum() + count - hits))
    assert found.iou[0] == pytest.approx(np.mean(ious))
    assert found.mass[0] == found.pointing[0] == pytest.approx(wanted[places].mean())
