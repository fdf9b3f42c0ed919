"""What can stand in a scene: six shapes, eight colours, two sizes."""

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 40),
    "orange": (246, 138, 22),
    "yellow": (245, 219, 42),
    "green": (48, 160, 62),
    "cyan": (48, 204, 214),
    "blue": (44, 74, 214),
    "purple": (128, 48, 172),
    "pink": (250, 128, 186),
}

SIZES: dict[str, tuple[float, float]] = {"small": (0.095, 0.125), "large": (0.175, 0.225)}
"""Radius as a share of the image's shorter side; the gap between the two makes every size nameable."""

TURNS: dict[str, float] = {
    "circle": 0.0,
    "square": 0.2,
    "triangle": 0.3,
    "star": 0.3,
    "cross": 0.2,
    "heart": 0.2,
}
"""The largest rotation of each shape, in radians either way; it keeps a square from looking a diamond."""

SHAPES = tuple(TURNS)


def outline(shape: str, points: int = 12) -> np.ndarray:
    """The unit outline of `shape`: float64 (n, 2) x, y within about one of the origin, clockwise on screen.

    `points` is how many vertices the round shapes get. A round outline is blown up until it has the
    area of the curve it stands for, so a coarse outline covers neither too much nor too little.
    """
    return {
        "circle": _circle,
        "square": _square,
        "triangle": _triangle,
        "star": _star,
        "cross": _cross,
        "heart": _heart,
    }[shape](points)


def _circle(points: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(points) / points
    return _ring(angle, np.sqrt(2 * np.pi / points / np.sin(2 * np.pi / points)))


def _square(_: int) -> np.ndarray:
    return 0.86 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _triangle(_: int) -> np.ndarray:
    return _ring(2 * np.pi * np.arange(3) / 3, 1.15) + np.array([0.0, 0.15])


def _star(_: int) -> np.ndarray:
    radius = np.where(np.arange(10) % 2 == 0, 1.15, 0.52)
    return _ring(2 * np.pi * np.arange(10) / 10, radius)


def _cross(_: int) -> np.ndarray:
    arm = np.array([[-0.34, -1.0], [0.34, -1.0], [0.34, -0.34]])
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])


def _heart(points: int) -> np.ndarray:
    t = 2 * np.pi * np.arange(points) / points
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    coarse = np.stack([x, y + 2.5], axis=1) / 15.5
    true_area = 180 * np.pi / 15.5**2
    return coarse * np.sqrt(true_area / _area(coarse))


def _ring(angle: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
