"""Cleaning, rasterising and prompting with polygons."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon

from maskgen.errors import SampleError
from maskgen.grounding.polygon import MIN_WIDTH, box, clean, interior_points, rasterise
from maskgen.outcome import Outcome

coordinates = st.one_of(
    st.floats(-20, 120),
    st.integers(-2, 12).map(lambda i: i * 10.0),  # shared and border coordinates
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 50.5]),
)
rings = st.lists(st.tuples(coordinates, coordinates), max_size=12).map(
    lambda points: np.array(points, float).reshape(-1, 2)
)


def square(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def centres_inside(region: MultiPolygon, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels whose centre is strictly inside, and those whose centre is inside or on the outline."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    centres = np.asarray(shapely.points(x, y))
    with np.errstate(all="ignore"):  # of GEOS
        touched = np.asarray(shapely.distance(region, centres)) < 1e-9
        on_outline = np.asarray(shapely.distance(region.boundary, centres)) < 1e-9
    return touched & ~on_outline, touched


@given(st.lists(rings, max_size=4))
@settings(deadline=None)
def test_whatever_the_points_the_region_is_valid_and_in_the_image(polygons):
    try:
        region = clean(polygons, 100, 80)
    except SampleError as error:
        assert polygons and error.outcome == Outcome.DEGENERATE_POLYGON
        return
    assert isinstance(region, MultiPolygon) and region.is_valid
    assert region.is_empty == (not polygons)
    for part in region.geoms:
        assert 2 * part.area >= MIN_WIDTH * part.length > 0
    if not region.is_empty:
        x0, y0, x1, y1 = box(region)
        assert -1e-9 <= x0 < x1 <= 100 + 1e-9 and -1e-9 <= y0 < y1 <= 80 + 1e-9


@given(st.lists(rings, min_size=1, max_size=4))
@settings(deadline=None)
@pytest.mark.slow
def test_a_pixel_is_in_when_its_centre_is(polygons):
    try:
        region = clean(polygons, 100, 80)
    except SampleError:
        return
    mask = rasterise(region, 100, 80)
    strictly, touched = centres_inside(region, 100, 80)
    assert mask.shape == (80, 100) and mask.dtype == bool
    assert mask.any()
    if touched.any():
        assert not (strictly & ~mask).any()
        assert not (mask & ~touched).any() or mask.sum() == 1


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, 1), (5, 5)],
        [(1, 1), (5, 5), (9, 9)],
        [(1, 1), (1, 1), (1, 1), (1, 1)],
        [(np.nan, 1), (5, np.inf), (9, 9), (3, 4)],
        [(200, 200), (300, 200), (300, 300)],
        [(0, 0), (90, 0), (90, 0.09), (0, 0.09)],
    ],
)
def test_nothing_usable_is_degenerate(points):
    with pytest.raises(SampleError) as caught:
        clean([np.array(points, float)], 100, 80)
    assert caught.value.outcome == Outcome.DEGENERATE_POLYGON


def test_no_polygons_are_an_empty_region():
    region = clean([], 100, 80)
    assert region.is_empty and not rasterise(region, 100, 80).any()


def test_a_good_polygon_survives_a_bad_one():
    region = clean([np.zeros((2, 2)), square(10, 10, 20, 20)], 100, 80)
    assert region.area == pytest.approx(100)


def test_polygons_are_united_and_clipped():
    assert clean([square(0, 0, 10, 10), square(5, 0, 15, 10)], 100, 80).area == pytest.approx(150)
    assert clean([square(-50, -50, 10, 10)], 100, 80).area == pytest.approx(100)


def test_a_bow_tie_keeps_both_wings():
    region = clean([np.array([(0, 0), (40, 40), (40, 0), (0, 40)], float)], 100, 80)
    assert region.area == pytest.approx(800)
    assert rasterise(region, 100, 80)[[20, 20, 5, 35], [5, 35, 20, 20]].tolist() == [True, True, False, False]


def test_slivers_go_and_poles_stay():
    pole, sliver = square(10, 10, 10.6, 70), square(30, 10, 30.09, 70)
    region = clean([pole, sliver], 100, 80)
    assert region.bounds == pytest.approx((10, 10, 10.6, 70))


def test_a_hole_stays_open():
    ring = Polygon(square(10, 10, 40, 40), [square(20, 20, 30, 30)])
    mask = rasterise(MultiPolygon([ring]), 100, 80)
    assert mask.sum() == 800 and not mask[20:30, 20:30].any()


def test_whole_pixels_are_exact():
    mask = rasterise(clean([square(3, 4, 8, 6)], 10, 10), 10, 10)
    expected = np.zeros((10, 10), bool)
    expected[4:6, 3:8] = True
    np.testing.assert_array_equal(mask, expected)


def test_the_whole_image():
    assert rasterise(clean([square(-5, -5, 500, 500)], 31, 17), 31, 17).all()


def test_less_than_a_pixel_is_one_pixel():
    for x, y in ((3.6, 4.6), (9.5, 9.5)):
        mask = rasterise(clean([square(x, y, x + 0.5, y + 0.5) - 0.05], 10, 10), 10, 10)
        assert mask.sum() == 1 and mask[int(y), int(x)]


@given(st.integers(0, 9999), st.booleans())
@settings(deadline=None)
def test_shared_edges_neither_double_nor_gap(seed, on_centres):
    """A triangulated square: each pixel belongs to exactly one triangle."""
    random = np.random.default_rng(seed)
    inner = random.random((12, 2)) * 30
    if on_centres:
        inner = np.floor(inner) + 0.5
    points = shapely.MultiPoint([*inner, *square(0, 0, 30, 30)])
    beside = Polygon(square(32, 0, 35, 5))  # so that no triangle without a centre is given a pixel
    times = np.zeros((30, 30), int)
    for triangle in shapely.get_parts(shapely.delaunay_triangles(points)):
        times += rasterise(MultiPolygon([triangle, beside]), 40, 30)[:, :30]
    assert (times == 1).all()


def test_rasterising_has_no_bias():
    """Over many random triangles, as much area is gained as lost."""
    random = np.random.default_rng(0)
    errors = []
    for _ in range(500):
        region = MultiPolygon([Polygon(random.random((3, 2)) * 100)])
        errors.append((rasterise(region, 100, 100).sum() - region.area) / region.length)
    assert abs(np.mean(errors)) < 0.003  # of a pixel's width along the outline; fillPoly has 0.3


@given(st.lists(rings, min_size=1, max_size=3), st.integers(1, 6))
@settings(deadline=None)
def test_interior_points_lie_inside_and_apart(polygons, count):
    try:
        region = clean(polygons, 100, 80)
    except SampleError:
        return
    points = interior_points(region, count)
    assert points.shape == (count, 2)
    assert shapely.contains_xy(region, points).all()
    assert len(np.unique(points, axis=0)) == count
    np.testing.assert_array_equal(points, interior_points(region, count))


def test_interior_points_keep_away_from_the_outline():
    region = clean([square(10, 10, 50, 30)], 100, 80)
    points = shapely.points(interior_points(region, 3))
    distances = np.asarray(shapely.distance(points, region.boundary))
    assert distances[0] == pytest.approx(10, abs=0.1)
    assert distances.min() > 3
