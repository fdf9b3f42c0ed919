"""Polygons, box, mask and grid drawn over a picture; for `show` and the report's contact sheet."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from maskgen.draw.palette import AMBER, INK, ROSE, SKY, WHITE, Colour
from maskgen.geometry import binarise

_SUPERSAMPLING = 3  # lines are drawn this much larger and reduced: Pillow does not smooth them itself


def fit_size(width: int, height: int, bounds: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `bounds` (width, height) with the same aspect; never less than a pixel."""
    scale = min(bounds[0] / width, bounds[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """uint8 (height, width, 3) as an image of `size`."""
    larger = size[0] > pixels.shape[1]
    return Image.fromarray(pixels).resize(
        size, Image.Resampling.BICUBIC if larger else Image.Resampling.LANCZOS, reducing_gap=3.0
    )


def with_outlines(
    image: Image.Image,
    source: tuple[int, int],
    polygons: Sequence[np.ndarray],
    box: tuple[float, float, float, float],
) -> Image.Image:
    """`image` with polygons (amber) and box (sky), given in pixels of the `source` (width, height)."""
    layer = Image.new("RGBA", (image.width * _SUPERSAMPLING, image.height * _SUPERSAMPLING), (*INK, 0))
    draw = ImageDraw.Draw(layer)
    zoom = np.array([layer.width / source[0], layer.height / source[1]])
    corners = np.array(box).reshape(2, 2) * zoom
    if (corners[1] > corners[0]).all():
        x0, y0, x1, y1 = np.clip(corners, 0, [layer.width - 1, layer.height - 1]).ravel()
        _stroke(draw, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], SKY)
    for polygon in polygons:
        points = [(float(x), float(y)) for x, y in polygon * zoom]
        if len(points) > 2:
            draw.polygon(points, fill=(*AMBER, 50))
        _stroke(draw, points, AMBER)
    return _composite(image, layer.resize(image.size, Image.Resampling.BOX))


def with_mask(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """`image` dimmed where `mask`, bool (height, width), is false, and the mask's edge in rose."""
    dim = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, INK), 0.6)
    cover = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BOX)
    lit = Image.composite(Image.blend(image, Image.new("RGB", image.size, ROSE), 0.12), dim, cover)
    edge = ImageChops.subtract(cover.filter(ImageFilter.MaxFilter(3)), cover.filter(ImageFilter.MinFilter(3)))
    return Image.composite(Image.new("RGB", image.size, ROSE), lit, edge)


def with_grid(image: Image.Image, grid: np.ndarray) -> Image.Image:
    """`image` with the cells of `grid`, uint8 (cells, cells): rose as much as they are covered, and a
    white line around those that the trainer guides by."""
    cells = len(grid)
    side = max(1, -(-image.width * 2 // cells))
    image = Image.blend(image, image.convert("L").convert("RGB"), 0.7)  # so that rose is the only rose
    tint = Image.fromarray((grid * 0.62).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    image = Image.composite(Image.new("RGB", image.size, ROSE), image, tint)
    layer = Image.new("RGBA", (side * cells, side * cells), (*INK, 0))
    draw = ImageDraw.Draw(layer)
    for place in range(1, cells):
        draw.line([(place * side, 0), (place * side, layer.height)], (*WHITE, 46))
        draw.line([(0, place * side), (layer.width, place * side)], (*WHITE, 46))
    for line in _border_segments(binarise(grid)):
        draw.line([(x * side, y * side) for x, y in line], (*WHITE, 255), 4)
    return _composite(image, layer.resize(image.size, Image.Resampling.BOX))


def _border_segments(on: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The sides between cells that are on and those that are not, as lines in cells."""
    framed = np.pad(on, 1)
    upright = np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1]).tolist()
    level = np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1]).tolist()
    return [((x, y), (x, y + 1)) for y, x in upright] + [((x, y), (x + 1, y)) for y, x in level]


def _stroke(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: Colour) -> None:
    """A closed line with a dark rim, to be seen on any picture."""
    for width, ink in ((4, (*INK, 150)), (2, (*colour, 255))):
        draw.line([*points, points[0]], ink, width * _SUPERSAMPLING, joint="curve")


def _composite(image: Image.Image, layer: Image.Image) -> Image.Image:
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")
