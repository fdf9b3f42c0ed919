"""A benchmark's pictures, from a folder or from its Parquet files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from maskgen.config import Limits
from maskgen.draw.text import plural
from maskgen.errors import MaskgenError, SampleError
from maskgen.evaluation.published_files import IMAGE, picture_name
from maskgen.pixels import decode
from maskgen.sources.images import ImageRoot


class Pictures:
    """From a picture's name to its pixels, uint8 (height, width, 3); safe to call from several threads.

    `folders` are looked through in turn; `tables` are the Parquet files whose rows hold pictures, by their
    `published_files.labels`. Links out of a folder are followed in a snapshot of a hub cache alone, to that
    repository's own blobs.
    """

    def __init__(self, folders: Sequence[Path] = (), tables: Mapping[str, Path] = MappingProxyType({})):
        self._limits = Limits()
        places = [_linked_from(folder) for folder in folders]
        self._roots = [(ImageRoot(str(root), self._limits.image_bytes), below) for root, below in places]
        self._folders = folders
        self._rows = {name: place for label, table in tables.items() for name, place in _places(label, table)}

    def __call__(self, name: str) -> np.ndarray:
        try:
            return decode(self._bytes(name), self._limits).pixels
        except SampleError as error:
            raise MaskgenError(
                f"the picture {name} cannot be used: {error.reason}. Download it again, or leave it out."
            ) from None

    def check(self, names: Iterable[str]) -> None:
        """MaskgenError if pictures are missing: how many, and where they were looked for."""
        missing = sorted(name for name in set(names) if not self._there(name))
        if missing:
            places = ", ".join(map(str, self._folders)) or "no folder: give --images"
            raise MaskgenError(
                f"{plural(len(missing), 'picture')} not found, {missing[0]} the first; "
                f"looked in {places}. Give --images the folder that the names start from."
            )

    def _there(self, name: str) -> bool:
        return name in self._rows or any(root.has(below + name) for root, below in self._roots)

    def _bytes(self, name: str) -> bytes:
        if name in self._rows:
            return self._embedded(*self._rows[name])
        for root, below in self._roots:
            if root.has(below + name):
                return root.read_file(below + name)
        self.check([name])
        raise AssertionError("check has raised")

    def _embedded(self, table: Path, group: int, offset: int) -> bytes:
        import pyarrow as pa

        try:
            value: Any = _column(table, group)[offset].as_py()
        except (pa.ArrowException, OSError) as error:
            raise MaskgenError(f"{table} cannot be read: {error}. Download the file again.") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise MaskgenError(
                f"{table}: the column image of row {offset + 1} in group {group} holds no picture."
            )
        return data


def _linked_from(folder: Path) -> tuple[Path, str]:
    """The folder that links may lead about in, and the way from it to `folder`.

    That is the folder itself but in a hub cache, where models--X/snapshots/REVISION holds links to blobs.
    """
    real = folder.resolve()
    for place in (real, *real.parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and (repository / "blobs").is_dir():
            return repository, f"{real.relative_to(repository).as_posix()}/"
    return real, ""


def _places(label: str, table: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """Of every row of a Parquet file: its picture's name, the file, its row group and its place there."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(table)
    index = 0
    for group in range(metadata.num_row_groups):
        for offset in range(metadata.row_group(group).num_rows):
            yield picture_name(label, index), (table, group, offset)
            index += 1


@lru_cache(maxsize=2)  # rows are asked for in order, and a group holds many pictures
def _column(table: Path, group: int) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(table) as parquet:
        return parquet.read_row_group(group, columns=[IMAGE]).column(IMAGE)
