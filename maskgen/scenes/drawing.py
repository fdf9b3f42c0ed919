"""One seed, one scene: things on a background, with the exact mask of what is visible of each."""

from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from maskgen.scenes.shapes import COLOURS, SHAPES, SIZES, TURNS, outline

FIRST_HELD_OUT_SEED = 1_000_000
"""Training draws seeds below it; everything that is measured draws from it upwards."""

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """An object in a scene; `x`, `y` and `radius` in pixels, `turn` in radians clockwise."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    turn: float

    def outline(self, points: int = 12) -> np.ndarray:
        """Float64 (n, 2) x, y in pixels of the whole object, clockwise, hidden parts included."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return outline(self.shape, points) @ np.array([[cos, sin], [-sin, cos]]) * self.radius + [
            self.x,
            self.y,
        ]


@dataclass(frozen=True)
class Scene:
    """A drawn picture and its truth.

    `pixels`: uint8 (height, width, 3) RGB. `things` are ordered from back to front. `masks`: bool
    (things, height, width), the visible part of each; no pixel belongs to two.
    """

    seed: int
    pixels: np.ndarray
    things: tuple[Thing, ...]
    masks: np.ndarray

    def visible_outlines(self, index: int, points: int = 12) -> list[np.ndarray]:
        """Outlines of what is visible of one thing: float64 (n, 2) each, clockwise from the topmost vertex.

        More than one where something in front cuts it in two; scraps below 8 % of it are left out.
        """
        own = shapely.Polygon(self.things[index].outline(points))
        front = [shapely.Polygon(thing.outline(points)) for thing in self.things[index + 1 :]]
        visible = shapely.difference(own, shapely.union_all(front)) if front else own
        height, width = self.pixels.shape[:2]
        visible = shapely.intersection(visible, shapely.box(0, 0, width, height))
        pieces = [p for p in shapely.get_parts(visible) if p.geom_type == "Polygon"]
        kept = [p for p in pieces if p.area >= 0.08 * own.area]
        return [_canonical_outline(piece, points + 4) for piece in sorted(kept, key=lambda p: p.bounds[1])]


