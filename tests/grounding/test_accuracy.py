"""How far grids are from the truth, measured two ways that share no code with the pipeline.

Against their own pixel mask, through prefix sums evaluated at the cells' edges; and against the
exact areas of polygon and cell, by intersecting shapes.
"""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shapely import Polygon
from shapely.affinity import affine_transform

from maskgen.config import Grid
from maskgen.geometry import Frame
from maskgen.grounding.polygon import clean, rasterise

SIZE, CELLS = 768, 24
FITS = ("squash", "pad", "crop")


def scale_and_shift(fit: str, width: int, height: int) -> tuple[float, float, float, float]:
    """x -> sx * x + dx and y -> sy * y + dy, from the definition of the fits; sizes in whole pixels."""
    if fit == "squash":
        return SIZE / width, SIZE / height, 0, 0
    side = max(width, height) if fit == "pad" else min(width, height)
    wide, tall = int(width * SIZE / side + 0.5), int(height * SIZE / side + 0.5)
    return wide / width, tall / height, (SIZE - wide) // 2, (SIZE - tall) // 2


def grid_of_mask(fit: str, mask: np.ndarray) -> np.ndarray:
    """float (24, 24) 0-255: the integral of the mask, linear within a pixel, between the cells' edges."""
    height, width = mask.shape
    sx, sy, dx, dy = scale_and_shift(fit, width, height)
    edges = np.linspace(0, SIZE, CELLS + 1)
    prefix = np.zeros((height + 1, width + 1))
    prefix[1:, 1:] = mask.cumsum(0).cumsum(1)
    across = np.array([np.interp((edges - dx) / sx, np.arange(width + 1), row) for row in prefix])
    both = np.array([np.interp((edges - dy) / sy, np.arange(height + 1), column) for column in across.T]).T
    return np.diff(np.diff(both, axis=0), axis=1) * sx * sy / (SIZE / CELLS) ** 2 * 255


def grid_of_shape(fit: str, shape: shapely.Geometry, width: int, height: int) -> np.ndarray:
    """float (24, 24) 0-255: exact areas of the shape in each cell of the frame."""
    sx, sy, dx, dy = scale_and_shift(fit, width, height)
    placed = affine_transform(shape, [sx, 0, 0, sy, dx, dy])
    lower = np.arange(CELLS) * (SIZE / CELLS)
    x, y = np.meshgrid(lower, lower)
    cells = shapely.box(x, y, x + SIZE / CELLS, y + SIZE / CELLS)
    return np.asarray(shapely.area(shapely.intersection(placed, cells))) / (SIZE / CELLS) ** 2 * 255


def measure(fit: str, polygons: list[np.ndarray], width: int, height: int) -> tuple[float, np.ndarray]:
    """The largest error against the pixel mask, and the signed errors against the exact shape."""
    mask = rasterise(clean(polygons, width, height), width, height)
    grid = Frame.of(Grid.model_validate({"fit": fit})).grid(mask).astype(float)
    shape = shapely.union_all([shapely.make_valid(Polygon(points)) for points in polygons])
    shape = shapely.intersection(shape, shapely.box(0, 0, width, height))
    return (
        np.abs(grid - grid_of_mask(fit, mask)).max(),
        grid - grid_of_shape(fit, shape, width, height),
    )


@pytest.mark.parametrize("fit", FITS)
def test_photos(fit, photos, record_property):
    """Each outline alone and all outlines of a photograph together."""
    own, exact = [], []
    for name, shapes in json.loads((photos / "polygons.json").read_text()).items():
        with Image.open(photos / name) as image:
            width, height = image.size
        outlines = [np.array(shape["polygon"]) for shape in shapes]
        for polygons in [outlines, *([outline] for outline in outlines)]:
            own_error, errors = measure(fit, polygons, width, height)
            own.append(own_error)
            exact.append(errors)
    errors = np.array(exact)
    means = errors.mean(axis=(1, 2))
    figures = {
        "off its own mask by at most": max(own),
        "off the shape by at most": np.abs(errors).max(),
        "mean signed error": errors.mean(),
        "mean signed error of one grid, at most": np.abs(means).max(),
        "mean signed error of the cells on an outline": errors[np.abs(errors) > 1e-6].mean(),
    }
    for name, figure in figures.items():
        record_property(name, float(figure))
    print(fit, {name: round(float(figure), 3) for name, figure in figures.items()})
    assert max(own) <= 1
    assert np.abs(errors).max() <= 20
    assert np.abs(means).max() <= 1


@given(
    fit=st.sampled_from(FITS),
    width=st.integers(400, 900),
    height=st.integers(400, 900),
    corners=st.integers(4, 40),
    seed=st.integers(0, 9999),
)
@settings(deadline=None, max_examples=60)
def test_drawn_polygons(fit, width, height, corners, seed):
    random = np.random.default_rng(seed)
    angles = (np.arange(corners) + random.random(corners)) / corners * 2 * np.pi
    radii = (0.5 + 0.5 * random.random(corners)) * min(width, height) * random.uniform(0.1, 0.6)
    centre = random.random(2) * (width, height)
    polygon = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    own_error, errors = measure(fit, [polygon], width, height)
    assert own_error <= 1
    assert np.abs(errors).max() <= 20
    assert abs(errors.mean()) <= 1
