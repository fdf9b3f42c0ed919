"""A sample's members in the tar, both ways: the only place that knows them (reference: shards/README.md)."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskgen import config, rle
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.sample import Grounding, Picture, Query, Sample, Turn

if TYPE_CHECKING:
    from maskgen.config import Limits

SCHEMA = 2
READABLE = (1, 2)
"""Versions that are read; 1 had no `meta`."""

EXTENSIONS = ("jpg", "png", "webp", "gif", "bmp", "tif")
MEMBERS = 4
MEMBER_LIMIT = 2**30
KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

# HF datasets takes the type of a list from the first samples alone: an empty list has none.
_NO_POLYGON = [0.0] * 6


class FormatError(MaskgenError):
    """Bytes that are not a sample of this format."""


_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Turn(_Part):
    speaker: str = Field(alias="from")
    value: str


class _Query(_Part):
    text: str
    spans: list[tuple[_Count, _Count, _Count]] = Field(min_length=1)
    truncated: bool


class _Rle(_Part):
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    counts: str = Field(min_length=1)


class _Geometry(_Part):
    fit: Literal["squash", "pad", "crop"]
    size: int = Field(ge=1, le=2**16)
    cells: int = Field(ge=1, le=2**12)


class Fields(_Part):
    """KEY.json. Every field always present; no list is empty; the order here is the order there."""

    version: Literal[1, 2] = Field(alias="schema")
    id: str
    image: str
    split: str
    conversations: list[_Turn] = Field(min_length=1)
    query: _Query
    outcome: Outcome
    reason: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    polygons: list[Annotated[list[float], Field(min_length=2)]] = Field(min_length=1)
    rle: _Rle
    box: tuple[float, float, float, float]
    sam_iou: float
    agreement: _Share
    coverage: _Share
    tokens: _Count
    geometry: _Geometry
    meta: str = "{}"


@dataclass(frozen=True)
class ShardSample:
    """A sample as the shards hold it.

    `image` is the source's own bytes, `grid` uint8 (cells, cells), the rest of KEY.json is `fields`;
    stand-ins for empty lists are taken out again by the properties.
    """

    key: str
    extension: str
    image: bytes
    fields: Fields
    grid: np.ndarray

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation."""
        turns = tuple(Turn(turn.speaker, turn.value) for turn in self.fields.conversations)
        return () if turns == (Turn("", ""),) else turns

    @property
    def query(self) -> Query:
        """The text t_q and where it stands in the conversation."""
        spans = tuple(self.fields.query.spans)
        return Query(self.fields.query.text, () if spans == ((0, 0, 0),) else spans)

    @property
    def polygons(self) -> list[np.ndarray]:
        """The polygons as predicted: float64 (n, 2), x and y in pixels of the oriented image."""
        flat = self.fields.polygons
        return [] if flat == [_NO_POLYGON] else [np.array(one).reshape(-1, 2) for one in flat]

    def mask_pixels(self) -> np.ndarray:
        """The final mask, bool (height, width) in the oriented image."""
        height, width = self.fields.rle.size
        try:
            return rle.decode(self.fields.rle.counts, height, width)
        except ValueError as error:
            raise FormatError(f"{self.key}.json: rle: {error}.") from error

    def picture(self, limits: "Limits") -> Picture:
        """The decoded image; SampleError if it does not decode within `limits`."""
        from maskgen import pixels

        return pixels.decode(self.image, limits)


def names(key: str, extension: str) -> tuple[str, ...]:
    """The members of a sample, in order."""
    return f"{key}.{extension}", f"{key}.txt", f"{key}.json", f"{key}.mask.npy"


