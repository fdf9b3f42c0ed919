"""One reader of JSON for rows, recorded shapes and what else others wrote: the same value wherever it stands.

Read, though the standard forbids it: a byte order mark, NaN and Infinity (null), lone surrogates, stray bytes
and control characters in texts. Integers keep every digit.
"""

import codecs
import json
import re
from typing import Any

import orjson

_LONG = re.compile(rb"[0-9]{19}")  # digits that may pass 64 bits, which orjson makes a float
_LONG_TEXT = re.compile("[0-9]{19}")
_PARSER = json.JSONDecoder(strict=False, parse_constant=lambda _: None)
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def loads(data: bytes | str) -> Any:
    """The value that `data` holds; ValueError says what is wrong, RecursionError that it is too deep."""
    try:
        value = orjson.loads(data)
    except ValueError:
        return loads_slowly(data)
    long = _LONG.search(data) if isinstance(data, bytes) else _LONG_TEXT.search(data)
    return loads_slowly(data) if long else value


def loads_slowly(data: bytes | str) -> Any:
    """As `loads`, by the parser that takes everything: ten times the time."""
    if isinstance(data, str):
        return _PARSER.decode(data.strip())
    if data.startswith(_WIDE):
        raise ValueError("the text is UTF-16; save it as UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return _PARSER.decode(text.strip())


def scan(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends; ValueError as in `loads`."""
    return _PARSER.raw_decode(text, at)


def is_exact(row: dict[str, Any], data: bytes) -> bool:
    """Whether orjson's `row` is what `loads` would make of `data`, as to its columns' numbers.

    A float or something nested may have been a long integer; only then are the bytes looked at.
    """
    for name, value in row.items():
        kind = type(value)
        if kind is float or ((kind is list or kind is dict) and name != "conversations"):
            return not _LONG.search(data)
    return True
