"""Writes one shard: tar, then parquet, then the commit."""

import hashlib
import io
import tarfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from maskgen import config
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Picture, Sample
from maskgen.sharding import commit as commits
from maskgen.sharding import format, shard_table
from maskgen.sharding.commit import Commit, Digest, shard_name


@dataclass(frozen=True)
class Record:
    """What became of one planned sample. In the tar if `outcome.in_tar`: then picture and grounding are
    needed. Otherwise the picture, if it is known, gives the row its width and height."""

    sample: Sample
    outcome: Outcome
    reason: str
    picture: Picture | None = None
    grounding: Grounding | None = None


@dataclass(frozen=True)
class Entry:
    """A sample as the shard will hold it: its row, and its members in the tar; without members the row alone.

    The row's offset and size are known once the members are in the tar.
    """

    outcome: Outcome
    row: dict[str, Any]
    members: list[tuple[str, bytes]]


class ShardWriter:
    """A shard in the making; samples are added in plan order and nothing appears before `commit()`.

    Rewriting a finished shard: `commit()` takes the old commit away first and puts the new one last. A
    kill in between leaves the shard undone, never wrong, and the next run makes it anew from the plan;
    what is lost is work, not data.
    """

    def __init__(
        self,
        store: Store,
        shard: int,
        split: str,
        grid: config.Grid,
        fingerprint: str,
        signals: bool = False,
    ):
        """`signals`: whether the rows have the columns of groundings' signals."""
        self._signals = signals
        self._store = store
        self._shard = shard
        self._split = split
        self._grid = grid
        self._fingerprint = fingerprint
        self._rows: list[dict[str, Any]] = []
        self._stack = ExitStack()
        self._tar: _Tar | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, record: Record) -> None:
        """Encode the sample into the tar at once, and note its row."""
        self.put(self.encode(record))

    def encode(self, record: Record) -> Entry:
        """The sample as `put` takes it. Touches no file, so that any thread may encode ahead of `put`."""
        sample, picture, grounding = record.sample, record.picture, record.grounding
        if not record.outcome.in_tar:
            shape = (picture.height, picture.width) if picture else (0, 0)
            row = shard_table.row_outside(
                key=sample.key,
                id=sample.id,
                image=sample.image,
                split=self._split,
                outcome=record.outcome,
                reason=record.reason,
                query=sample.query.text,
                shape=shape,
                meta=sample.meta,
            )
            return Entry(record.outcome, row, [])
        if picture is None or grounding is None or grounding.outcome != record.outcome:
            raise ValueError(f"{sample.key}: {record.outcome} needs its picture and its grounding")
        signals = vars(grounding.signals) if grounding.signals else {}
        return _entry(format.encode(sample, picture, grounding, self._split, self._grid), _rounded(signals))

    def put(self, entry: Entry) -> None:
        """Add what `encode` made."""
        if not entry.members:
            self._rows.append(entry.row)
            return
        if self._tar is None:
            path = self._stack.enter_context(self._store.partial(f"{shard_name(self._shard)}.tar"))
            self._tar = self._stack.enter_context(_Tar(path))
        with self._store.explained(f"{shard_name(self._shard)}.tar", "write"):
            offset, size = self._tar.append(entry.members)
        self._rows.append(entry.row | {"offset": offset, "size": size})

    def copy(self, row: dict[str, Any], members: list[tuple[str, bytes]]) -> None:
        """Take over a sample from an earlier version of the shard, as `reader.read_raw` gives it."""
        signals = shard_table.signals_of(row)
        self.put(_entry(members, signals) if members else Entry(Outcome(row["outcome"]), row, []))

    def commit(self) -> Commit:
        """Publish the shard. A shard without a sample in it has no tar: readers stumble over empty ones."""
        stem = shard_name(self._shard)
        with self._stack:
            tar = self._tar.close() if self._tar else Digest()
            rows = self._stack.enter_context(self._store.partial(f"{stem}.parquet"))
            shard_table.write(self._rows, rows, self._signals)
            commit = Commit(
                schema=format.SCHEMA,
                shard=self._shard,
                planned=len(self._rows),
                samples=sum(row["size"] > 0 for row in self._rows),
                outcomes=dict(sorted(Counter(Outcome(row["outcome"]) for row in self._rows).items())),
                tar=tar,
                parquet=_digest(rows),
                fingerprint=self._fingerprint,
            )
            self._store.remove(f"{stem}.json")
            if self._tar:
                self._store.move_in(self._tar.path, f"{stem}.tar")
            else:
                self._store.remove(f"{stem}.tar")
            self._store.move_in(rows, f"{stem}.parquet")
            commits.publish(self._store, commit)
        return commit


def _entry(members: list[tuple[str, bytes]], signals: dict[str, Any]) -> Entry:
    sample = format.decode(dict(members))  # nothing is published that the strict reader refuses
    return Entry(sample.fields.outcome, shard_table.row_of(sample, 0, 0) | signals, members)


def _rounded(signals: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else format.decimal(value) for name, value in signals.items()}


class _Tar:
    """A tar whose bytes depend on its members alone, hashed on the way to the disk."""

    def __init__(self, path: Path):
        self.path = path
        self._hashed = _HashedFile(path.open("wb"))
        self._tar = tarfile.open(fileobj=self._hashed, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115

    def __enter__(self) -> "_Tar":
        return self

    def __exit__(self, *_: object) -> None:
        self._hashed.stream.close()

    def append(self, members: list[tuple[str, bytes]]) -> tuple[int, int]:
        """Write the members; their offset and size in the tar, headers and padding included."""
        offset = self._tar.offset
        for name, data in members:
            info = tarfile.TarInfo(name)  # owner and time are zero, the mode is 0644
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        self._tar.members = []  # the module would keep every header in memory
        return offset, self._tar.offset - offset

    def close(self) -> Digest:
        """Finish the file."""
        self._tar.close()
        self._hashed.stream.close()
        return Digest(
            bytes=self._hashed.position,
            sha256=self._hashed.sha256.hexdigest(),
            md5=self._hashed.md5.hexdigest(),
        )


class _HashedFile:
    """As much of a file as tarfile writes to."""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream
        self.position = 0
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.md5.update(data)
        self.position += len(data)
        return self.stream.write(data)

    def tell(self) -> int:
        return self.position


def _digest(path: Path) -> Digest:
    data = path.read_bytes()
    return Digest(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
    )
