"""Which rows: those with the smallest ranks. Exact, in one pass, with little of the rows in memory."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskgen.config import Select
from maskgen.sources.conversation import KEY_CHARS

RANK_BYTES = 8
EVERYTHING = b"\xff" * (RANK_BYTES + 1)  # a bound above every rank
_BUCKETS_LOG2 = 7
_BUFFER_BYTES = 128 << 10
_MARGIN = 1.5  # of a first bound: what is known of the number of rows is rough
_BETWEEN = b"\t"  # content and meta: JSON holds no bare tab


class Cut:
    """The `bound` that a chosen row's rank lies below; it falls as rows that count are offered.

    Ranks are RANK_BYTES bytes, big-endian, so bytes compare as the numbers do. With a `count` the bound
    ends just above the count-th smallest rank offered; a rank offered twice counts once. A row once refused
    would be refused at the end as well, for the bound never rises.
    """

    def __init__(self, select: Select, count: int | None = None, slack: int = 1024, expected: float = 0):
        """`count`: in place of `select.count`. `expected`: roughly how many rows will be offered, from
        which the first bound follows; 0 for no idea."""
        self._count = count or select.count or 0
        self._ranks = bytearray()
        self._full = RANK_BYTES * (self._count + max(self._count // 4, slack))
        self.bound = EVERYTHING
        if select.fraction is not None and select.fraction < 1:
            self.bound = _share(select.fraction)
        self._is_expected = 0 < self._count * _MARGIN < expected
        if self._is_expected:
            self.bound = _share(self._count * _MARGIN / expected)

    @property
    def is_short(self) -> bool:
        """Whether far fewer were offered than expected: rows were refused that should have been chosen."""
        return self._is_expected and len(self._ranks) < RANK_BYTES * self._count

    def offer(self, ranks: bytes | bytearray) -> None:
        """Count rows of these ranks, one after the other, among the chosen."""
        self._ranks += ranks
        if self._count and len(self._ranks) >= self._full:
            self.tighten()

    def tighten(self) -> None:
        """Forget all but the smallest ranks and lower the bound to them. Call it when all are offered."""
        if not self._count:
            return
        ranks = np.unique(np.frombuffer(self._ranks, ">u8").astype("u8"))[: self._count]
        self._ranks = bytearray(ranks.astype(">u8").tobytes())
        if len(ranks) == self._count:
            self.bound = bytes(self._ranks[-RANK_BYTES:]) + b"\0"


def _share(share: float) -> bytes:
    """The bound below which this share of all ranks lies."""
    return math.ceil(share * 2.0 ** (8 * RANK_BYTES)).to_bytes(RANK_BYTES)


class Chosen(NamedTuple):
    """A chosen row: its key, canonical content, further columns as JSON, and how many more copies it has."""

    key: str
    content: bytes
    meta: bytes
    copies: int


class Spill:
    """Rows on disk, in buckets by the first bits of their ranks. A context manager.

    A record is a line: the rank in hex, the key, the row's canonical content, its further columns. Sorted
    lines are sorted rows, and copies of a row are neighbours. Several processes, each by its `writer`, may
    fill one folder.
    """

    def __init__(self, folder: Path, writer: str = "0"):
        self._paths = [folder / f"{bucket:03d}-{writer}" for bucket in range(1 << _BUCKETS_LOG2)]

    def __enter__(self) -> "Spill":
        with ExitStack() as stack:
            self._files = [
                stack.enter_context(path.open("ab", buffering=_BUFFER_BYTES)) for path in self._paths
            ]
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, rank: bytes, key: str, content: bytes, meta: bytes) -> None:
        line = b"%b%b%b\t%b\n" % (rank.hex().encode(), key.encode(), content, meta)
        self._files[rank[0] >> (8 - _BUCKETS_LOG2)].write(line)

    def flush(self) -> None:
        """Put everything on disk, where another process reads it."""
        for file in self._files:
            file.flush()


def spilled(folder: Path, bound: bytes) -> Iterator[Chosen]:
    """The rows in `folder` that rank below `bound`, in order, each once.

    Of copies that differ in their further columns the first in the order of their bytes is kept.
    """
    limit, key_at, content_at = bound.hex().encode(), 2 * RANK_BYTES, 2 * RANK_BYTES + KEY_CHARS
    for bucket in range(1 << _BUCKETS_LOG2):
        if bucket << (8 - _BUCKETS_LOG2) > bound[0]:
            return
        lines = []
        for path in folder.glob(f"{bucket:03d}-*"):
            with path.open("rb") as file:
                lines += [line for line in file if line[:key_at] < limit]
        for key, group in groupby(sorted(lines), lambda line: line[key_at:content_at]):
            first, *copies = group
            content, _, meta = first[content_at:-1].partition(_BETWEEN)
            yield Chosen(key.decode(), content, meta, len(copies))