def encode(
    sample: Sample, picture: Picture, grounding: Grounding, split: str, grid: config.Grid
) -> list[tuple[str, bytes]]:
    """The members (name, bytes) of a grounded sample, in order; equal inputs give equal bytes."""
    if not KEY.fullmatch(sample.key):
        raise ValueError(f"{sample.key!r} is no key: 1-64 of a-z, 0-9, - and _, no dot")
    if picture.extension not in EXTENSIONS:
        raise ValueError(f"{picture.extension!r} is no image extension of the format")
    shape = picture.height, picture.width
    if grounding.mask.shape != shape or grounding.grid.shape != (grid.cells, grid.cells):
        raise ValueError(f"{sample.key}: mask {grounding.mask.shape} or grid {grounding.grid.shape} misfits")
    query = {
        "text": sample.query.text,
        "spans": list(sample.query.spans) or [(0, 0, 0)],
        "truncated": grounding.query_truncated,
    }
    polygons = [_decimals(polygon.ravel(), 2) for polygon in grounding.polygons if polygon.size]
    fields = Fields.model_validate(
        {
            "schema": SCHEMA,
            "id": sample.id,
            "image": sample.image,
            "split": split,
            "conversations": [{"from": turn.speaker, "value": turn.value} for turn in sample.conversations]
            or [{"from": "", "value": ""}],
            "query": query,
            "outcome": grounding.outcome,
            "reason": grounding.reason,
            "width": picture.width,
            "height": picture.height,
            "polygons": polygons or [_NO_POLYGON],
            "rle": {"size": shape, "counts": rle.encode(grounding.mask)},
            "box": tuple(_decimals(grounding.box, 2)),
            "sam_iou": decimal(grounding.sam_iou),
            "agreement": decimal(grounding.agreement),
            "coverage": decimal(grounding.coverage),
            "tokens": int(grounding.tokens),
            "geometry": grid.model_dump(),
            "meta": sample.meta,
        }
    )
    if problem := _inconsistency(fields):
        raise ValueError(f"{sample.key}: {problem}")
    contents = (
        picture.data,
        sample.query.text.encode(),
        fields.model_dump_json(by_alias=True).encode(),
        _npy(grounding.grid),
    )
    return list(zip(names(sample.key, picture.extension), contents, strict=True))


def decode(members: Mapping[str, bytes]) -> ShardSample:
    """The sample; FormatError unless the members are exactly those of one, in order and consistent.

    Nothing in the bytes is executed or trusted: no pickle, no allocation larger than the input.
    """
    first = next(iter(members), "")
    key, _, extension = first.partition(".")
    if not KEY.fullmatch(key) or extension not in EXTENSIONS:
        raise FormatError(f"{first!r} is not an image member of a sample.")
    if tuple(members) != names(key, extension):
        raise FormatError(f"{key}: the members are {', '.join(members)}.")
    data, text, tree, npy = members.values()
    fields = _fields(key, tree)
    if text != fields.query.text.encode():
        raise FormatError(f"{key}: the query in {key}.txt and in {key}.json differ.")
    return ShardSample(key, extension, data, fields, _grid(key, npy, fields.geometry.cells))


def decimal(value: float) -> float:
    """A score as it is stored: six decimals, never -0.0."""
    return round(float(value), 6) + 0.0


def _decimals(values: Sequence[float] | np.ndarray, digits: int) -> list[float]:
    return [round(float(value), digits) + 0.0 for value in values]


def _fields(key: str, tree: bytes) -> Fields:
    try:
        fields = Fields.model_validate_json(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{key}.json: {where}: {first['msg']}.") from error
    if problem := _inconsistency(fields):
        raise FormatError(f"{key}.json: {problem}.")
    return fields


def _inconsistency(fields: Fields) -> str:
    """What single fields cannot show; empty if all is well."""
    if fields.version > 1 and "meta" not in fields.model_fields_set:
        return "it has no meta"
    if fields.rle.size != (fields.height, fields.width):
        return "the mask's size is not the image's"
    if not fields.outcome.in_tar:
        return f"a sample that is {fields.outcome} does not belong in a tar"
    if any(len(polygon) % 2 for polygon in fields.polygons):
        return "a polygon has an odd number of coordinates"
    for turn, start, end in fields.query.spans:
        if turn >= len(fields.conversations) or not start <= end <= len(fields.conversations[turn].value):
            return "a query span lies outside the conversation"
    return ""


def _npy(grid: np.ndarray) -> bytes:
    if grid.dtype != np.uint8:
        raise ValueError(f"the grid is {grid.dtype}, not uint8")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(grid), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _grid(key: str, npy: bytes, cells: int) -> np.ndarray:
    """The grid, read without np.load: header first, then exactly the bytes it promises."""
    stream = io.BytesIO(npy)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("unknown version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise FormatError(f"{key}.mask.npy: {error}.") from error
    if shape != (cells, cells) or fortran or dtype != np.uint8 or len(npy) - stream.tell() != cells * cells:
        raise FormatError(f"{key}.mask.npy: not uint8 ({cells}, {cells}).")
    return np.frombuffer(npy, np.uint8, offset=stream.tell()).reshape(cells, cells).copy()
