"""Archives that lie in parts, as the hub's large ones do, read as the one file that they are."""

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, count
from typing import IO, NamedTuple

_PART = re.compile(
    r"(?P<whole>.+\.(?:tar|tar\.gz|tgz|zip))(?P<mark>[._-]?part[._-]?|[._-])(?P<number>\d{1,5}|[a-z]{1,4})",
    re.IGNORECASE,
)


class Parts(NamedTuple):
    """The parts of one archive, in order, up to the first that is not there, which `lacks` names."""

    names: list[str]
    lacks: str = ""


def may_be_part(name: str) -> bool:
    """Whether the name is that of an archive's part."""
    return _PART.fullmatch(name) is not None


def parted(names: Iterable[str]) -> dict[str, Parts]:
    """The archives in parts among the files: X.tar_part1 and on, X.tar.gz_part_aa, X.zip.001, X.tar-aa.

    The count begins at 0, 1 or a; letters that do not are no part ("a.tar.xz", "a.tar.bak").
    """
    series: dict[tuple[str, str], dict[int, str]] = {}
    for name in sorted(names):
        if match := _PART.fullmatch(name):
            number = match["number"]
            kind = "" if number.isdigit() else f" {len(number)} letters"
            numbered = series.setdefault((match["whole"], match["mark"] + kind), {})
            numbered.setdefault(_value(number), name)
    found: dict[str, Parts] = {}
    for (whole, mark), numbered in series.items():
        letters = mark.endswith("letters")
        first = 0 if 0 in numbered or letters else 1
        end = next(number for number in count(first) if number not in numbered)
        parts = Parts([numbered[number] for number in range(first, end)])
        if end <= max(numbered):
            parts = parts._replace(lacks=f"part {end - first + 1}")
        is_one = parts.names or not letters or "part" in mark.lower()
        if is_one and (whole not in found or len(parts.names) > len(found[whole].names)):
            found[whole] = parts
    return found


class Joined(io.RawIOBase):
    """Parts read one after another as one file that can be sought in. One part is open at a time."""

    def __init__(self, sizes: Sequence[int], open_part: Callable[[int], IO[bytes]]):
        self._ends = list(accumulate(sizes))
        self._open = open_part
        self._part: IO[bytes] | None = None
        self._number = -1
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number = bisect_right(self._ends, self._at)
        if number == len(self._ends):
            return 0
        if number != self._number:
            self._close_part()
            self._part, self._number = self._open(number), number
        assert self._part is not None
        self._part.seek(self._at - (self._ends[number - 1] if number else 0))
        data = self._part.read(min(len(buffer), self._ends[number] - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._close_part()
        super().close()

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part, self._number = None, -1


def _value(number: str) -> int:
    """Digits as a number; letters as `split` counts them, from 0."""
    if number.isdigit():
        return int(number)
    value = 0
    for letter in number.lower():
        value = 26 * value + ord(letter) - ord("a")
    return value
