"""What annotation tools save: Label Studio's tasks and YOLO's labels, as shapes of images."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

FILE_MARK = "# file: "
"""Before the name of a label file, where several are one text. YOLO itself has no comments."""

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that is uploaded


class AnnotationError(ValueError):
    """`place`: which annotation, `problem`: what is wrong with it."""

    def __init__(self, place: str, problem: str):
        super().__init__(f"{place}: {problem}")
        self.place, self.problem = place, problem


@dataclass(frozen=True)
class Shape:
    """One annotation of an image: its polygons, or a run-length encoded mask, or else its box.

    `polygons`: float64 (n, 2) x, y in pixels. `box`: x0, y0, x1, y1. `place`: where it stands in the file.
    `size`: width and height of the image that it was drawn in, if the file says so. `relative`: the polygons
    and the box are in shares of the picture's width and height, 0-1.
    """

    label: str
    place: str
    polygons: list[np.ndarray] = field(default_factory=list)
    runs: dict[str, Any] | None = None
    box: tuple[float, float, float, float] | None = None
    size: tuple[float, float] | None = None
    relative: bool = False


def is_label_studio(tree: Any) -> bool:
    """Whether it is a list of tasks."""
    return (
        isinstance(tree, list)
        and bool(tree)
        and all(isinstance(task, dict) and "data" in task for task in tree)
    )


def label_studio_shapes(tasks: list[dict[str, Any]]) -> Iterator[tuple[str, Shape | None]]:
    """(image, shape) for every region of Label Studio's JSON; (image, None) for every task.

    Of a task the last annotation that was not cancelled counts, without one the last prediction. Regions are
    polygons and boxes; AnnotationError for others (a brush has to be saved as polygons) and for broken ones.
    """
    for number, task in enumerate(tasks, start=1):
        place = f"task {number}"
        image = _image_of(task, place)
        yield image, None
        annotations = [one for one in _items(task.get("annotations")) if not one.get("was_cancelled")]
        chosen = (annotations or _items(task.get("predictions")))[-1:]
        for result in _items(chosen[0].get("result")) if chosen else []:
            if shape := _region(result, place):
                yield image, shape


def _image_of(task: dict[str, Any], place: str) -> str:
    """The image's path: of a local file what stands after d=, else the address's path; of an upload the name
    alone, without the prefix that it gets.
    """
    data = task["data"]
    told = data.get("image") if isinstance(data, dict) else None
    if not isinstance(told, str) or not told:
        raise AnnotationError(place, "its data names no image")
    address = urlsplit(told)
    local = parse_qs(address.query).get("d")
    path = local[0] if local else unquote(address.path)
    *folders, name = path.lstrip("/").split("/")
    return _UPLOAD.sub("", name) if folders[:2] == ["data", "upload"] else path.lstrip("/")


def _region(result: dict[str, Any], place: str) -> Shape | None:
    kind = result.get("type")
    if kind in ("labels", "choices", "textarea", "rating", "relation"):
        return None  # no region, or what is said of one
    value = result.get("value")
    if kind not in ("polygonlabels", "polygon", "rectanglelabels", "rectangle") or not isinstance(
        value, dict
    ):
        raise AnnotationError(place, f"a region is {kind}: polygons and boxes are read. Save it as polygons")
    labels = value.get("polygonlabels") or value.get("rectanglelabels") or [""]
    label = str(labels[0])
    try:
        if "points" in value:
            points = _points([float(side) for point in value["points"] for side in point], 100)
            return Shape(label, place, [points], relative=True)
        if value.get("rotation"):
            raise AnnotationError(place, "a box is turned. Save it as a polygon")
        x, y, width, height = (float(value[name]) / 100 for name in ("x", "y", "width", "height"))
        return Shape(label, place, box=(x, y, x + width, y + height), relative=True)
    except AnnotationError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(place, "a region's coordinates are no numbers") from error


def yolo_shapes(content: bytes) -> Iterator[tuple[str, Shape | None]]:
    """(image without its ending, shape) for every line of YOLO's labels; (image, None) for every file.

    `content`: the files, each after a line of FILE_MARK and its name. A line is a class and a polygon's x
    and y, or a box's centre, width and height, in shares of the image. The class's number is the label.
    """
    image = ""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines()):
        if line.startswith(FILE_MARK):
            name = line.removeprefix(FILE_MARK)
            image, first = name.removesuffix(".txt"), number
            yield image, None
        elif line.strip():
            place = f"{image}.txt, line {number - first}"
            try:
                label, *numbers = line.split()
                values = [float(each) for each in numbers]
            except ValueError as error:
                raise AnnotationError(place, "it is no class with numbers") from error
            if len(values) == 4 and np.isfinite(values).all():
                x, y, width, height = values
                box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                yield image, Shape(label, place, box=box, relative=True)
            elif len(values) >= 6:
                try:
                    yield image, Shape(label, place, [_points(values, 1)], relative=True)
                except ValueError as error:
                    raise AnnotationError(place, "its coordinates are no pairs of numbers") from error
            else:
                raise AnnotationError(place, f"it has {len(values)} numbers, neither a box nor a polygon")


def _points(values: list[float], whole: float) -> np.ndarray:
    points = np.array(values, np.float64).reshape(-1, 2) / whole
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not a number")
    return points


def _items(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
