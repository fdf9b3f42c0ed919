"""NNNNNN.parquet: a row for every planned sample, failed ones too."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskgen.errors import MaskgenError
from maskgen.geometry import binarise
from maskgen.runtime.store import Store
from maskgen.sample import Signals
from maskgen.sharding.format import ShardSample

COLUMNS = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in [
            ("key", pa.string()),
            ("id", pa.string()),
            ("image", pa.string()),
            ("split", pa.string()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
            ("query", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("polygons", pa.int32()),
            ("box_x0", pa.float64()),
            ("box_y0", pa.float64()),
            ("box_x1", pa.float64()),
            ("box_y1", pa.float64()),
            ("sam_iou", pa.float64()),
            ("agreement", pa.float64()),
            ("coverage", pa.float64()),
            ("tokens", pa.int32()),
            ("query_truncated", pa.bool_()),
            ("grid_cells", pa.int32()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("meta", pa.string()),
        ]
    ]
)


SIGNALS = pa.schema([pa.field(field.name, pa.float64()) for field in fields(Signals)])
"""Further columns of a set whose quality is measured (`sample.Signals`)."""

_BEFORE_META = pa.schema([field for field in COLUMNS if field.name != "meta"])  # format version 1


def row_of(sample: ShardSample, offset: int, size: int) -> dict[str, Any]:
    """The row of a sample that stands at `offset` in the tar and takes `size` bytes there."""
    told = sample.fields
    box = dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), told.box, strict=True))
    return {
        "key": sample.key,
        "id": told.id,
        "image": told.image,
        "split": told.split,
        "outcome": str(told.outcome),
        "reason": told.reason,
        "query": told.query.text,
        "width": told.width,
        "height": told.height,
        "polygons": len(sample.polygons),
        **box,
        "sam_iou": told.sam_iou,
        "agreement": told.agreement,
        "coverage": told.coverage,
        "tokens": told.tokens,
        "query_truncated": told.query.truncated,
        "grid_cells": int(np.count_nonzero(binarise(sample.grid))),
        "offset": offset,
        "size": size,
        "meta": told.meta,
    }


def row_outside(
    key: str,
    id: str,
    image: str,
    split: str,
    outcome: str,
    reason: str,
    query: str,
    shape: tuple[int, int],
    meta: str = "{}",
) -> dict[str, Any]:
    """The row of a sample that is not in the tar; `shape` is (height, width), (0, 0) if unknown."""
    zeros = {
        field.name: pa.scalar(0).cast(field.type).as_py() for field in COLUMNS if field.type != pa.string()
    }
    texts = {"key": key, "id": id, "image": image, "split": split, "query": query, "meta": meta}
    size = {"height": shape[0], "width": shape[1], "offset": -1}
    return zeros | texts | {"outcome": outcome, "reason": reason} | size


def signals_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that is not in the tar."""
    return {name: row[name] for name in SIGNALS.names if name in row}


def write(rows: list[dict[str, Any]], path: Path, signals: bool = False) -> None:
    """Write the rows; equal rows give equal bytes (with the same pyarrow). `signals`: with their columns."""
    table = pa.Table.from_pylist(rows, schema=pa.schema([*COLUMNS, *SIGNALS]) if signals else COLUMNS)
    pq.write_table(table, path, compression="zstd", row_group_size=max(1, len(rows)))


def read(store: Store, name: str) -> pa.Table:
    """A shard's table; MaskgenError if it is not one."""
    with store.open(name) as stream:
        try:
            table = pq.read_table(stream)
        except (pa.ArrowException, OSError) as error:
            raise MaskgenError(f"{store.where(name)} cannot be read: {error}. Remake its shard.") from error
    if table.schema.equals(_BEFORE_META):
        table = table.append_column(COLUMNS.field("meta"), pa.array(["{}"] * len(table)))
    plain = table.drop_columns([name for name in SIGNALS.names if name in table.column_names])
    if not plain.schema.equals(COLUMNS) or len(table.schema) - len(COLUMNS) not in (0, len(SIGNALS)):
        raise MaskgenError(f"{store.where(name)} has other columns than the format. Remake its shard.")
    return table
