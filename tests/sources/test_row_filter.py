"""Conditions over the rows' own columns, as DuckDB reads them."""

import json
from typing import Any

import pytest

from maskgen.errors import MaskgenError
from maskgen.sources.row_filter import RowFilter
from maskgen.sources.row_layout import RawRow

COLUMNS: list[dict[str, Any]] = [
    {"source": "lvis_instruct4v_220k.json", "width": 400},
    {"source": "lvis_instruct4v_220k.json", "width": 300},
    {"source": "orca.json", "width": 500},
    {"source": None, "width": 600},
    {"width": 700.5},
    {"source": "a'b lvis \ud800", "tags": ["x", {"y": 1}], "ok": True},
]
ROWS = [RawRow(number, f"{number}.jpg", [], columns) for number, columns in enumerate(COLUMNS)]


def chosen(where: str) -> list[int]:
    return [row.id for row, wanted in zip(ROWS, RowFilter(where).judge(ROWS), strict=True) if wanted]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("source LIKE '%lvis%' AND width >= 336", [0]),
        ("source LIKE '%lvis%'", [0, 1, 5]),
        ("width >= 336", [0, 2, 3, 4]),
        ("source IS NULL", [3, 4]),
        ("NOT (source = 'orca.json')", [0, 1, 5]),
        ("id = '2'", [2]),
        ("image IN ('0.jpg', '5.jpg')", [0, 5]),
        ("ok", [5]),
        ("json_extract_string(tags, '$[1].y') = '1'", [5]),
        ("regexp_matches(source, '^orca') -- a comment", [2]),
        ("true", [0, 1, 2, 3, 4, 5]),
        ("\"source\" = 'orca.json'", [2]),
    ],
)
def test_the_rows_that_meet_the_condition(where, numbers):
    assert chosen(where) == numbers


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("source LIKE", "syntax error"),
        ("(SELECT 1) = 1", "more than one row tells"),
        ("row_number() OVER () < 3", "more than one row tells"),
        ("random() < 0.5", "something else each time"),
        ("now() > '2020-01-01'", "something else each time"),
        ("1 = 1); DROP TABLE rows; SELECT (1", ""),
        ("source IN (SELECT content FROM read_text('/etc/hostname'))", ""),
        ("width > 'wide'", ""),
        ("nosuchfunction(width)", "nosuchfunction"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused_in_a_sentence(where, why):
    with pytest.raises(MaskgenError, match=rf"(?s)select\.where: .*{why}.*Write one condition") as caught:
        chosen(where)
    assert "\n" not in str(caught.value).removeprefix(f"select.where: {where}")


def test_batches_do_not_change_the_answer():
    one = RowFilter("width >= 336")
    apart = [one.judge([row])[0] for row in ROWS]
    assert apart == RowFilter("width >= 336").judge(ROWS)
    assert json.dumps(sorted(one.seen)) == '["width"]'


@pytest.mark.parametrize("where", ["a = 'x'", "a > 3", "a LIKE '%x%'", "a", "lower(a) = 'x'", "a + 1 > 2"])
def test_a_column_without_a_value_is_null_to_every_condition(where):
    assert RowFilter(where).judge([RawRow(1, None, [], {"a": None}), RawRow(2, None, [], {})]) == [
        False,
        False,
    ]
