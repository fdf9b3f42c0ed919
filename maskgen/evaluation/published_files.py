"""Benchmarks' files as their authors publish them, row by row: a JSON array, JSON lines or Parquet."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgen.draw.text import listed
from maskgen.errors import MaskgenError

IMAGE = "image"


@dataclass(frozen=True)
class Row:
    """One row of an annotation file. `image`: the name of a picture that lies in the file itself."""

    fields: dict[str, Any]
    file: Path
    number: int
    image: str | None = None

    def text(self, *names: str) -> str:
        """The first of the fields `names` that is there, as text. MaskgenError if none is."""
        return _words(self._value(names))

    def texts(self, *names: str) -> tuple[str, ...]:
        """The same for a field that holds a list, or a single text."""
        value = self._value(names)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if not value:
                raise self.wrong(f'"{names[0]}" is empty')
            return tuple(map(_words, value))
        return (_words(value),)

    def maybe(self, name: str) -> str:
        """The field as text, "" if it is missing."""
        value = self.fields.get(name)
        return "" if value is None else _words(value)

    def picture(self, *names: str) -> str:
        """The picture's name: in the Parquet file, or the path that stands in one of the fields `names`."""
        return self.image or self.text(*names).removeprefix("./")

    def wrong(self, why: str) -> MaskgenError:
        """What to raise if the row cannot be used."""
        return MaskgenError(
            f"{self.file}, row {self.number}: {why}. "
            "Give the file as the benchmark's authors publish it (docs/evaluate.md lists the fields)."
        )

    def _value(self, names: Sequence[str]) -> Any:
        for name in names:
            if self.fields.get(name) is not None:
                return self.fields[name]
        there = listed(sorted(self.fields)) or "none"
        raise self.wrong(f'no field "{names[0]}" (there are: {there})')


def labels(files: Sequence[Path]) -> dict[str, Path]:
    """Short names of files, all different: their paths below the folder that holds them all.

    Copies of the hub name each part 0000.parquet, in a folder a split.
    """
    paths = [Path(file).absolute() for file in files]
    common = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return {path.relative_to(common).as_posix(): file for path, file in zip(paths, files, strict=True)}


def read(files: Sequence[Path]) -> Iterator[Row]:
    """The rows of `files`, counted from 1 in each."""
    for label, file in labels(files).items():
        try:
            with file.open("rb") as stream:
                is_parquet = stream.read(4) == b"PAR1"
            rows = _parquet(file, label) if is_parquet else _json(file)
            empty = True
            for row in rows:
                empty = False
                yield row
        except FileNotFoundError:
            raise MaskgenError(f"no annotation file {file}. Check --annotations or --data.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MaskgenError(f"{file} cannot be read: {error}. Download the file again.") from error
        if empty:
            raise MaskgenError(f"{file} has no rows. Download the file again.")


def picture_name(label: str, index: int) -> str:
    """What a picture that lies in row `index` of a Parquet file is called. `label`: see `labels`."""
    return f"{label}#{index}"


def _words(value: Any) -> str:
    """As text without lone surrogates, which no Parquet file takes."""
    return str(value).encode("utf-8", "replace").decode().strip()


def _json(file: Path) -> Iterator[Row]:
    text = file.read_text("utf-8-sig")
    if text.lstrip()[:1] == "[":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MaskgenError(f"{file} is not JSON: {error}. Download the file again.") from None
        pairs: Iterator[tuple[int, Any]] = iter(enumerate(rows, start=1))
    else:
        pairs = _lines(file, text)
    for number, fields in pairs:
        if not isinstance(fields, dict):
            raise Row({}, file, number).wrong("it is not an object")
        yield Row(fields, file, number)


def _lines(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Row({}, file, number).wrong(f"it is not JSON ({error})") from None


def _parquet(file: Path, label: str) -> Iterator[Row]:
    """All columns but the pictures, of which only the name is given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            holds = IMAGE in names and not pa.types.is_string(parquet.schema_arrow.field(IMAGE).type)
            columns = [name for name in names if not (holds and name == IMAGE)]
            at = 0
            for batch in parquet.iter_batches(batch_size=1024, columns=columns):
                for fields in batch.to_pylist():
                    yield Row(fields, file, at + 1, picture_name(label, at) if holds else None)
                    at += 1
    except pa.ArrowException as error:
        raise MaskgenError(f"{file} is no Parquet file that can be read: {error}.") from error
