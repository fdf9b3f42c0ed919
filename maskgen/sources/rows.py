"""Annotation files → raw rows, in bounded memory: a JSON array, JSON lines, or Parquet."""

import codecs
import io
import itertools
import lzma
import posixpath
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.parquet as pq

from maskgen import lenient_json
from maskgen.errors import MaskgenError
from maskgen.file_kinds import no_picture
from maskgen.runtime.storage import Files, compression, open_file
from maskgen.sources.row_layout import CONVERSATIONS, BrokenRow, RawRow, read_row

BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 256
MAX_ROW_BYTES = 64 << 20
TOO_LONG = b"(too long)"  # stands for a line that is not kept
_SOON_READ = 8 << 20  # bytes of rows that are read in a moment
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")
_BROKEN_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError)
_JSON_BLANK = " \t\n\r"
_BLANK = re.compile(f"[{_JSON_BLANK}]*")


def place(root: str, name: str) -> str:
    """`name` below `root`, a folder or URL; "." is the root itself."""
    return root if name in (".", "") else f"{root.rstrip('/')}/{name}"


def find_files(data: str, patterns: list[str]) -> list[str]:
    """Annotation files under `data` (folder or URL) that match any of the glob `patterns`, sorted, once each.

    A pattern without a match is fine as long as another has one; MaskgenError if none has.
    """
    files = Files(data)
    root = files.path
    names = sorted({name for pattern in patterns for name in _match(files, pattern)})
    if not names:
        if not files.isdir(root):
            raise MaskgenError(f"no data folder {data}. Give --data the folder with the annotation files.")
        raise MaskgenError(
            f"no annotation file in {data} matches {', '.join(patterns)}. "
            f"{_offer(files)} Set source.files in the pipeline."
        )
    return [place(data, name) for name in names]


def read_rows(url: str) -> Iterator[RawRow | BrokenRow]:
    """Stream one annotation file (path or URL, compressed or not); the format is told by its content.

    A row that cannot be used is yielded as a BrokenRow. A file that cannot be read on, such as an array
    broken in the middle, is a MaskgenError with the file and the position.
    """
    try:
        with open_file(url) as stream:
            if stream.read(4) == b"PAR1":
                yield from _parquet(url, stream)
                return
        with open_file(url, inflated=True) as stream:
            yield from _json(url, io.BufferedReader(cast(io.RawIOBase, stream), BLOCK_BYTES))
    except FileNotFoundError:
        raise MaskgenError(f"no annotation file {url}.") from None
    except (*_BROKEN_STREAM, ValueError) as error:  # ValueError: a compression that is not installed
        raise MaskgenError(f"{url} cannot be read: {error}. Download the file again.") from error


def draw_rows(files: Sequence[str], count: int, seed: int = 0) -> list[RawRow | BrokenRow]:
    """Up to `count` rows from here and there, in a moment: of large local JSON lines from anywhere in the
    file, of other large files from their beginning."""
    draw = random.Random(seed)
    share = -(-count // len(files))
    rows = [row for file in files for row in _drawn(file, share, draw)]
    return draw.sample(rows, min(count, len(rows)))


def _drawn(file: str, count: int, draw: random.Random) -> list[RawRow | BrokenRow]:
    there = Files(file)
    size = there.size(there.path) or 0
    if size > _SOON_READ and there.is_local and is_json_lines(there.path):
        with there.open(there.path) as stream:
            places = sorted(draw.randrange(size) for _ in range(count))
            after = [filter(bytes.strip, read_lines(stream, at)) for at in places]
            lines = {line for line in (next(rest, b"") for rest in after) if line}
        return [row for line in sorted(lines) if (row := parse_line(line, 0)) is not None]
    rows = list(itertools.islice(read_rows(file), _SOON_READ // 400))
    return draw.sample(rows, min(count, len(rows)))


def _match(files: Files, pattern: str) -> list[str]:
    root, pattern = files.path, pattern.lstrip("/")
    if files.is_local:  # where a bracket in the root is no pattern
        return [path.relative_to(root).as_posix() for path in Path(root).glob(pattern) if path.is_file()]
    prefix = root.rstrip("/") + "/"
    return [path.removeprefix(prefix) for path in files.glob(prefix + pattern) if files.isfile(path)]


def _offer(files: Files) -> str:
    endings = tuple(suffix + packed for suffix in _SUFFIXES for packed in _COMPRESSED)
    found = sorted(
        posixpath.relpath(path, files.path)
        for path in files.find(files.path, maxdepth=3)
        if path.lower().endswith(endings)
    )
    if not found:
        return "There are no JSON, JSON lines or Parquet files in it."
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"There are: {', '.join(found[:20])}{more}."


def is_json_lines(path: str) -> bool:
    """Whether a local file holds JSON lines as they are: no array, no Parquet, not compressed."""
    if compression(path):
        return False
    with Path(path).open("rb") as stream:
        head = stream.read(BLOCK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    return not head.startswith((b"[", b"PAR1"))


def read_lines(stream: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines of a file that begin in these bytes; of one that is too long, TOO_LONG."""
    at = start
    if start:
        stream.seek(start - 1)
        at += _skip_line(stream) - 1
    while end is None or at < end:
        line = stream.readline(MAX_ROW_BYTES)
        if not line:
            return
        at += len(line)
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            at += _skip_line(stream)
            line = TOO_LONG
        yield line


def _skip_line(stream: BinaryIO) -> int:
    """Read on to the end of a line; returns the bytes."""
    passed = 0
    while part := stream.readline(MAX_ROW_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def _json(url: str, stream: io.BufferedReader) -> Iterator[RawRow | BrokenRow]:
    if stream.peek(3).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    before, bracket, _ = stream.peek(BLOCK_BYTES).partition(b"[")
    if bracket and not before.strip():
        stream.read(len(before + bracket))
        yield from _array(url, stream)
        return
    for number, line in enumerate(read_lines(stream), start=1):
        row = parse_line(line, number)
        if row is not None:
            yield row


def parse_line(line: bytes, number: int) -> RawRow | BrokenRow | None:
    """The row on a line of JSON lines; None for a blank one."""
    try:
        value = lenient_json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.strip():
            return None
        if line is TOO_LONG:
            return BrokenRow(number, f"the line is longer than {MAX_ROW_BYTES >> 20} MiB")
        instead = no_picture(line)  # what often lies where a file should
        return BrokenRow(number, f"not JSON but {instead}" if instead else f"not JSON: {error}")
    return read_row(value, number)


def _array(url: str, stream: io.BufferedReader) -> Iterator[RawRow | BrokenRow]:
    """Elements of a JSON array, from after its bracket: parsed one by one in a window of text that slides on.

    An incremental parser such as yajl would end the file at a stray byte or a long number, and loses lone
    surrogates; here only what hides the next row's start does.
    """
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
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
                value, end = lenient_json.scan(text, start)
            except (ValueError, RecursionError) as error:
                if block and len(text) - at <= MAX_ROW_BYTES:
                    break  # perhaps the window ends within the element
                raise _broken(url, index, passed + start, getattr(error, "msg", str(error))) from None
            if block and _ink(text, end) == len(text):
                break  # a number may go on in the next block
            yield read_row(value, index)
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
    if not any(name in names for name in CONVERSATIONS):
        raise MaskgenError(
            f"{url} has no column {' or '.join(CONVERSATIONS[:2])} (there are: {', '.join(names)}). "
            "Give files with the columns id, image and conversations."
        )
    index = itertools.count()
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        for value in batch.to_pylist():
            yield read_row(value, next(index))
