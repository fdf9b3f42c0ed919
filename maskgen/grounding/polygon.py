"""Polygons as a model predicts them: made clean, turned into pixels, and into prompts."""

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from maskgen.errors import SampleError
from maskgen.outcome import Outcome

# A part thinner than this on average is no object but what clipping and mending leave behind.
MIN_WIDTH = 0.1
# No point of an image is this far out; beyond, coordinates are as meaningless as infinity.
_FARTHEST = 1e6


def clean(polygons: list[np.ndarray], width: int, height: int) -> MultiPolygon:
    """The union of `polygons`, (n, 2) x, y in pixels, as a valid region of a `width` x `height` image.

    Points that are not finite are left out, and polygons with fewer than three points. What crosses
    itself is made valid with the even-odd rule. The union is clipped to the image and loses its
    slivers: parts whose mean width, 2 * area / perimeter, is below MIN_WIDTH pixels.

    No polygons give an empty region. Raises SampleError (degenerate_polygon) if there are polygons
    and nothing is left of them.
    """
    regions = [_valid(np.asarray(points, np.float64)) for points in polygons]
    inside = shapely.intersection(shapely.union_all(regions), shapely.box(0, 0, width, height))
    parts = [part for part in _areal(inside) if 2 * part.area >= MIN_WIDTH * part.length]
    if polygons and not parts:
        raise SampleError(
            Outcome.DEGENERATE_POLYGON,
            f"none of the answer's polygons ({len(polygons)}) encloses an area inside the image",
        )
    return MultiPolygon(parts)


def rasterise(region: MultiPolygon, width: int, height: int) -> np.ndarray:
    """bool (height, width): the pixels whose centre lies in `region`.

    Centres make it unbiased: as many border pixels are gained as lost. A centre on an edge belongs
    to the region on its right, or below it, so regions that share an edge share no pixel and leave
    none out. A region that covers no centre at all still has one pixel, the one at its
    representative point.
    """
    rows, columns = _crossings(region, width, height)
    # The outline crosses every row an even number of times, so over the image read as one line of
    # pixels, outside and inside take turns.
    turns = np.sort(rows * width + columns)
    lengths = np.diff(turns, prepend=0, append=height * width)
    mask = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    if not region.is_empty and not mask.any():
        point = region.representative_point()
        mask[min(int(point.y), height - 1), min(int(point.x), width - 1)] = True
    return mask


def box(region: MultiPolygon) -> tuple[float, float, float, float]:
    """The region's bounding box x0, y0, x1, y1 in pixels; the region must not be empty."""
    x0, y0, x1, y1 = region.bounds
    return x0, y0, x1, y1


def interior_points(region: MultiPolygon, count: int) -> np.ndarray:
    """float64 (count, 2): x, y of points well inside a region that is not empty, the innermost first.

    Each is the centre of the largest circle that fits in what is left of the region, from which the
    inner half of the circle is then taken out, so that the next point lies elsewhere.
    """
    points = np.empty((count, 2))
    left = region
    for i in range(count):
        with np.errstate(all="ignore"):  # a division inside GEOS that it copes with
            radius = shapely.maximum_inscribed_circle(left)
        points[i] = shapely.get_coordinates(radius)[0]
        left = MultiPolygon(_areal(left.difference(shapely.Point(points[i]).buffer(radius.length / 2))))
    return points


def _valid(points: np.ndarray) -> BaseGeometry:
    """The area that a ring of points encloses, which may be none."""
    points = points.reshape(-1, 2)
    points = points[(np.abs(points) < _FARTHEST).all(axis=1)]  # false for NaN too
    if len(points) < 3:
        return Polygon()
    return shapely.union_all(_areal(shapely.make_valid(Polygon(points))))


def _areal(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons among the geometry's parts, without its points and lines."""
    parts = shapely.get_parts(shapely.get_parts(geometry))  # a collection may hold a multi-polygon
    return [part for part in parts if isinstance(part, Polygon) and not part.is_empty]


def _crossings(region: MultiPolygon, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the outline crosses the rows' centre lines.

    Two int64 arrays: the row, and the first column (0 to width) whose centre is not left of the crossing.
    """
    points, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(region)), return_index=True)
    start, end = points[:-1], points[1:]
    same_ring = ring[:-1] == ring[1:]
    # Upwards and downwards edges are computed alike, or shared ones would differ in the last bit.
    upside_down = (start[:, 1] > end[:, 1])[:, None]
    start, end = np.where(upside_down, end, start)[same_ring], np.where(upside_down, start, end)[same_ring]
    first = np.clip(np.ceil(start[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(end[:, 1] - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    crossing = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    return rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
