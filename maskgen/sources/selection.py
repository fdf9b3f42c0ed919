"""Which rows: those with the smallest ranks. Exact, in one pass, with little of the rows in memory."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from maskgen.config import Select
from maskgen.sources.conversation import KEY_CHARS

RANK_BYTES = 8
_BUCKETS_LOG2 = 7
_BUFFER_BYTES = 128 << 10


class Cut:
    """The `bound` that a chosen row's rank lies below; it falls as rows that count are offered.

    Ranks are RANK_BYTES bytes, big-endian, so bytes compare as the numbers do. With a count N the bound
    ends just above the N-th smallest rank offered; a rank offered twice counts once. A row once refused
    would be refused at the end as well, for the bound never rises.
    """

    def __init__(self, select: Select, slack: int = 1024):
        self.counts = select.count is not None
        self._count = select.count or 0
        self._ranks = bytearray()
        self._full = RANK_BYTES * (self._count + max(self._count // 4, slack))
        self.bound = b"\xff" * (RANK_BYTES + 1)  # above every rank
        if select.fraction is not None and select.fraction < 1:
            self.bound = math.ceil(select.fraction * 2.0 ** (8 * RANK_BYTES)).to_bytes(RANK_BYTES)

    def offer(self, rank: bytes) -> None:
        """Count a row of this rank among the N."""
        self._ranks += rank
        if len(self._ranks) >= self._full:
            self.tighten()

    def tighten(self) -> None:
        """Forget all but the N smallest ranks and lower the bound to them. Call it when all are offered."""
        ranks = np.unique(np.frombuffer(self._ranks, ">u8").astype("u8"))[: self._count]
        self._ranks = bytearray(ranks.astype(">u8").tobytes())
        if self.counts and len(ranks) == self._count:
            self.bound = bytes(self._ranks[-RANK_BYTES:]) + b"\0"


class Spill:
    """Rows on disk, in buckets by the first bits of their ranks. A context manager.

    A record is a line: the rank in hex, the key, the row's canonical content. Sorted lines are sorted
    rows, and copies of a row are neighbours.
    """

    def __init__(self, folder: Path):
        self._paths = [folder / f"{bucket:03d}" for bucket in range(1 << _BUCKETS_LOG2)]
        self.duplicates = 0

    def __enter__(self) -> "Spill":
        with ExitStack() as stack:
            self._files = [
                stack.enter_context(path.open("wb", buffering=_BUFFER_BYTES)) for path in self._paths
            ]
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, rank: bytes, key: str, content: bytes) -> None:
        line = b"%b%b%b\n" % (rank.hex().encode(), key.encode(), content)
        self._files[rank[0] >> (8 - _BUCKETS_LOG2)].write(line)

    def rows(self, bound: bytes) -> Iterator[tuple[str, bytes]]:
        """(key, content) of the rows ranked below `bound`, in order, each once.

        Copies are counted in `duplicates`. A bucket is removed when it has been read.
        """
        self._open.close()
        limit, key_at, content_at = bound.hex().encode(), 2 * RANK_BYTES, 2 * RANK_BYTES + KEY_CHARS
        for path in self._paths:
            with path.open("rb") as file:
                lines = sorted(line for line in file if line[:key_at] < limit)
            path.unlink()
            last = b""
            for line in lines:
                key = line[key_at:content_at]
                if key == last:
                    self.duplicates += 1
                else:
                    yield key.decode(), line[content_at:]
                last = key
