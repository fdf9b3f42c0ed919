"""What is kept of each .tar.gz so that it can be read at random: its members and its points."""

import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from os import cpu_count
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from maskgen.config import Source
from maskgen.errors import SampleError
from maskgen.runtime.store import Store
from maskgen.sources.gzip_points import SPACING, WINDOW, Inflated, Points, find_points
from maskgen.sources.image_folder import ImageFolder
from maskgen.sources.members import Kind, Member, Oddities
from maskgen.sources.rows import place
from maskgen.sources.tar_members import tar_members

KEPT_PREFIX = "gzip-"
_ENDINGS = (".tar.gz", ".tgz")
_PROBE = 64 << 10
_SAMPLE = 8 << 20  # packed bytes that are inflated to know how fast that goes
_BATCH = 10_000
_AT_ONCE = 4  # archives that are read through side by side; more would only wait for the disk
_SCHEMA = pa.schema(
    {"name": pa.binary(), "start": pa.int64(), "size": pa.int64(), "kind": pa.int8(), "target": pa.binary()}
)


def is_gzip(name: str) -> bool:
    """Whether an archive, by its name, is a tar packed with gzip."""
    return name.lower().endswith(_ENDINGS)


class GzipArchives:
    """The .tar.gz archives of a folder, with what is kept of them in `store`, two files each.

    `gzip-ID.members` is Parquet: name, start, size, kind, target, as in `Member`. `gzip-ID.points` is
    indexed_gzip's file. ID follows from the archive's name, its size and its first and last 64 KiB.
    """

    def __init__(self, folder: ImageFolder, store: Store):
        self._folder = folder
        self._store = store

    def prepare(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        """Read through those archives of which nothing is kept yet; what that costs is said before."""
        missing = self.unknown(names)
        if not missing:
            return
        say(self._price(missing, len(names)))
        with ThreadPoolExecutor(min(_AT_ONCE, cpu_count() or 1)) as pool:
            list(pool.map(self._read_through, missing))

    def unknown(self, names: Sequence[str]) -> dict[str, int]:
        """Those archives that have not been read through yet, with their sizes in bytes."""
        return {name: self._size(name) for name in names if self._is_new(name)}

    def members(self, name: str, odd: Oddities) -> Iterator[Member]:
        """The members of an archive that has been read through."""
        with self._store.open(f"{self._stem(name)}.members") as file, pq.ParquetFile(file) as table:
            told = json.loads(table.metadata.metadata[b"oddities"])
            odd.counts.update(Counter(told["counts"]))
            for kind, first in told["first"].items():
                odd.first.setdefault(kind, first)
            for batch in table.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    name, target = (row[key].decode("utf-8", "surrogateescape") for key in ("name", "target"))
                    yield Member(name, row["start"], row["size"], Kind(row["kind"]), target)

    def points(self, name: str) -> Points:
        """The points of an archive. AbsentError if it has not been read through."""
        kept = f"{self._stem(name)}.points"
        return Points(self._store.open(kept), self._store.where(kept))

    def kept_bytes(self, names: Sequence[str]) -> int:
        """Bytes that are kept of these archives."""
        stems = [self._stem(name) for name in names]
        return sum(self._store.size(f"{stem}.{end}") or 0 for stem in stems for end in ("points", "members"))

    def _is_new(self, name: str) -> bool:
        try:
            return not self._store.exists(f"{self._stem(name)}.points")
        except SampleError:
            return False  # it cannot be opened, which `members` will say again

    def _stem(self, name: str) -> str:
        file, size = self._folder.open_archive(name)
        with closing(file):
            size = file.seek(0, 2) if size is None else size
            file.seek(0)
            digest = hashlib.sha256(f"{name}\0{size}\0".encode() + file.read(_PROBE))
            file.seek(max(0, size - _PROBE))
            digest.update(file.read(_PROBE))
        return f"{KEPT_PREFIX}{digest.hexdigest()[:16]}"

    def _price(self, missing: dict[str, int], of: int) -> str:
        sizes = missing.values()
        file, _ = self._folder.open_archive(next(iter(missing)))
        began = time.perf_counter()
        with closing(file):
            packed = file.read(_SAMPLE)
            inflated = len(_inflated(packed))
        rate = max(1.0, len(packed) / max(1e-6, time.perf_counter() - began))
        side_by_side = min(_AT_ONCE, cpu_count() or 1, len(missing))
        seconds = max(max(sizes), sum(sizes) / side_by_side) / rate
        kept = sum(sizes) * inflated / max(1, len(packed)) * WINDOW / SPACING
        return (
            f"{len(missing)} of {of} .tar.gz archives ({sum(sizes) / 1e9:,.2f} GB) are read through once, to "
            f"be read at random from then on: about {seconds / 60:,.1f} min, and about {kept / 1e6:,.1f} MB "
            f"to keep in {self._store.place}"
        )

    def _size(self, name: str) -> int:
        file, size = self._folder.open_archive(name)
        with closing(file):
            return file.seek(0, 2) if size is None else size

    def _read_through(self, name: str) -> None:
        stem = self._stem(name)
        file, _ = self._folder.open_archive(name)
        with closing(file), self._store.partial(f"{stem}.points") as points:
            with self._store.publish(f"{stem}.members") as members, points.open("wb") as into:
                find_points(file, into, lambda inflated: _write_members(inflated, members))
            self._store.move_in(points, f"{stem}.points")


def restore_points(
    source: Source, data: str, plan: IO[bytes], kept: Store, say: Callable[[str], None]
) -> None:
    """Read through again those .tar.gz archives that a plan reads from, of which nothing is kept any more."""
    with pq.ParquetFile(plan) as file:
        names = {
            name
            for batch in file.iter_batches(columns=["archive"])
            for name in batch["archive"].unique().to_pylist()
            if is_gzip(name)
        }
    if names:
        folder = ImageFolder(place(data, source.images), source.allow_links_to)
        GzipArchives(folder, kept).prepare(sorted(names), say)


def _write_members(inflated: Inflated, path: Path) -> None:
    """What a tar holds, into a Parquet file, a batch at a time."""
    odd = Oddities()
    members = tar_members(inflated, odd)
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        while rows := [_encoded(member) for member in islice(members, _BATCH)]:
            columns = zip(zip(*rows, strict=True), _SCHEMA, strict=True)
            writer.write_table(pa.table([pa.array(column, field.type) for column, field in columns], _SCHEMA))
        told = json.dumps({"counts": odd.counts, "first": odd.first})
        writer.add_key_value_metadata({"oddities": told})


def _encoded(row: Member) -> tuple[bytes, int, int, int, bytes]:
    name, target = (text.encode("utf-8", "surrogateescape") for text in (row.name, row.target))
    return name, row.start, row.size, row.kind, target


def _inflated(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed)
    except zlib.error:
        return packed
