"""The trainer's frame: one placement for the image and its mask, and the mask's share of each cell."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from maskgen.config import Grid

Areas = TypeVar("Areas", np.ndarray, Any)
"""An array of int64: NumPy's, or a tensor where masks are made on a GPU."""

# The grid value of a cell that is half covered.
HALF = 128


@dataclass(frozen=True)
class Placement:
    """The box of the frame, in its pixels, that the whole source image is stretched over.

    Inside the frame with `pad`, reaching beyond it (negative `left` or `top`) with `crop`.
    """

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Frame:
    """The square that the trainer sees: `size` pixels and `cells` image tokens a side (Appendix C).

    `fit` says how an image fills it: squash stretches it, pad centres the whole image, crop keeps
    the centre. The image and its mask are placed by the same `placement`, so they cannot drift apart.
    """

    fit: Literal["squash", "pad", "crop"]
    size: int
    cells: int

    @classmethod
    def of(cls, grid: Grid) -> "Frame":
        return cls(grid.fit, grid.size, grid.cells)

    def placement(self, width: int, height: int) -> Placement:
        """Where an image of `width` x `height` pixels lies; never without width or height."""
        if self.fit == "squash":
            return Placement(0, 0, self.size, self.size)
        side = max(width, height) if self.fit == "pad" else min(width, height)
        placed_width = max(1, (2 * width * self.size + side) // (2 * side))
        placed_height = max(1, (2 * height * self.size + side) // (2 * side))
        return Placement(
            (self.size - placed_width) // 2, (self.size - placed_height) // 2, placed_width, placed_height
        )

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (height, width, 3) to uint8 (size, size, 3): bilinear with antialiasing.

        What `pad` leaves free has the image's mean colour.
        """
        height, width = pixels.shape[:2]
        place = self.placement(width, height)
        left, right = _clipped(place.left, place.width, self.size)
        top, bottom = _clipped(place.top, place.height, self.size)
        # Only the visible part is made: a cropped 1 x 10,000 image would otherwise be 7,680,000 tall.
        seen = (
            (left - place.left) * width / place.width,
            (top - place.top) * height / place.height,
            (right - place.left) * width / place.width,
            (bottom - place.top) * height / place.height,
        )
        part = np.array(
            Image.fromarray(pixels).resize((right - left, bottom - top), Image.Resampling.BILINEAR, seen)
        )
        if part.shape == (self.size, self.size, 3):
            return part
        framed = np.empty((self.size, self.size, 3), np.uint8)
        framed[:] = np.rint(part.mean(axis=(0, 1)))
        framed[top:bottom, left:right] = part
        return framed

    def grid(self, mask: np.ndarray) -> np.ndarray:
        """bool (height, width) to uint8 (cells, cells): the exact share of each cell under the mask.

        0-255, rounded to nearest. A mask that shows in the frame at all never becomes zero: its
        best-covered cell is then 1.
        """
        height, width = mask.shape
        place = self.placement(width, height)
        rows = _summed(mask, self.edges(place.top, place.height, height), place.height * self.cells)
        areas = _summed(rows.T, self.edges(place.left, place.width, width), place.width * self.cells).T
        grid = self.shares(areas, width, height).astype(np.uint8)
        if not grid.any() and areas.any():
            grid.flat[areas.argmax()] = 1
        return grid

    def visible(self, mask: np.ndarray) -> bool:
        """Whether any of the mask, bool (height, width), lies in the frame; `crop` may cut all of it."""
        height, width = mask.shape
        place = self.placement(width, height)
        down = self.edges(place.top, place.height, height)
        across = self.edges(place.left, place.width, width)
        rows = _seen(down, place.height * self.cells)
        columns = _seen(across, place.width * self.cells)
        return bool(mask[rows, columns].any())

    def image_cells(self, width: int, height: int) -> np.ndarray:
        """uint8 (cells, cells): the share of each cell, 0-255, that the image itself covers."""
        place = self.placement(width, height)
        down = np.diff(self.edges(place.top, place.height, height))
        across = np.diff(self.edges(place.left, place.width, width))
        return self.shares(np.outer(down, across), width, height).astype(np.uint8)

    def edges(self, start: int, length: int, lines: int) -> list[int]:
        """Where the edges of the cells lie in the source along one axis, kept within it.

        In units of 1 / (length * cells) of a source pixel, in which they are whole numbers: the
        grid is computed in integers alone, and is the same on every machine.
        """
        end = lines * length * self.cells
        return [min(max((j * self.size - start * self.cells) * lines, 0), end) for j in range(self.cells + 1)]

    def shares(self, areas: Areas, width: int, height: int) -> Areas:
        """Areas in the units of `edges`, both axes multiplied, as shares of a cell, 0-255; still int64."""
        cell = self.size * width * self.size * height
        shares: Areas = (510 * areas + cell) // (2 * cell)
        return shares


def binarise(grid: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """M' (Section 3.2.2), bool: the cells covered by `threshold` or more; of a thinner mask, the best."""
    on = grid >= math.ceil(255 * threshold)
    if grid.any() and not on.any():
        on.flat[grid.argmax()] = True
    return on


def _clipped(start: int, length: int, size: int) -> tuple[int, int]:
    return max(0, start), min(size, start + length)


def _seen(edges: list[int], unit: int) -> slice:
    """The source lines that the cells touch."""
    return slice(edges[0] // unit, -(-edges[-1] // unit))


def _summed(lines: np.ndarray, edges: list[int], unit: int) -> np.ndarray:
    """int64 (cells, ...): the sum of `lines` between each two edges, `unit` of which make one line."""
    cuts = [divmod(edge, unit) for edge in edges]
    before_cut = [part * lines[min(line, len(lines) - 1)] for line, part in cuts]
    return np.stack(
        [
            unit * lines[first:last].sum(axis=0, dtype=np.int64) + added - removed
            for ((first, _), (last, _)), (removed, added) in zip(
                pairwise(cuts), pairwise(before_cut), strict=True
            )
        ]
    )
