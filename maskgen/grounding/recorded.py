"""The `recorded` proposer: polygons and boxes that somebody has already drawn, from a file."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import fsspec
import numpy as np
import orjson
import shapely
from shapely import Polygon

from maskgen import config, rle
from maskgen.errors import MaskgenError
from maskgen.sample import Picture, Proposal, Sample


@dataclass(frozen=True)
class Shape:
    """One annotation of an image: its polygons, or a run-length encoded mask, or else its box.

    `polygons`: float64 (n, 2) x, y in pixels. `box`: x0, y0, x1, y1. `place`: where it stands in the file.
    """

    label: str
    place: str
    polygons: list[np.ndarray] = field(default_factory=list)
    runs: dict[str, Any] | None = None
    box: tuple[float, float, float, float] | None = None


class RecordedProposer:
    """Answers a sample with the shapes that a file holds for its image.

    Two layouts: COCO (`images`, `annotations`, `categories`; polygons, run lengths or `bbox`; crowds
    count as regions like any other), and plain: {image: [{"label", "polygon": [[x, y], ...]}]} with
    "box": [x0, y0, x1, y1] in place of a polygon. Coordinates are pixels of the upright image.

    An image is found by its reference; failing that, by the longest common end of the two paths
    ("train/a.jpg" is "images/train/a.jpg"), if that leaves one image only.
    """

    def __init__(self, settings: config.Recorded, data: str):
        """Reads `settings.file` under `data`, a folder or URL; MaskgenError if it is missing or broken."""
        where = f"{data.rstrip('/')}/{settings.file}"
        try:
            with fsspec.open(where, "rb") as file:
                content = file.read()
        except (OSError, ValueError, ImportError) as error:
            raise MaskgenError(
                f"the recorded proposer cannot read {where} ({getattr(error, 'strerror', None) or error}). "
                "Mend proposer.file, which is looked up under --data."
            ) from error
        self._settings = settings
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._where = where
        self._shapes: dict[tuple[str, ...], list[Shape]] = defaultdict(list)
        for image, shape in self._read(content):
            self._shapes[_parts(image)].append(shape)
        self._namesakes: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for parts in self._shapes:
            self._namesakes[parts[-1]].append(parts)

    def propose(self, pictures: list[Picture], samples: list[Sample]) -> list[Proposal]:
        """The recorded shapes of each sample's image; with `match: label`, those that its query names."""
        return [self._answer(sample) for sample in samples]

    def describe(self) -> dict[str, object]:
        return {"kind": "recorded", "sha256": self._sha256, "match": self._settings.match}

    def _answer(self, sample: Sample) -> Proposal:
        shapes = self._of_image(_parts(sample.image))
        if self._settings.match == "label":
            shapes = [shape for shape in shapes if names(sample.query.text, shape.label)]
        polygons = [points for shape in shapes for points in self._polygons(shape)]
        boxes = [shape.box for shape in shapes if shape.box]
        return Proposal(polygons=polygons, boxes=np.array(boxes, np.float64).reshape(-1, 4))

    def _of_image(self, parts: tuple[str, ...]) -> list[Shape]:
        if parts in self._shapes:
            return self._shapes[parts]
        alike = [
            name
            for name in self._namesakes.get(parts[-1], [])
            if all(a == b for a, b in zip(reversed(name), reversed(parts), strict=False))
        ]
        shorter = [name for name in alike if len(name) < len(parts)]
        if shorter:
            return self._shapes[max(shorter, key=len)]
        return self._shapes[alike[0]] if len(alike) == 1 else []

    def _polygons(self, shape: Shape) -> list[np.ndarray]:
        if shape.runs is None:
            return shape.polygons
        try:
            height, width = shape.runs["size"]
            return outlines(rle.decode(shape.runs["counts"], int(height), int(width)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._broken(shape.place, "its run lengths do not fill its size") from error

    def _read(self, content: bytes) -> Iterator[tuple[str, Shape]]:
        """(image, shape) for every annotation in the file."""
        try:
            tree = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise MaskgenError(f"{self._where} is not JSON: {error}. Mend the file.") from error
        if not isinstance(tree, dict):
            raise self._broken("the file", "it is no JSON object, so neither COCO nor {image: [shapes]}")
        yield from self._read_coco(tree) if "annotations" in tree else self._read_plain(tree)

    def _read_plain(self, tree: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
        for image, shapes in tree.items():
            for number, shape in enumerate(_items(shapes)):
                place = f"{image}, shape {number + 1}"
                if not isinstance(shape, dict) or ("polygon" in shape) == ("box" in shape):
                    raise self._broken(place, 'it has not either a "polygon" or a "box"')
                label = str(shape.get("label", ""))
                if "polygon" in shape:
                    yield image, Shape(label, place, [self._points(shape["polygon"], place)])
                else:
                    yield image, Shape(label, place, box=self._numbers(shape["box"], place))

    def _read_coco(self, tree: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
        try:
            images = {str(image["id"]): str(image["file_name"]) for image in tree["images"]}
            labels = {str(kind["id"]): str(kind["name"]) for kind in tree.get("categories", [])}
        except (KeyError, TypeError) as error:
            raise self._broken("the file", f"its images or categories are not COCO's ({error})") from error
        for number, annotation in enumerate(_items(tree["annotations"])):
            place = f"annotation {number + 1}"
            image = images.get(str(annotation.get("image_id"))) if isinstance(annotation, dict) else None
            if image is None:
                raise self._broken(place, "its image_id is not among the images")
            label = labels.get(str(annotation.get("category_id")), "")
            yield image, self._coco_shape(annotation, label, place)

    def _coco_shape(self, annotation: dict[str, Any], label: str, place: str) -> Shape:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            return Shape(label, place, runs=segmentation)
        if segmentation:
            return Shape(label, place, [self._points(points, place) for points in _items(segmentation)])
        x, y, width, height = self._numbers(annotation.get("bbox"), place)
        return Shape(label, place, box=(x, y, x + width, y + height))

    def _points(self, value: object, place: str) -> np.ndarray:
        try:
            points = np.array(value, np.float64).reshape(-1, 2)
            if not np.isfinite(points).all():
                raise ValueError("a coordinate is not a number")
            return points
        except (TypeError, ValueError) as error:
            raise self._broken(place, "its polygon is no list of x, y pairs") from error

    def _numbers(self, value: object, place: str) -> tuple[float, float, float, float]:
        try:
            a, b, c, d = (float(number) for number in _items(value))
            if not np.isfinite([a, b, c, d]).all():
                raise ValueError("a coordinate is not a number")
        except (TypeError, ValueError) as error:
            raise self._broken(place, "it has no polygon, and its box is not four numbers") from error
        return a, b, c, d

    def _broken(self, place: str, problem: str) -> MaskgenError:
        return MaskgenError(f"{self._where}: {place}: {problem}. Mend the file.")


def names(text: str, label: str) -> bool:
    """Whether `text` contains `label` as whole words, in any case, in the singular or with -s or -es."""
    return bool(label.strip()) and _pattern(label).search(text) is not None


@cache
def _pattern(label: str) -> re.Pattern[str]:
    words = r"[\s_-]+".join(re.escape(word) for word in re.split(r"[\s_-]+", label.strip()))
    return re.compile(rf"(?<!\w){words}(?:s|es)?(?!\w)", re.IGNORECASE)


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The polygons, float64 (n, 2) each, that cover exactly the pixels of `mask`, bool (height, width).

    Polygons of a proposal have no holes, so a region with holes is cut into pieces without.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (y, start), (_, end) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    region = shapely.union_all(shapely.box(start, y, end, y + 1)).simplify(0)
    return [
        shapely.get_coordinates(piece.exterior)[:-1]
        for part in shapely.get_parts(region)
        for piece in _without_holes(part)
    ]


def _without_holes(polygon: Polygon) -> Iterator[Polygon]:
    """`polygon` cut through its holes, until none is left."""
    if not polygon.interiors:
        yield polygon
        return
    x0, y0, x1, y1 = polygon.bounds
    _, top, _, bottom = polygon.interiors[0].bounds
    middle = (top + bottom) / 2
    for half in (shapely.box(x0, y0, x1, middle), shapely.box(x0, middle, x1, y1)):
        for part in shapely.get_parts(polygon.intersection(half)):
            if isinstance(part, Polygon):
                yield from _without_holes(part)


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _parts(image: str) -> tuple[str, ...]:
    return tuple(part for part in image.split("/") if part not in ("", ".")) or ("",)
