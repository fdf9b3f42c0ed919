"""Reading at random from a gzip file: points to start from, found once and kept.

The file of points is indexed_gzip's own (GZIDX, version 1). A reader takes from it the table of points and,
for each read, the windows of the two or three points around it: a whole file of points is up to 2 % of its
archive, too much for every worker's memory.
"""

import io
import struct
import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from maskgen.errors import MaskgenError

SPACING = 2 << 20
"""Inflated bytes between two points: on average half of them are inflated for an image and thrown away."""

WINDOW = 32 << 10
"""Bytes that are kept of each point."""

_HEADER = struct.Struct("<5sBBQQIII")
_POINT = np.dtype([("packed", "<u8"), ("inflated", "<u8"), ("bits", "u1"), ("window", "u1")])
_BUFFER = 64 << 10


def find_points(packed: IO[bytes], points: IO[bytes], read: Callable[["Inflated"], None]) -> None:
    """Let `read` go through the inflated bytes of `packed` once, and write the points met on the way.

    Damage ends what can be read, like the end of the file.
    """
    import indexed_gzip  # of use for .tar.gz alone, and not everywhere

    with indexed_gzip.IndexedGzipFile(
        fileobj=packed, spacing=SPACING, window_size=WINDOW, readbuf_size=1 << 20, buffer_size=1 << 20
    ) as file:
        read(Inflated(file))
        file.export_index(fileobj=points)


class Points:
    """Reads from one gzip file by its points. Safe to use from several threads."""

    def __init__(self, points: IO[bytes], place: str):
        """`points`: the file that `find_points` wrote, which stays open. MaskgenError if it is none."""
        self._file = points
        self._lock = threading.Lock()
        header = points.read(_HEADER.size)
        fields = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"",)
        if fields[0] != b"GZIDX" or fields[1] != 1:
            raise MaskgenError(f"{place} holds no points of a gzip file. Remove it and plan again.")
        self._fields = fields
        self._points = np.frombuffer(points.read(_POINT.itemsize * fields[-1]), _POINT)
        self._starts = self._points["inflated"].tolist()
        kept = (self._points["window"] != 0).astype(np.int64)
        before = np.cumsum(kept) - kept
        self._windows = (_HEADER.size + self._points.nbytes + before * fields[-2]).tolist()

    def read(self, packed: IO[bytes], offset: int, count: int) -> bytes:
        """`count` inflated bytes from `offset` on; fewer where the file ends or is damaged."""
        import indexed_gzip

        first = max(0, bisect_right(self._starts, offset) - 1)
        last = min(len(self._starts), bisect_right(self._starts, offset + count) + 1)
        with indexed_gzip.IndexedGzipFile(fileobj=packed, readbuf_size=_BUFFER, buffer_size=_BUFFER) as file:
            file.import_index(fileobj=io.BytesIO(self._between(first, last)))
            inflated = Inflated(file)
            inflated.seek(offset)
            return inflated.read(count)

    def _between(self, first: int, last: int) -> bytes:
        """The file of points as it would be if there were only these."""
        chosen, width = self._points[first:last], self._fields[-2]
        windows = b""
        with self._lock:
            for point, place in zip(chosen, self._windows[first:last], strict=True):
                if point["window"]:
                    self._file.seek(place)
                    windows += self._file.read(width)
        return _HEADER.pack(*self._fields[:-1], len(chosen)) + chosen.tobytes() + windows


class Inflated:
    """An inflated file that ends where it is damaged."""

    def __init__(self, file: Any):
        from indexed_gzip import NotCoveredError, ZranError

        self._file = file
        self._ended = False
        self._damaged = (ZranError, NotCoveredError, EOFError)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            self._ended = False
            return int(self._file.seek(offset, whence))
        except self._damaged:
            self._ended = True
            return offset

    def read(self, count: int = -1) -> bytes:
        try:
            return b"" if self._ended else bytes(self._file.read(count))
        except self._damaged:
            return b""
