"""A row as it was written → the row that is planned: LLaVA's layout and the others in use.

Conversations stand under `conversations` or `messages`; turns have `from` and `value`, or `role` and
`content`, which may come in parts; pictures stand under `image` or `images`, as a path, a list, or an object
with one.
Any of them may be JSON text in a column.
"""

import json
import math
import re
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from maskgen import lenient_json

CONVERSATIONS = ("conversations", "messages", "conversation")
PICTURES = ("image", "images")
UNREAD = (
    *("video", "videos", "audio", "audios", "image_path", "image_paths", "image_file", "image_files"),
    *("image_url", "image_urls", "img", "imgs", "img_path", "picture", "pictures"),
)
"""Columns that name a picture or another medium, and are not read: such a row is no text-only row."""

_SPEAKER_AND_VALUE = itemgetter("from", "value")
_ODD = frozenset({*UNREAD, "images", "messages", "conversation"})
_NAMES = {"id", *PICTURES, *CONVERSATIONS}
_NOTHING = frozenset({"", "none", "nan", "null"})
_SURROGATE = re.compile("[\ud800-\udfff]")
PLACEHOLDER = "<image>"

Image = str | list[str] | dict[str, str] | None


class RawRow(NamedTuple):
    """A row in LLaVA's layout; `turns` are (speaker, value) pairs. Strings may hold lone surrogates.

    `image`: the reference; a list where the row has several; {"unread": why} where it names a picture in a
    way that is not read. `columns`: the row as it stood.
    """

    id: str | int | float | None
    image: Image
    turns: list[tuple[str, str]]
    columns: dict[str, Any] = {}  # noqa: RUF012 (never changed)


class BrokenRow(NamedTuple):
    """A row that cannot be used: its line (JSON lines, from 1) or index (otherwise, from 0), and why."""

    position: int
    reason: str


class _BrokenError(ValueError):
    pass


def plain(columns: Any) -> tuple[Any, Any, list[tuple[str, str]]] | None:
    """id, image and turns of a row in LLaVA's own layout that needs no second look, as nearly all are.

    `columns`: as orjson parsed them. A third of the time that `read_row` takes, which tells the same.
    """
    try:
        written = columns["conversations"]
        turns = list(map(_SPEAKER_AND_VALUE, written))
        "".join(chain.from_iterable(turns))  # a TypeError if any is not text, in less time than looking
        image, name = columns.get("image"), columns.get("id")
    except (KeyError, TypeError):
        return None
    if (
        type(written) is list
        and _ODD.isdisjoint(columns)
        and (image is None or (type(image) is str and len(image) > 4 and image[0] not in "[{ "))
        and (name is None or type(name) is str or (type(name) is int and abs(name) < 1 << 63))
    ):
        return name, image, turns
    return None


def read_row(value: Any, position: int) -> RawRow | BrokenRow:
    """The row that a parsed `value` is."""
    try:
        if type(value) is not dict:
            value = _json_text(value)
            if type(value) is not dict:
                return BrokenRow(position, "the row is not an object")
        turns, pictures = _conversation(value)
        return RawRow(_id(value.get("id")), _image(value, pictures), turns, value)
    except _BrokenError as error:
        return BrokenRow(position, str(error))


