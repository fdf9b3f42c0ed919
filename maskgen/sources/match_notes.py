"""Counts of images that were found, or not, under another name than their rows say."""

from collections import Counter

from maskgen.sources.image_names import printable

_TOLD = 3
_MOST = 10_000  # ways that are told apart; there are few but in odd data


class MatchNotes:
    """For every kind of match the ways in which names differed, with counts and an example each."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def add(self, kind: str, way: str, name: str) -> None:
        """One image: "… images `kind`"; `way` is such as the prefix, "" if there is nothing to say."""
        if (kind, way) not in self._counts and len(self._counts) >= _MOST:
            way = ""
        self._counts[kind, way] += 1
        self._first.setdefault((kind, way), name)

    def lines(self) -> list[str]:
        """A line for each kind, the most frequent ways first, fit for a terminal."""
        return [self._line(kind) for kind in dict.fromkeys(kind for kind, _ in self._counts)]

    def _line(self, kind: str) -> str:
        ways = [(way, count) for (of, way), count in self._counts.most_common() if of == kind]
        told = [
            (f"{printable(way)}: {count:,}, such as " if way else "such as ")
            + printable(self._first[kind, way])
            for way, count in ways[:_TOLD]
        ]
        more = [f"{len(ways) - _TOLD:,} more"] if len(ways) > _TOLD else []
        total = sum(count for _, count in ways)
        return f"{total:,} image{'s' * (total != 1)} {kind} ({'; '.join(told + more)})"
