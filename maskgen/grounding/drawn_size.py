"""From the size that shapes were drawn in to the picture's own: a resize, or a turn by EXIF."""

import numpy as np

from maskgen.errors import SampleError
from maskgen.outcome import Outcome
from maskgen.pixels import exif_orientation
from maskgen.sample import Picture


class Placing:
    """x, y in pixels of a drawing of one size → x, y in pixels of the upright picture.

    The drawing is the picture itself, or the picture before or after a resize that kept its ratio, both
    upright; failing that, as the file stores it, before EXIF turns it by a quarter.
    """

    def __init__(self, drawn: tuple[float, float] | None, picture: Picture):
        """`drawn`: width and height; None if nobody says. SampleError SIZE_MISMATCH for another ratio."""
        self._matrix = np.eye(3)
        size = (picture.width, picture.height)
        if drawn is None or drawn == size:
            return
        if _resized(drawn, size):
            self._matrix = _scale(drawn, size)
            return
        turn = exif_orientation(picture.data)
        turned = (drawn[1], drawn[0])
        if turn < 5 or not _resized(turned, size):
            told = f"{drawn[0]:g} x {drawn[1]:g}, the picture has {size[0]} x {size[1]}"
            raise SampleError(Outcome.SIZE_MISMATCH, f"the shapes were drawn in {told}")
        self._matrix = _scale(turned, size) @ _turn(turn, *drawn)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """`points`, float64 (n, 2), in the picture's pixels."""
        if (self._matrix == np.eye(3)).all():
            return points
        return points @ self._matrix[:2, :2].T + self._matrix[:2, 2]

    def box(self, box: tuple[float, float, float, float]) -> np.ndarray:
        """x0, y0, x1, y1 in the picture's pixels."""
        corners = self(np.array(box, np.float64).reshape(2, 2))
        return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _resized(drawn: tuple[float, float], size: tuple[int, int]) -> bool:
    """Whether one size is the other, scaled, with sides rounded to whole pixels either way."""
    (w, h), (width, height) = drawn, size
    return abs(w * height - h * width) <= max(w, h, width, height)


def _scale(drawn: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    return np.diag([size[0] / drawn[0], size[1] / drawn[1], 1.0])


def _turn(orientation: int, width: float, height: float) -> np.ndarray:
    """What an EXIF orientation from 5 to 8 does to x, y of the stored picture of this size."""
    return np.array(
        {
            5: [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
            6: [[0, -1, height], [1, 0, 0], [0, 0, 1]],
            7: [[0, -1, height], [-1, 0, width], [0, 0, 1]],
            8: [[0, 1, 0], [-1, 0, width], [0, 0, 1]],
        }[orientation],
        np.float64,
    )
