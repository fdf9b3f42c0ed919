"""NNNNNN.parquet: a row for every planned sample, failed ones too."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskgen.errors import MaskgenError
from maskgen.geometry import binarise
from maskgen.runtime.store import Store
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


_BEFORE_META = pa.schema([field for field in COLUMNS if field.name != "meta"])  # format version 1


def row_of(sample: ShardSample, offset: int, size: int) -> dict[str, Any]:
    """The row of a sample that stands at `offset` in the tar and takes `size` bytes there."""
    fields = sample.fields
    box = dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), fields.box, strict=True))
    return {
        "key": sample.key,
        "id": fields.id,
        "image": fields.image,
        "split": fields.split,
        "outcome": str(fields.outcome),
        "reason": fields.reason,
        "query": fields.query.text,
        "width": fields.width,
        "height": fields.height,
        "polygons": len(sample.polygons),
        **box,
        "sam_iou": fields.sam_iou,
        "agreement": fields.agreement,
        "coverage": fields.coverage,
        "tokens": fields.tokens,
        "query_truncated": fields.query.truncated,
        "grid_cells": int(np.count_nonzero(binarise(sample.grid))),
        "offset": offset,
        "size": size,
        "meta": fields.meta,
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


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows; equal rows give equal bytes (with the same pyarrow)."""
    table = pa.Table.from_pylist(rows, schema=COLUMNS)
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
    if not table.schema.equals(COLUMNS):
        raise MaskgenError(f"{store.where(name)} has other columns than the format. Remake its shard.")
    return table
