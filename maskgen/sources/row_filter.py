"""`select.where`: a condition in SQL over the rows' own columns.

DuckDB reads and judges it, over a batch of rows at a time: pyarrow's expressions have no text form, and a
grammar of our own would be one more to learn. No file and no network is in its reach.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from maskgen.errors import MaskgenError
from maskgen.sources.row_layout import RawRow

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "lock_configuration": True,
    "threads": 1,
}
_REMEDY = "Write one condition over the rows' columns, for example: source LIKE '%lvis%' AND width >= 336"


class RowFilter:
    """Judges rows by a condition. `names`: the columns it names; `seen`: those of them that any row had."""

    def __init__(self, where: str):
        """MaskgenError if `where` is not one condition that follows from a row alone."""
        import duckdb

        self._where = where
        self._connection = duckdb.connect(":memory:", config=_SETTINGS)
        self.names = self._columns()
        self.seen: set[str] = set()
        self.others: set[str] = set()

    def judge(self, rows: Sequence[RawRow]) -> list[bool]:
        """Whether each row is wanted; a condition that is NULL for a row is not met."""
        import duckdb

        for row in rows:
            self.seen.update(name for name in self.names if name in row.columns)
            if len(self.others) < _NAMED:
                self.others.update(row.columns)
        columns = {name: _column([_value(row, name) for row in rows]) for name in self.names}
        table = pa.table(columns) if columns else pa.table({"nothing": pa.nulls(len(rows))})
        try:
            relation = self._connection.from_arrow(table)
            wanted = relation.project(
                duckdb.SQLExpression(f"coalesce(cast(({self._where}\n) AS BOOLEAN), false)")
            )
            return [row[0] for row in wanted.fetchall()]
        except duckdb.Error as error:
            raise self._refused(str(error)) from error

    def _columns(self) -> list[str]:
        """The columns that the condition names, from DuckDB's own parse of it."""
        query = f"SELECT 1 FROM rows WHERE (\n{self._where}\n)"
        [[text]] = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
        tree = json.loads(text)
        if tree["error"]:
            raise self._refused(tree["error_message"])
        volatile = {
            name
            for (name,) in self._connection.execute(
                "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'"
            ).fetchall()
        }
        names: dict[str, None] = {}
        for node in _nodes(tree["statements"][0]["node"]):
            if node.get("class") in ("SUBQUERY", "WINDOW"):
                raise self._refused("it asks for more than one row tells")
            if str(node.get("function_name", "")).lower() in volatile | _CLOCKS:
                raise self._refused(f"{node['function_name']} says something else each time")
            if node.get("class") == "COLUMN_REF":
                names[node["column_names"][0]] = None
        return list(names)

    def _refused(self, why: str) -> MaskgenError:
        reason = why.split("\n")[0].removesuffix("!").removesuffix(".")
        return MaskgenError(f"select.where: {self._where}: {reason}. {_REMEDY}.")


_NAMED = 200  # columns that an error message could name
_CLOCKS = {"now", "today", "current_date", "current_timestamp", "current_time", "get_current_timestamp"}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from _nodes(each)


def _value(row: RawRow, name: str) -> Any:
    """A column's value: of `id` and `image` what the plan holds, of the others what the row says."""
    if name == "id":
        return None if row.id is None else str(row.id)
    if name == "image":
        return row.image if isinstance(row.image, str) else None
    return row.columns.get(name)


def _column(values: list[Any]) -> pa.Array:
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
