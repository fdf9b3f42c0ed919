"""Annotation files → raw rows, in bounded memory: a JSON array, JSON lines, or Parquet."""

import codecs
import functools
import io
import itertools
import json
import lzma
import posixpath
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
import orjson
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from maskgen.errors import MaskgenError

BLOCK_BYTES = 1 << 20
MAX_ROW_BYTES = 64 << 20
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")
_BROKEN_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError)
_JSON_BLANK = " \t\n\r"
_BLANK = re.compile(f"[{_JSON_BLANK}]*")


class RawRow(NamedTuple):
    """A row in LLaVA's layout; `turns` are (speaker, value) pairs. Strings may hold lone surrogates."""

    id: str | int | float | None
    image: str | None
    turns: list[tuple[str, str]]


class BrokenRow(NamedTuple):
    """A row that cannot be used: its line (JSON lines, from 1) or index (otherwise, from 0), and why."""

    position: int
    reason: str


def place(root: str, name: str) -> str:
    """`name` below `root`, a folder or URL; "." is the root itself."""
    return root if name in (".", "") else f"{root.rstrip('/')}/{name}"


def find_files(data: str, patterns: list[str]) -> list[str]:
    """Annotation files under `data` (folder or URL) that match any of the glob `patterns`, sorted, once each.

    A pattern without a match is fine as long as another has one; MaskgenError if none has.
    """
    fs, root = fsspec.core.url_to_fs(data)
    names = sorted({name for pattern in patterns for name in _match(fs, root, pattern)})
    if not names:
        if not fs.isdir(root):
            raise MaskgenError(f"no data folder {data}. Give --data the folder with the annotation files.")
        raise MaskgenError(
            f"no annotation file in {data} matches {', '.join(patterns)}. "
            f"{_offer(fs, root)} Set source.files in the pipeline."
        )
    return [place(data, name) for name in names]


def read_rows(url: str) -> Iterator[RawRow | BrokenRow]:
    """Stream one annotation file (path or URL, compressed or not); the format is told by its content.

    A row that cannot be used is yielded as a BrokenRow. A file that cannot be read on, such as an array
    broken in the middle, is a MaskgenError with the file and the position.
    """
    try:
        with fsspec.open(url, "rb") as stream:
            if stream.read(4) == b"PAR1":
                yield from _parquet(url, stream)
                return
        with fsspec.open(url, "rb", compression="infer") as stream:
            yield from _json(url, io.BufferedReader(stream, BLOCK_BYTES))
    except FileNotFoundError:
        raise MaskgenError(f"no annotation file {url}.") from None
    except (*_BROKEN_STREAM, ValueError) as error:  # ValueError: a compression that is not installed
        raise MaskgenError(f"{url} cannot be read: {error}. Download the file again.") from error


def _match(fs: fsspec.AbstractFileSystem, root: str, pattern: str) -> list[str]:
    pattern = pattern.lstrip("/")
    if isinstance(fs, LocalFileSystem):  # where a bracket in the root is no pattern
        return [path.relative_to(root).as_posix() for path in Path(root).glob(pattern) if path.is_file()]
    prefix = root.rstrip("/") + "/"
    return [path.removeprefix(prefix) for path in fs.glob(prefix + pattern) if fs.isfile(path)]


def _offer(fs: fsspec.AbstractFileSystem, root: str) -> str:
    endings = tuple(suffix + packed for suffix in _SUFFIXES for packed in _COMPRESSED)
    found = sorted(
        posixpath.relpath(path, root) for path in fs.find(root, maxdepth=3) if path.lower().endswith(endings)
    )
    if not found:
        return "There are no JSON, JSON lines or Parquet files in it."
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"There are: {', '.join(found[:20])}{more}."


def _json(url: str, stream: io.BufferedReader) -> Iterator[RawRow | BrokenRow]:
    if stream.peek(3).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    before, bracket, _ = stream.peek(BLOCK_BYTES).partition(b"[")
    if bracket and not before.strip():
        stream.read(len(before + bracket))
        return _array(url, stream)
    return _lines(stream)


