"""`select.where`: a condition in SQL over the rows' own columns."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from maskgen.sources.row_layout import RawRow
from maskgen.sources.sql_condition import SqlCondition

_EXAMPLE = "Write one condition over the rows' columns, for example: source LIKE '%lvis%' AND width >= 336"
_NAMED = 200  # columns that an error message could name


class RowFilter:
    """Judges rows by a condition. `names`: the columns it names; `seen`: those of them that any row had."""

    def __init__(self, where: str):
        """MaskgenError if `where` is not one condition that follows from a row alone."""
        self._condition = SqlCondition(where, "select.where", _EXAMPLE)
        self.names = self._condition.names
        self.seen: set[str] = set()
        self.others: set[str] = set()

    def judge(self, rows: Sequence[RawRow]) -> list[bool]:
        """Whether each row is wanted; a condition that is NULL for a row is not met."""
        for row in rows:
            self.seen.update(name for name in self.names if name in row.columns)
            if len(self.others) < _NAMED:
                self.others.update(row.columns)
        columns = {name: column([_value(row, name) for row in rows]) for name in self.names}
        return self._condition.judge(columns, len(rows))


def _value(row: RawRow, name: str) -> Any:
    """A column's value: of `id` and `image` what the plan holds, of the others what the row says."""
    if name == "id":
        return None if row.id is None else str(row.id)
    if name == "image":
        return row.image if isinstance(row.image, str) else None
    return row.columns.get(name)


def column(values: list[Any]) -> pa.Array:
    """Numbers and truth values as they are; a column that holds anything else is text, nested values JSON."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float}:
        if float in kinds or any(value is not None and abs(value) >= 1 << 63 for value in values):
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
        return pa.array(values, pa.int64())
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None:
        return None
    told = value if isinstance(value, str) else json.dumps(value, default=str)
    return told.encode("utf-8", "replace").decode()
