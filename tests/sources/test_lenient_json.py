"""What others write as JSON means the same wherever it stands."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.sources import lenient_json
from maskgen.sources.rows import read_rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES, st.booleans(), st.sampled_from([b"", b"\xef\xbb\xbf", b" \n"]))
def test_every_value_comes_back_whole(value, ascii_only, before):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert lenient_json.loads(before + text.encode("utf-8", "surrogatepass")) == value
    assert lenient_json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[NaN, Infinity, -Infinity]", [None, None, None]),
        (b"[18446744073709551616, -9223372036854775809]", [2**64, -(2**63) - 1]),
        (b'{"a": "x\x01y"}', {"a": "x\x01y"}),
        (b'"\\ud800"', "\ud800"),
        (b'"\xff"', "\udcff"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_what_the_standard_forbids_is_read(text, value):
    assert lenient_json.loads(text) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1] 2", b"nul", b"\xff\xfe[\x001\x00]\x00", b"[" * 100_000, b"9" * 5000]
)
def test_what_is_no_json_is_an_error_that_says_so(text):
    with pytest.raises((ValueError, RecursionError)):
        lenient_json.loads(text)


ODD = [
    b'{"id": 123456789012345678901234567890, "a": [12345678901234567890123], "image": "a.jpg"%s}',
    b'{"id": NaN, "width": Infinity, "image": NaN%s}',
    b'{"id": 9223372036854775808, "x": 1e400, "image": "none"%s}',
    b'{"id": "\\ud800", "b": "\xff", "image": "x\x01.jpg"%s}',
]


@pytest.mark.parametrize("line", ODD)
def test_rows_mean_the_same_on_lines_and_in_arrays(tmp_path, line):
    row = line % b', "conversations": [{"from": "human", "value": "Where?"}]'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\xef\xbb\xbf" + row)
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[" + row + b"," + row + b"]")
    lines, array = ([*read_rows(str(tmp_path / name))] for name in ("a.jsonl", "a.json"))
    assert lines == array
    assert len(lines) == 2 and lines[0] == lines[1]
