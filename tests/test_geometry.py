"""The frame: the image and its mask go through one placement, and cells are covered exactly."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskgen.config import Grid
from maskgen.geometry import Frame, Placement, binarise

FITS = ("squash", "pad", "crop")
fits = st.sampled_from(FITS)
masks = st.builds(
    lambda height, width, seed, density: np.random.default_rng(seed).random((height, width)) < density,
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)


def exact_grid(frame: Frame, mask: np.ndarray) -> list[list[Fraction]]:
    """Share of each cell, by intersecting every pixel's rectangle with every cell's, in fractions."""
    height, width = mask.shape
    place = frame.placement(width, height)
    cell = Fraction(frame.size, frame.cells)

    def overlap(start: Fraction, end: Fraction, index: int) -> Fraction:
        return max(Fraction(0), min(end, (index + 1) * cell) - max(start, index * cell))

    shares = [[Fraction(0)] * frame.cells for _ in range(frame.cells)]
    for y, x in zip(*np.nonzero(mask), strict=True):
        left = place.left + Fraction(int(x) * place.width, width)
        top = place.top + Fraction(int(y) * place.height, height)
        for row in range(frame.cells):
            down = overlap(top, top + Fraction(place.height, height), row)
            for column in range(frame.cells):
                across = overlap(left, left + Fraction(place.width, width), column)
                shares[row][column] += down * across / cell**2
    return shares


def test_of_reads_the_configuration():
    assert Frame.of(Grid(fit="pad", size=512, cells=16)) == Frame("pad", 512, 16)


def test_placements():
    assert Frame("squash", 768, 24).placement(640, 480) == Placement(0, 0, 768, 768)
    assert Frame("pad", 768, 24).placement(640, 480) == Placement(0, 96, 768, 576)
    assert Frame("crop", 768, 24).placement(640, 480) == Placement(-128, 0, 1024, 768)
    assert Frame("pad", 768, 24).placement(1, 10_000) == Placement(383, 0, 1, 768)
    assert Frame("crop", 768, 24).placement(1, 10_000) == Placement(0, -3_839_616, 768, 7_680_000)


@given(fits, st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 1000))
def test_placement_keeps_its_promises(fit, width, height, size):
    place = Frame(fit, size, 3).placement(width, height)
    assert place.width > 0 and place.height > 0
    right, bottom = place.left + place.width, place.top + place.height
    assert abs(place.left - (size - right)) <= 1 and abs(place.top - (size - bottom)) <= 1
    if fit == "pad":
        assert min(place.left, place.top) >= 0 and max(right, bottom) <= size
        assert max(place.width, place.height) == size
    if fit == "crop":
        assert max(place.left, place.top) <= 0 and min(right, bottom) >= size
        assert min(place.width, place.height) == size
    if fit != "squash":
        assert abs(place.width * height - place.height * width) <= max(width, height)


@given(fits, masks, st.sampled_from([(12, 4), (7, 3), (5, 8), (10, 10), (1, 1)]))
@settings(deadline=None, max_examples=60)
@pytest.mark.slow
def test_grid_is_the_exact_coverage(fit, mask, frame):
    frame = Frame(fit, *frame)
    exact = exact_grid(frame, mask)
    grid = frame.grid(mask)
    assert grid.dtype == np.uint8 and grid.shape == (frame.cells, frame.cells)
    shown = any(share for row in exact for share in row)
    assert frame.visible(mask) == shown == bool(grid.any())
    rounded = np.array([[int(share * 255 + Fraction(1, 2)) for share in row] for row in exact], int)
    if rounded.any() or not shown:
        np.testing.assert_array_equal(grid, rounded)
    else:
        best = max(share for row in exact for share in row)
        (row,), (column,) = np.nonzero(grid)
        assert (grid[row, column], exact[row][column]) == (1, best)


@pytest.mark.parametrize("fit", FITS)
def test_one_pixel_of_a_large_image_stays_on(fit):
    mask = np.zeros((3000, 4000), bool)
    mask[1500, 2000] = True
    grid = Frame(fit, 768, 24).grid(mask)
    assert grid.sum() == 1 and grid[12, 12] == 1


def test_what_crop_cuts_off_is_not_visible():
    mask = np.zeros((100, 400), bool)
    mask[:, :140] = True
    assert not Frame("crop", 768, 24).visible(mask)
    assert not Frame("crop", 768, 24).grid(mask).any()
    assert Frame("squash", 768, 24).visible(mask)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (1, 1), (2, 3), (1, 300_000)])
def test_extreme_shapes(fit, shape):
    frame = Frame(fit, 768, 24)
    mask = np.ones(shape, bool)
    np.testing.assert_array_equal(frame.grid(mask), frame.image_cells(shape[1], shape[0]))
    framed = frame.image(np.full((*shape, 3), 77, np.uint8))
    assert framed.shape == (768, 768, 3) and (framed == 77).all()
    if fit != "pad":
        assert (frame.grid(mask) == 255).all()


@given(fits, st.integers(1, 60), st.integers(1, 60))
def test_image_cells_are_a_full_masks_grid(fit, width, height):
    frame = Frame(fit, 30, 7)
    np.testing.assert_array_equal(
        frame.image_cells(width, height), frame.grid(np.ones((height, width), bool))
    )


def test_padding_has_the_mean_colour():
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, :20] = (200, 100, 0)
    framed = Frame("pad", 80, 4).image(pixels)
    np.testing.assert_array_equal(framed[0, 0], [100, 50, 0])
    np.testing.assert_array_equal(framed[40, 5], [200, 100, 0])


@given(fits, st.integers(1, 90), st.integers(1, 90), st.integers(0, 99))
@settings(deadline=None)
@example("crop", 3, 90, 0)
def test_image_equals_resizing_the_whole_and_cutting(fit, width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    frame = Frame(fit, 48, 4)
    place = frame.placement(width, height)
    whole = np.asarray(
        Image.fromarray(pixels).resize((place.width, place.height), Image.Resampling.BILINEAR), int
    )
    framed = frame.image(pixels).astype(int)
    for y in range(48):
        for x in (0, 11, 24, 40, 47):
            if 0 <= y - place.top < place.height and 0 <= x - place.left < place.width:
                assert np.abs(framed[y, x] - whole[y - place.top, x - place.left]).max() <= 1


@given(
    fit=fits,
    width=st.integers(30, 200),
    height=st.integers(30, 200),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(deadline=None)
def test_image_and_mask_share_their_geometry(fit, width, height, corners):
    """A mask drawn as an image, through `image` and then averaged over cells, is the mask's grid."""
    xs, ys = sorted(corners[:2]), sorted(corners[2:])
    mask = np.zeros((height, width), bool)
    mask[int(ys[0] * height) : int(ys[1] * height) + 1, int(xs[0] * width) : int(xs[1] * width) + 1] = True
    frame = Frame(fit, 192, 6)
    drawn = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    pooled = frame.image(drawn)[..., 0].reshape(6, 32, 6, 32).mean(axis=(1, 3))
    inside = frame.image_cells(width, height) == 255  # padding is coloured, not masked
    difference = np.abs(pooled - frame.grid(mask).astype(float))[inside]
    # Interpolation blurs edges over a source pixel and is skewed only at the image's own border.
    assert difference.size == 0 or difference.max() <= 255 * 0.06


def test_a_shifted_frame_would_be_noticed():
    """The comparison above tells a drift of three frame pixels apart from none."""
    mask = np.zeros((120, 160), bool)
    mask[30:70, 40:90] = True
    frame = Frame("squash", 192, 6)
    drawn = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    pooled = np.roll(frame.image(drawn)[..., 0], 3, axis=1).reshape(6, 32, 6, 32).mean(axis=(1, 3))
    assert np.abs(pooled - frame.grid(mask)).max() > 255 * 0.06


def test_a_mask_too_thin_for_half_a_cell_keeps_its_best_one():
    grid = np.zeros((3, 3), np.uint8)
    assert not binarise(grid).any()
    grid[0, 1], grid[2, 2] = 90, 40
    assert binarise(grid).nonzero() == (np.array([0]), np.array([1]))
    grid[2, 2] = 128
    assert binarise(grid).sum() == 1 and binarise(grid)[2, 2]
