"""`data.where`: which masks guide. The language-model loss keeps every row."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.draw import text
from maskgen.errors import MaskgenError
from maskgen.runtime.store import Store
from maskgen.sharding.calibration import Calibration, read_calibration
from maskgen.sources.row_filter import column
from maskgen.sources.sql_condition import SqlCondition

_EXAMPLE = "Write one condition over the index's columns, for example: quality >= 0.8 AND coverage < 0.9"
_MOST_SOURCES = 20

Group = tuple[str, str, int, int]
"""A kind of mask ("polygons", "size" or "source", and which), how many guide, and how many there are."""


@dataclass(frozen=True)
class KeptMasks:
    """How many of the masks that there are guide, of all and of each group."""

    where: str
    kept: int
    masks: int
    groups: list[Group]

    def render(self) -> str:
        """For a person."""
        rows = [("", "", "masks", "that guide", "")]
        for kind, group, kept, masks in [("all", "", self.kept, self.masks), *self.groups]:
            rows.append((kind, group, f"{masks:,}", f"{kept:,}", text.share(kept, masks)))
        return "\n".join([f"data.where: {self.where}", *text.table(rows, right=frozenset({2, 3, 4}))])


class MaskFilter:
    """Judges samples of finished sets by a condition over the index's columns, `quality`, and the further
    columns of the annotation's rows.
    """

    def __init__(self, where: str):
        """MaskgenError if `where` is not one condition that follows from a row alone."""
        self._where = where
        self._condition = SqlCondition(where, "data.where", _EXAMPLE)
        self._all = 0, 0
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}

    def judge(self, place: str, has_mask: np.ndarray) -> np.ndarray:
        """Which of a set's samples guide, bool (samples,), of those that have a mask, bool (samples,).

        MaskgenError where the set lacks a column that the condition names.
        """
        store = Store(place)
        calibration = self._calibration(store)
        guides, met, done = np.zeros_like(has_mask), set[str](), 0
        with store.open("index.parquet") as stream, pq.ParquetFile(stream) as file:
            known = set(file.schema_arrow.names) | {"quality"}
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                rows = rows.filter(pc.greater_equal(rows["offset"], 0))
                meta = _meta(rows)
                met.update(name for each in meta for name in each)
                here = slice(done, done + len(rows))
                columns = {name: _column(rows, meta, calibration, name) for name in self._condition.names}
                guides[here] = has_mask[here] & np.array(self._condition.judge(columns, len(rows)), bool)
                self._count(rows, meta, has_mask[here], guides[here])
                done += len(rows)
        if absent := [name for name in self._condition.names if name not in known | met]:
            raise MaskgenError(
                f"data.where: {self._where}: {place} has no column {absent[0]}. There are "
                f"{', '.join(sorted(known | met))}."
            )
        return guides

    def kept(self) -> KeptMasks:
        """What was judged so far."""
        groups = [
            *sorted(self._groups("polygons")),
            *sorted(self._groups("size"), key=lambda group: _SIZES.index(group[1])),
            *_largest(self._groups("source")),
        ]
        return KeptMasks(self._where, *self._all, groups)

    def _calibration(self, store: Store) -> Calibration | None:
        if "quality" not in self._condition.names:
            return None
        found = read_calibration(store)
        if found is None:
            raise MaskgenError(
                f"data.where names quality, but {store.place} is not calibrated. Run: maskgen calibrate "
                f"{store.place}."
            )
        return found

    def _count(
        self, rows: pa.Table, meta: list[dict[str, Any]], masked: np.ndarray, guides: np.ndarray
    ) -> None:
        polygons, coverage, images = rows["polygons"].to_pylist(), rows["coverage"].to_pylist(), rows["image"]
        for place in np.flatnonzero(masked):
            source = meta[place].get("source") or images[place].as_py().split("/")[0]
            for key in (
                ("polygons", str(polygons[place]) if polygons[place] < 4 else "4 or more"),
                ("size", _size(coverage[place])),
                ("source", str(source)),
            ):
                kept, masks = self._counts.get(key, (0, 0))
                self._counts[key] = kept + bool(guides[place]), masks + 1
        self._all = self._all[0] + int(guides.sum()), self._all[1] + int(masked.sum())

    def _groups(self, kind: str) -> list[Group]:
        return [(*key, *counts) for key, counts in self._counts.items() if key[0] == kind]


def _meta(rows: pa.Table) -> list[dict[str, Any]]:
    """The further columns of the annotation's rows; empty in sets of the first format."""
    if "meta" not in rows.column_names:
        return [{}] * len(rows)
    return [json.loads(each) for each in rows["meta"].to_pylist()]


def _column(
    rows: pa.Table, meta: list[dict[str, Any]], calibration: Calibration | None, name: str
) -> pa.Array:
    if name in rows.column_names:
        return rows[name].combine_chunks()
    if name == "quality" and calibration:
        return pa.array(calibration.quality(rows), from_pandas=True)  # what is unknown is NULL
    return column([each.get(name) for each in meta])


def _largest(groups: list[Group]) -> list[Group]:
    """The largest groups, and the rest as one."""
    ordered = sorted(groups, key=lambda group: (-group[3], group[1]))
    rest = ordered[_MOST_SOURCES:]
    if not rest:
        return ordered
    together = sum(group[2] for group in rest), sum(group[3] for group in rest)
    return [*ordered[:_MOST_SOURCES], (rest[0][0], f"{len(rest)} others", *together)]


_EDGES = (0.01, 0.05, 0.2, 0.5)
_SIZES = [
    "below 1 %",
    *(f"{100 * low:g} to {100 * high:g} %" for low, high in pairwise(_EDGES)),
    "50 % or more",
]


def _size(coverage: float) -> str:
    """The name of a mask's size, by the share of the image under it."""
    return _SIZES[int(np.searchsorted(_EDGES, coverage, side="right"))]