def draw_scene(seed: int) -> Scene:
    """The scene of `seed`; the same seed gives the same pixels."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(20, 33, 2) * 8)
    things, covers, masks = _arrange_things(rng, height, width)
    canvas = cv2.resize(_background(rng, height // 2, width // 2), (width, height))
    _draw_clutter(rng, canvas)
    for thing, cover in zip(things, covers, strict=True):
        rows, columns = _window(thing, height, width)
        _paint_thing(rng, canvas[rows, columns], cover, thing, (columns.start, rows.start))
    grain = rng.normal(0, 1, (height // 2, width // 2, 1)).astype(np.float32) * rng.uniform(0, 4)
    canvas += cv2.resize(grain, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    return Scene(seed, cv2.convertScaleAbs(np.maximum(canvas, 0)), tuple(things), masks)


def _arrange_things(
    rng: np.random.Generator, height: int, width: int
) -> tuple[list[Thing], list[np.ndarray], np.ndarray]:
    """Things, how much of each pixel each covers, and what stays visible: at least half of every thing."""
    while True:
        things = _place_things(rng, height, width)
        covers = [_coverage(thing, *_window(thing, height, width)) for thing in things]
        masks = np.zeros((len(things), height, width), bool)
        for index, (thing, cover) in enumerate(zip(things, covers, strict=True)):
            rows, columns = _window(thing, height, width)
            masks[:index, rows, columns] &= cover < 0.5
            masks[index, rows, columns] = cover >= 0.5
        whole = np.array([(cover >= 0.5).sum() for cover in covers])
        if len(things) >= 2 and np.all(masks.sum(axis=(1, 2)) >= 0.5 * whole):
            return things, covers, masks


def _place_things(rng: np.random.Generator, height: int, width: int) -> list[Thing]:
    """Up to six things of a few shapes and colours, so that one word seldom names only one of them."""
    shapes = rng.permutation(SHAPES)[: rng.integers(2, 5)]
    colours = rng.permutation(list(COLOURS))[: rng.integers(2, 5)]
    things: list[Thing] = []
    for _ in range(rng.integers(2, 7)):
        shape, colour = str(rng.choice(shapes)), str(rng.choice(colours))
        size = "small" if rng.random() < 0.5 else "large"
        radius = rng.uniform(*SIZES[size]) * min(height, width)
        closest = 0.6 if rng.random() < 0.5 else 1.1
        for _ in range(25):
            x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
            if all(np.hypot(x - t.x, y - t.y) >= closest * (radius + t.radius) for t in things):
                turn = rng.uniform(-1, 1) * TURNS[shape]
                things.append(Thing(shape, colour, size, float(x), float(y), float(radius), float(turn)))
                break
    return things


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Float32 (height, width, 3): a muted gradient under one of five textures."""
    first, second = (_muted_colour(rng) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    along = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
    blend = np.clip(along / max(height, width) + 0.5, 0, 1)[..., None].astype(np.float32)
    canvas = first * (1 - blend) + second * blend
    strength = rng.uniform(5, 16)
    texture = rng.choice(["plain", "cloud", "stripes", "checks", "dots"])
    period = rng.uniform(5, 14)
    if texture == "cloud":
        coarse = rng.normal(0, 1, (rng.integers(4, 12), rng.integers(4, 12))).astype(np.float32)
        canvas += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    elif texture == "stripes":
        canvas += strength * np.sin(2 * np.pi * along / period)[..., None]
    elif texture == "checks":
        checks = (np.sin(np.pi * x / period) > 0) ^ (np.sin(np.pi * y / period) > 0)
        canvas += 2 * strength * checks[..., None]
    elif texture == "dots":
        dots = np.cos(2 * np.pi * x / period) + np.cos(2 * np.pi * y / period) > 1.2
        canvas += strength * dots[..., None]
    return canvas.astype(np.float32)


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Thin grey lines, rings and specks: things that no text names."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(0, 7)):
        colour = tuple(float(c) for c in _muted_colour(rng))
        x, y, dx, dy = (int(v) for v in rng.integers(0, [width, height, width // 3, height // 3]))
        kind = rng.integers(3)
        if kind == 0:
            cv2.line(canvas, (x, y), (x + dx - width // 6, y + dy - height // 6), colour, 2, cv2.LINE_8)
        elif kind == 1:
            cv2.circle(canvas, (x, y), int(rng.integers(4, 12)), colour, 2, cv2.LINE_8)
        else:
            cv2.circle(canvas, (x, y), int(rng.integers(2, 5)), colour, -1, cv2.LINE_8)


def _window(thing: Thing, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns that hold all of `thing`."""
    reach = 1.4 * thing.radius
    rows = slice(max(0, int(thing.y - reach)), min(height, int(thing.y + reach) + 1))
    return rows, slice(max(0, int(thing.x - reach)), min(width, int(thing.x + reach) + 1))


def _paint_thing(
    rng: np.random.Generator, region: np.ndarray, alpha: np.ndarray, thing: Thing, corner: tuple[int, int]
) -> None:
    """Blend a shaded, rimmed, sometimes striped thing into `region`; `corner` is its first pixel (x, y)."""
    x = ((np.arange(alpha.shape[1]) + corner[0] - thing.x) / thing.radius).astype(np.float32)
    y = ((np.arange(alpha.shape[0]) + corner[1] - thing.y) / thing.radius).astype(np.float32)[:, None]
    light = 1 - rng.uniform(0.02, 0.14) * (x + y)
    if rng.random() < 0.3:
        angle = rng.uniform(0, np.pi)
        light += 0.08 * np.sin(rng.uniform(6, 12) * (x * np.cos(angle) + y * np.sin(angle)))
    rim = alpha - cv2.erode(alpha, np.ones((3, 3), np.uint8))
    light *= 1 - 0.35 * rim  # two things of one colour stay apart where they overlap
    colour = np.array(COLOURS[thing.colour], np.float32) + rng.normal(0, 6, 3).astype(np.float32)
    region += alpha[..., None] * (colour * light[..., None] - region)


def _coverage(thing: Thing, rows: slice, columns: slice) -> np.ndarray:
    """Float32 (rows, columns): the share of each pixel of that window that the whole thing covers."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    corners = (thing.outline(48) - [columns.start, rows.start]) * _SUPERSAMPLING - 0.5
    cv2.fillPoly(fine, [np.rint(corners * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _muted_colour(rng: np.random.Generator) -> np.ndarray:
    """A colour that none of the named ones could be taken for."""
    grey = rng.uniform(50, 225)
    return (grey + rng.uniform(-14, 14, 3)).astype(np.float32)


def _canonical_outline(polygon: shapely.Polygon, most: int) -> np.ndarray:
    """Its exterior, at most `most` vertices, clockwise on screen from the topmost (then leftmost) one."""
    tolerance = 0.3
    points = _exterior(polygon.simplify(tolerance))
    while len(points) > most:
        tolerance *= 1.5
        points = _exterior(polygon.simplify(tolerance))
    start = np.lexsort((points[:, 0], points[:, 1]))[0]
    return np.roll(points, -start, axis=0)


def _exterior(polygon: BaseGeometry) -> np.ndarray:
    """Float64 (n, 2), clockwise on screen, where y points down."""
    ring = shapely.get_exterior_ring(shapely.orient_polygons(polygon))
    return shapely.get_coordinates(ring)[:-1]
