"""A table on disk of what lies where: millions of files and members, found by how their paths end."""

import os
import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from maskgen.sources.image_names import backwards, folded, normal
from maskgen.sources.members import Kind, Member

_HOPS = 40  # links followed one after another, as an operating system does
_CANDIDATES = 64
_TOPS = 100_000


class Place(NamedTuple):
    """A row: the number of the archive, the path in it, and as in `Member` start, size and kind."""

    archive: int
    path: str
    start: int
    size: int
    kind: int


class MemberTable:
    """Paths of members by archive. `tops` holds the folded first parts of all paths.

    `add` is for the time before `finish`, looking up for the time after; `add_files` may come then too.
    """

    def __init__(self, path: Path):
        self._table = sqlite3.connect(path)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(
            "CREATE TABLE members (key TEXT, name BLOB, archive INT, start INT, size INT, kind INT)"
        )
        self._table.execute("CREATE TABLE links (archive INT, name BLOB, target BLOB)")
        self.tops: set[str] = set()
        self.linked: set[int] = set()

    def close(self) -> None:
        self._table.close()

    def add(self, number: int, members: Iterable[Member]) -> None:
        """The members of one archive; those that climb out of it are no images."""
        for member in members:
            name = normal(member.name).lstrip("/")
            if not name or name.startswith("..") or "\0" in name:
                continue
            if member.kind is Kind.LINK:
                row = (number, os.fsencode(name), os.fsencode(normal(member.target)))
                self._table.execute("INSERT INTO links VALUES (?, ?, ?)", row)
                self.linked.add(number)
            else:
                self._insert(name, Place(number, name, member.start, member.size, member.kind))

    def finish(self) -> None:
        """Make it fit to be looked up in; names that are links to members become names of these."""
        self._table.execute("CREATE INDEX links_by_name ON links (archive, name)")
        self._table.execute("CREATE INDEX members_by_key ON members (key)")
        for number, link in self._table.execute("SELECT archive, name FROM links"):
            name = os.fsdecode(link)
            for place in self.at(number, self.resolved(number, name) or ""):
                self._insert(name, place)
        self._table.commit()

    def add_files(self, number: int, names: Iterable[str]) -> None:
        """Files that lie in no archive, under a number of their own."""
        self._table.execute("DROP INDEX members_by_key")  # sorting at the end is sooner than sorting in
        for name in names:
            self._insert(name, Place(number, name, 0, 0, Kind.PLAIN))
        self._table.execute("CREATE INDEX members_by_key ON members (key)")
        self._table.commit()

    def called(self, name: str) -> list[Place]:
        """Places whose path is `name` in any spelling; of one path in an archive the last that was added."""
        key = backwards(folded(name))
        return self._below(key) if "\ufffd" in key else self._select("key = ?", key)

    def ending_in(self, name: str) -> list[Place]:
        """Places whose path ends with the parts of `name`, in any spelling; some of them, if many do."""
        return self._below(backwards(folded(name)))

    def at(self, number: int, name: str) -> Iterator[Place]:
        """The member of one archive that has exactly this path, if there is one."""
        for place in self.called(name):
            if place.archive == number and place.path == name:
                yield place

    def resolved(self, number: int, name: str) -> str | None:
        """The path that a path in an archive means when its links are followed; None if they leave it."""
        for _ in range(_HOPS):
            parts = name.split("/")
            for end in range(1, len(parts) + 1):
                found = self._table.execute(
                    "SELECT target FROM links WHERE archive = ? AND name = ?",
                    (number, os.fsencode("/".join(parts[:end]))),
                ).fetchone()
                if found:
                    name = normal(posixpath.join(os.fsdecode(found[0]), *parts[end:]))
                    break
            else:
                return name
            if name.startswith(("/", "..")):
                return None
        return None

    def _insert(self, name: str, place: Place) -> None:
        key = folded(name)
        if len(self.tops) < _TOPS:
            self.tops.add(key.split("/")[0])
        values = (backwards(key), os.fsencode(name), place.archive, place.start, place.size, place.kind)
        self._table.execute("INSERT INTO members VALUES (?, ?, ?, ?, ?, ?)", values)

    def _below(self, key: str) -> list[Place]:
        key = key.split("\ufffd")[0]  # a letter that the annotation file had lost
        after = key[:-1] + chr(ord(key[-1]) + 1) if key else "\U0010ffff"
        return self._select("key >= ? AND key < ?", key, after)

    def _select(self, condition: str, *values: str) -> list[Place]:
        rows = self._table.execute(
            f"SELECT archive, name, start, size, kind FROM members WHERE {condition} "
            f"ORDER BY key DESC, rowid DESC LIMIT {_CANDIDATES}",
            values,
        )
        places: dict[tuple[int, bytes], Place] = {}
        for number, path, start, size, kind in rows:
            places.setdefault((number, path), Place(number, os.fsdecode(path), start, size, kind))
        return list(places.values())