def meta(columns: dict[str, Any]) -> bytes:
    """The row's further columns as JSON, names in order; what UTF-8 cannot say becomes U+FFFD."""
    if columns.keys() <= _NAMES:
        return b"{}"
    kept = {name: value for name, value in columns.items() if name not in _NAMES}
    try:
        return orjson.dumps(kept, default=_told, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, TypeError):
        text = json.dumps(_plain(kept), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return _SURROGATE.sub("\ufffd", text).encode()


def _conversation(row: dict[str, Any]) -> tuple[list[tuple[str, str]], list[Any]]:
    """Turns, and pictures that stand among a turn's parts."""
    written = [row[name] for name in CONVERSATIONS if row.get(name) is not None]
    held = next((one for one in written if not _is_nothing(one)), written[0] if written else None)
    turns = _json_text(held)
    if type(turns) is dict and all(type(column) is list for column in turns.values()):
        turns = _records(turns)
    if type(turns) is not list:
        raise _BrokenError("conversations is not a list" if turns else "conversations is missing")
    pairs: list[tuple[str, str]] = []
    pictures: list[Any] = []
    for turn in turns:
        if type(turn) is not dict:
            raise _BrokenError("a turn of the conversation has no from and value")
        speaker = turn["from"] if turn.get("from") is not None else turn.get("role")
        said = turn["value"] if turn.get("value") is not None else turn.get("content")
        if speaker is None and said is None:
            raise _BrokenError("a turn of the conversation has no from and value")
        if type(said) is list:
            said = _parts(said, pictures)
        if type(speaker) is not str or type(said) is not str:
            raise _BrokenError("a turn's from or value is not text")
        pairs.append((speaker, said))
    return pairs, pictures


def _parts(parts: list[Any], pictures: list[Any]) -> str:
    """A content that comes in parts, as one text; its pictures are added to `pictures`."""
    texts = []
    for part in parts:
        if type(part) is str:
            texts.append(part)
        elif type(part) is dict and type(part.get("text")) is str and part.get("type", "text") == "text":
            texts.append(part["text"])
        elif type(part) is dict and part.get("type") in ("image", "image_url"):
            texts.append(PLACEHOLDER)
            named = next(
                (part[name] for name in ("image", "path", "url", "image_url") if part.get(name)), None
            )
            if named is not None:
                pictures.append(named)
        else:
            raise _BrokenError("a part of a turn is neither text nor an image")
    return "\n".join(texts)


def _image(row: dict[str, Any], further: list[Any]) -> Image:
    found: list[str] = []
    try:
        for held in (row.get("image"), row.get("images"), further):
            named = _references(held)  # often the same ones again
            found = named if set(found) <= set(named) else found + [one for one in named if one not in found]
    except _UnreadError as error:
        return {"unread": str(error)}
    if not found:
        for name in UNREAD:
            if not _is_nothing(row.get(name)):
                return {
                    "unread": f'the row names a picture or another medium under "{name}", which is not read'
                }
        return None
    return found[0] if len(found) == 1 else found


class _UnreadError(Exception):
    pass


def _references(held: Any) -> list[str]:
    """The paths in what stands under `image` or `images`."""
    if _is_nothing(held):
        return []
    if type(held) is str:
        inside = _json_text(held)
        return [held] if inside is held else _references(inside)
    if type(held) is list:
        return [one for each in held for one in _references(each)]
    if type(held) is dict:
        if not _is_nothing(held.get("bytes")):
            raise _UnreadError("the picture lies inside the row, which is not read")
        named = [held[name] for name in ("path", "file_name", "url") if not _is_nothing(held.get(name))]
        if len(named) == 1 and type(named[0]) is str:
            return named
        if not any(held.values()):
            return []
    if isinstance(held, bytes | bytearray):
        raise _UnreadError("the picture lies inside the row, which is not read")
    raise _BrokenError("image is not a path")


def _is_nothing(value: Any) -> bool:
    """Whether `value` stands for none, as the publisher's own loader and tables write it."""
    if type(value) is str:
        return len(value) < 8 and value.strip().lower() in _NOTHING
    if type(value) is float:
        return math.isnan(value)
    return value is None or (type(value) in (list, dict, bytes) and not value)


def _id(name: Any) -> str | int | float | None:
    if type(name) is int:
        return str(name) if name.bit_length() > 63 else name
    if type(name) is float:
        return name if math.isfinite(name) else None
    if name is None or type(name) is str:
        return name
    raise _BrokenError("id is neither text nor a number")


def _json_text(value: Any) -> Any:
    """What a text holds if it is a JSON list or object; anything else as it is."""
    if type(value) is str and value.lstrip()[:1] in ("[", "{"):
        try:
            return lenient_json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _records(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Turns that stand as columns, as `datasets` writes a sequence of objects."""
    if len({len(column) for column in columns.values()}) != 1:
        raise _BrokenError("conversations is not a list")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _told(value: Any) -> str:
    """What JSON has no form for, in words."""
    return f"({len(value):,} bytes)" if isinstance(value, bytes | bytearray | memoryview) else str(value)


def _plain(value: Any) -> Any:
    """`value` with nothing but what the standard's JSON holds."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else _told(value)
