"""A condition in SQL over columns, such as a configuration's `where`.

DuckDB reads and judges it: pyarrow's expressions have no text form, and a grammar of our own would be one
more to learn. No file and no network is in its reach.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from maskgen.errors import MaskgenError

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "lock_configuration": True,
    "threads": 1,
}
_CLOCKS = {"now", "today", "current_date", "current_timestamp", "current_time", "get_current_timestamp"}


class SqlCondition:
    """One condition that follows from a row alone. `names`: the columns it names."""

    def __init__(self, where: str, setting: str, example: str):
        """`setting`: the configuration's key, `example`: what to write instead, for messages. MaskgenError if
        `where` is anything else.
        """
        import duckdb

        self._where, self._setting, self._example = where, setting, example
        self._connection = duckdb.connect(":memory:", config=_SETTINGS)
        self.names = self._columns()

    def judge(self, columns: Mapping[str, pa.Array], rows: int) -> list[bool]:
        """Whether each of so many rows meets it; NULL does not. `columns`: by name, all that it names."""
        import duckdb

        given = {name: columns[name] for name in self.names}
        table = pa.table(given) if given else pa.table({"nothing": pa.nulls(rows)})
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
        return MaskgenError(f"{self._setting}: {self._where}: {reason}. {self._example}.")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from _nodes(each)
