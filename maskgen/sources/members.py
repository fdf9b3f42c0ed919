"""What the readers of archives say of each member."""

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """How a member's bytes lie in its archive."""

    PLAIN = 0  # as they are, from `start` on
    ZIP_STORED = 1  # after the zip header that stands at `start`
    ZIP_DEFLATED = 2
    LINK = 3  # nowhere: the member is another name for `target`, a path within the archive


class Member(NamedTuple):
    """`start` and `size` in bytes of the archive; compressed ones, for a deflated member."""

    name: str
    start: int
    size: int
    kind: Kind
    target: str = ""


@dataclass
class Oddities:
    """What a reader left out, each kind with its count and the first name that it stood for."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str = "") -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, name)