def _lines(stream: io.BufferedReader) -> Iterator[RawRow | BrokenRow]:
    lines = iter(functools.partial(stream.readline, MAX_ROW_BYTES), b"")
    for number, line in enumerate(lines, start=1):
        if len(line) == MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_ROW_BYTES)
            yield BrokenRow(number, f"the line is longer than {MAX_ROW_BYTES >> 20} MiB")
            continue
        try:
            value = orjson.loads(line)
        except ValueError:
            if not line.strip():
                continue
            try:  # what orjson refuses and others write: lone surrogates, stray bytes, control characters
                value = json.loads(line.decode("utf-8", "surrogateescape"), strict=False)
            except (ValueError, RecursionError) as error:
                yield BrokenRow(number, f"not JSON: {error}")
                continue
        yield _row(value, number)


def _array(url: str, stream: io.BufferedReader) -> Iterator[RawRow | BrokenRow]:
    """Elements of a JSON array, from after its bracket: parsed one by one in a window of text that slides on.

    An incremental parser such as yajl would end the file at a stray byte or a long number, and loses lone
    surrogates; here only what hides the next row's start does.
    """
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    parse = json.JSONDecoder(strict=False).raw_decode
    text, passed, at, index, closed = "", 1, 0, 0, False
    block = b"["
    while block:
        block = stream.read(BLOCK_BYTES)
        text, passed, at = text[at:] + decode(block, final=not block), passed + at, 0
        while not closed:
            start = _ink(text, at)
            if text[start : start + 1] == "]":
                closed, at = True, start + 1
                break
            try:
                if index:
                    start = _ink(text, _comma(text, start))
                value, end = parse(text, start)
            except (ValueError, RecursionError) as error:
                if block and len(text) - at <= MAX_ROW_BYTES:
                    break  # perhaps the window ends within the element
                raise _broken(url, index, passed + start, getattr(error, "msg", str(error))) from None
            if block and _ink(text, end) == len(text):
                break  # a number may go on in the next block
            yield _row(value, index)
            index, at = index + 1, end
        if closed and text[at:].strip(_JSON_BLANK):
            raise _broken(url, index, passed + at, "something follows the end of the array")


def _ink(text: str, at: int) -> int:
    """Index of the first character from `at` on that is not blank, or the text's length."""
    return _BLANK.match(text, at).end()  # type: ignore[union-attr]  # matches the empty string too


def _comma(text: str, at: int) -> int:
    if text[at : at + 1] != ",":
        raise ValueError("a comma should stand between two rows")
    return at + 1


def _broken(url: str, rows: int, character: int, why: str) -> MaskgenError:
    return MaskgenError(
        f"{url} is broken after {rows} rows, at character {character}: {why}. "
        "Mend the file or download it again."
    )


def _parquet(url: str, stream: BinaryIO) -> Iterator[RawRow | BrokenRow]:
    file = pq.ParquetFile(stream)
    names = file.schema_arrow.names
    if "conversations" not in names:
        raise MaskgenError(
            f'{url} has no column "conversations" (there are: {", ".join(names)}). '
            "Give files with the columns id, image and conversations."
        )
    columns = [name for name in ("id", "image", "conversations") if name in names]
    index = itertools.count()
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        for value in batch.to_pylist():
            yield _row(value, next(index))


def _row(value: Any, position: int) -> RawRow | BrokenRow:
    if type(value) is not dict:
        return BrokenRow(position, "the row is not an object")
    turns = value.get("conversations")
    if type(turns) is not list:
        return BrokenRow(position, "conversations is not a list" if turns else "conversations is missing")
    try:
        pairs = [(turn["from"], turn["value"]) for turn in turns]
    except (KeyError, TypeError):
        return BrokenRow(position, "a turn of the conversation has no from and value")
    for speaker, text in pairs:
        if type(speaker) is not str or type(text) is not str:
            return BrokenRow(position, "a turn's from or value is not text")
    image = value.get("image")
    if type(image) is list and len(image) < 2:
        image = image[0] if image else None
    if image is not None and type(image) is not str:
        return BrokenRow(position, "image is not one path")
    name = value.get("id")
    if name is not None and type(name) not in (str, int, float):
        return BrokenRow(position, "id is neither text nor a number")
    if type(name) is int and name.bit_length() > 63:
        name = str(name)
    return RawRow(name, image, pairs)
