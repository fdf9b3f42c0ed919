"""The `recorded` proposer: polygons and boxes that somebody has already drawn, from a file."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import shapely
from shapely import Polygon

from maskgen import config, lenient_json, rle
from maskgen.errors import MaskgenError
from maskgen.file_kinds import no_picture
from maskgen.grounding.drawn_size import Placing
from maskgen.grounding.tool_shapes import (
    FILE_MARK,
    AnnotationError,
    Shape,
    is_label_studio,
    label_studio_shapes,
    yolo_shapes,
)
from maskgen.runtime.storage import Files, open_file
from maskgen.sample import Picture, Proposal, Sample
from maskgen.sources.image_names import form, printable

_FEW = 0.5  # share of the rows' images below which it is said that the file has few of them


class RecordedProposer:
    """Answers a sample with the shapes that a file holds for its image.

    Layouts: COCO (`images`, `annotations`, `categories`; polygons, run lengths or `bbox`; crowds count as
    regions like any other); plain: {image: [{"label", "polygon": [[x, y], ...]}]} with "box": [x0, y0, x1,
    y1] in place of a polygon; Label Studio's JSON (`label_studio_shapes`); and a folder of YOLO's labels
    (`yolo_shapes`), whose images are known by their names without the ending. Coordinates are pixels of the
    upright image; where the file says another width and height than the picture has, `Placing` brings them
    there.

    An image is found by its reference; failing that, by the longest common end of the two paths
    ("train/a.jpg" is "images/train/a.jpg"), if that leaves one image only. Backslashes are slashes.
    """

    def __init__(self, settings: config.Recorded, data: str):
        """Reads `settings.file` under `data`, a folder or URL; MaskgenError if it is missing or broken."""
        where = f"{data.rstrip('/')}/{settings.file}"
        files = Files(where)
        self._by_stem = files.isdir(files.path)
        try:
            content = _folder_content(files) if self._by_stem else _content(where)
        except (OSError, ValueError, ImportError) as error:
            raise MaskgenError(
                f"the recorded proposer cannot read {where} ({getattr(error, 'strerror', None) or error}). "
                "Mend proposer.file, which is looked up under --data."
            ) from error
        self._settings = settings
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._where = where
        self._shapes: dict[tuple[str, ...], list[Shape]] = defaultdict(list)
        try:
            for image, shape in self._read(content):
                self._shapes[_parts(image)] += [shape] if shape else []
        except AnnotationError as error:
            raise self._broken(error.place, error.problem) from error
        self._namesakes: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for parts in self._shapes:
            self._namesakes[parts[-1]].append(parts)

    def propose(self, pictures: list[Picture], samples: list[Sample]) -> list[Proposal]:
        """The recorded shapes of each sample's image; with `match: label`, those that its query names.

        SampleError SIZE_MISMATCH if a sample's shapes were drawn in another picture than it has.
        """
        return [self._answer(*pair) for pair in zip(pictures, samples, strict=True)]

    def compare(self, images: Iterable[str]) -> list[str]:
        """What to say of the images that are about to be asked for: whether the file knows few of them, or
        takes several for one.

        MaskgenError if it knows none.
        """
        notes: list[str] = []
        strangers: list[str] = []
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        twice: dict[str, str] = {}
        asked = {self._parts(image): image for image in images}
        for parts, image in asked.items():
            name = self._name_of(parts)
            if name is None:
                strangers.append(image)
            elif known.setdefault(name, parts) != parts:
                twice[asked[known[name]]] = image
        its = _some("/".join(name) for name in self._shapes)
        instances = f"the rows have {_some(strangers)}, the file has {its}"
        if strangers and len(strangers) == len(asked):
            raise MaskgenError(
                f"{self._where} has none of the {len(asked):,} images: {instances}. "
                "Mend the names, or set proposer.file to the file that belongs to these rows."
            )
        if len(strangers) > (1 - _FEW) * len(asked):
            count = len(asked) - len(strangers)
            notes.append(f"{self._where} has only {count:,} of the {len(asked):,} images: {instances}")
        if twice:
            pairs = _some(f"{one} and {other}" for one, other in twice.items())
            notes.append(f"{self._where} has the same shapes for images in several folders: {pairs}")
        return notes

    def describe(self) -> dict[str, object]:
        return {"kind": "recorded", "sha256": self._sha256, "match": self._settings.match}

    def _answer(self, picture: Picture, sample: Sample) -> Proposal:
        name = self._name_of(self._parts(sample.image))
        shapes = self._shapes[name] if name else []
        if self._settings.match == "label":
            shapes = [shape for shape in shapes if names(sample.query.text, shape.label)]
        polygons: list[np.ndarray] = []
        boxes: list[np.ndarray] = []
        for shape in shapes:
            placing = Placing(shape.size, picture)
            scale = (picture.width, picture.height) if shape.relative else (1, 1)
            polygons += [placing(points) * scale for points in _polygons(shape)]
            boxes += [placing.box(shape.box) * (scale * 2)] if shape.box else []
        return Proposal(polygons=polygons, boxes=np.array(boxes, np.float64).reshape(-1, 4))

    def _parts(self, image: str) -> tuple[str, ...]:
        """An image's path as the file would name it."""
        *folders, name = _parts(image)
        return (*folders, name.rpartition(".")[0] or name) if self._by_stem else (*folders, name)

    def _name_of(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """The file's own name of an image."""
        if parts in self._shapes:
            return parts
        alike = [
            name
            for name in self._namesakes.get(parts[-1], [])
            if all(a == b for a, b in zip(reversed(name), reversed(parts), strict=False))
        ]
        shorter = [name for name in alike if len(name) < len(parts)]
        if shorter:
            return max(shorter, key=len)
        return alike[0] if len(alike) == 1 else None

    def _read(self, content: bytes) -> Iterator[tuple[str, Shape | None]]:
        """(image, shape) for every annotation in the file; (image, None) for every image."""
        if self._by_stem:
            yield from yolo_shapes(content)
            return
        try:
            tree = lenient_json.loads(content)
        except (ValueError, RecursionError) as error:
            instead = no_picture(content)  # what often lies where a file should
            why = f" but {instead}" if instead else f": {error}"
            raise MaskgenError(f"{self._where} is not JSON{why}. Mend the file.") from error
        if is_label_studio(tree):
            yield from label_studio_shapes(tree)
            return
        if not isinstance(tree, dict):
            raise self._broken(
                "the file",
                "it is no JSON object, so neither COCO nor {image: [shapes]}, and no tasks of Label Studio",
            )
        yield from self._read_coco(tree) if "annotations" in tree else self._read_plain(tree)

    def _read_plain(self, tree: dict[str, Any]) -> Iterator[tuple[str, Shape | None]]:
        for image, shapes in tree.items():
            yield image, None
            for number, shape in enumerate(_items(shapes)):
                place = f"{image}, shape {number + 1}"
                if not isinstance(shape, dict) or ("polygon" in shape) == ("box" in shape):
                    raise self._broken(place, 'it has not either a "polygon" or a "box"')
                label = str(shape.get("label", ""))
                if "polygon" in shape:
                    yield image, Shape(label, place, [self._points(shape["polygon"], place)])
                else:
                    yield image, Shape(label, place, box=self._numbers(shape["box"], place))

    def _read_coco(self, tree: dict[str, Any]) -> Iterator[tuple[str, Shape | None]]:
        try:
            images = {
                str(image["id"]): (str(image["file_name"]), _size(image.get("width"), image.get("height")))
                for image in tree["images"]
            }
            labels = {str(kind["id"]): str(kind["name"]) for kind in tree.get("categories", [])}
        except (KeyError, TypeError) as error:
            raise self._broken("the file", f"its images or categories are not COCO's ({error})") from error
        yield from ((name, None) for name, _ in images.values())
        for number, annotation in enumerate(_items(tree["annotations"])):
            place = f"annotation {number + 1}"
            image = images.get(str(annotation.get("image_id"))) if isinstance(annotation, dict) else None
            if image is None:
                raise self._broken(place, "its image_id is not among the images")
            label = labels.get(str(annotation.get("category_id")), "")
            name, size = image
            yield name, self._coco_shape(annotation, label, place, size)

    def _coco_shape(
        self, annotation: dict[str, Any], label: str, place: str, size: tuple[float, float] | None
    ) -> Shape:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            return Shape(label, place, runs=segmentation, size=self._runs_size(segmentation, place))
        if segmentation and (rings := [ring for ring in _rings(segmentation) if ring != []]):
            polygons = [self._points(points, place) for points in rings]
            return Shape(label, place, polygons, size=size)
        x, y, width, height = self._numbers(annotation.get("bbox"), place)
        return Shape(label, place, box=(x, y, x + width, y + height), size=size)

    def _runs_size(self, runs: dict[str, Any], place: str) -> tuple[float, float]:
        """The mask's width and height, once its run lengths have been looked at."""
        try:
            height, width = (int(side) for side in runs["size"])
            rle.check(runs["counts"], height, width)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._broken(place, "its run lengths do not fill its size") from error
        return float(width), float(height)

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


def _content(where: str) -> bytes:
    with open_file(where) as file:
        return file.read()


def _folder_content(files: Files) -> bytes:
    """The text files of a folder, one after the other, each after a line with its name."""
    found = sorted(name for name in files.find(files.path, 1) if name.endswith(".txt"))
    parts = []
    for name in found:
        with files.open(name) as file:
            parts.append(f"{FILE_MARK}{name.rpartition('/')[2]}\n".encode() + file.read() + b"\n")
    return b"".join(parts)


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


def _polygons(shape: Shape) -> list[np.ndarray]:
    if shape.runs is None:
        return shape.polygons
    height, width = shape.runs["size"]
    return outlines(rle.decode(shape.runs["counts"], int(height), int(width)))


def _rings(segmentation: object) -> list[Any]:
    """The polygons of a COCO segmentation; one that is written without its outer brackets is one polygon."""
    rings = _items(segmentation)
    flat = all(isinstance(number, (int, float)) for number in rings)
    pairs = len(rings) > 2 and all(isinstance(pair, list) and len(pair) == 2 for pair in rings)
    return [rings] if flat or pairs else rings


def _size(width: object, height: object) -> tuple[float, float] | None:
    """Both if both are numbers of pixels, be it as text; writers that do not know them put 0 or nothing."""
    try:
        sides = float(width), float(height)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return sides if all(0 < side < 1e9 for side in sides) else None


def _some(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in islice(names, 3))


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _parts(image: str) -> tuple[str, ...]:
    return tuple(part for part in form(image).split("/") if part not in ("", ".")) or ("",)
