"""Reads shards strictly: what is not exactly a whole shard of this format is an error."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding import format, shard_table
from maskgen.sharding.commit import Commit, committed, read_commit, shard_name
from maskgen.sharding.format import FormatError, ShardSample


@dataclass(frozen=True)
class Stored:
    """A sample's members as they stand in a tar: at `offset`, `size` bytes with headers and padding."""

    offset: int
    size: int
    members: list[tuple[str, bytes]]


def scan(stream: IO[bytes]) -> Iterator[Stored]:
    """The samples of an open tar in order; FormatError where it is not plain files in fours."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            offset, members = 0, []
            while (info := tar.next()) is not None:
                # A header of one block: no links, no folders, no PAX or GNU records before it.
                if info.type != tarfile.REGTYPE or info.offset_data - info.offset != tarfile.BLOCKSIZE:
                    raise FormatError(f"{info.name!r} is not a plain file.")
                if info.size > format.MEMBER_LIMIT:
                    raise FormatError(f"{info.name!r} claims {info.size} bytes.")
                data = tar.extractfile(info)
                assert data is not None
                members.append((info.name, data.read()))
                tar.members = []  # type: ignore[attr-defined]  # or every header stays in memory
                if len(members) == format.MEMBERS:
                    yield Stored(offset, tar.offset - offset, members)
                    offset, members = tar.offset, []
    except tarfile.TarError as error:
        raise FormatError(f"the tar is damaged: {error}.") from error
    if members:
        raise FormatError(f"the tar ends inside the sample of {members[0][0]!r}.")


def read_shard(store: Store, shard: int) -> Iterator[ShardSample]:
    """The shard's samples in plan order. MaskgenError if it is unfinished, damaged or incomplete."""
    commit = _finished(store, shard)
    for stored in _stored(store, commit):
        yield _decoded(store, shard, stored)


def read_raw(store: Store, shard: int) -> Iterator[tuple[dict[str, Any], list[tuple[str, bytes]]]]:
    """Every planned sample in plan order, as row and members; no members if it is not in the tar."""
    commit = _finished(store, shard)
    stem = shard_name(shard)
    samples = _stored(store, commit)
    for row in shard_table.read(store, f"{stem}.parquet").to_pylist():
        stored = next(samples, None) if row["offset"] >= 0 else None
        if stored is None:
            if row["offset"] >= 0:
                raise _damaged(store, shard, "has fewer samples than its parquet")
            yield row, []
        elif (stored.offset, stored.size) != (row["offset"], row["size"]):
            raise _damaged(store, shard, f"does not hold {row['key']} where its parquet says")
        else:
            yield row, stored.members
    if next(samples, None):
        raise _damaged(store, shard, "has more samples than its parquet")


def find_row(store: Store, key: str) -> dict[str, Any]:
    """One planned sample's row of its shard's table, in a tar or not. MaskgenError if there is none."""
    return _place(store, key)[1]


def _place(store: Store, key: str) -> tuple[int, dict[str, Any]]:
    """The shard that holds the key, and its row there."""
    shard = _shard_of(store, key)
    _finished(store, shard)
    rows = shard_table.read(store, f"{shard_name(shard)}.parquet")
    row: dict[str, Any] = rows.filter(pc.equal(rows["key"], key)).to_pylist()[0]
    return shard, row


def find(store: Store, key: str) -> ShardSample:
    """One sample, read by its offset alone. MaskgenError if there is none, or why it is not in a tar."""
    shard, row = _place(store, key)
    if row["offset"] < 0:
        retry = " Mend the source, then run again with --retry-failed."
        raise MaskgenError(
            f"{key} is planned in {store.place}, but not in a tar: {row['outcome']}: {row['reason']}."
            + (retry if Outcome(row["outcome"]).is_failure else "")
        )
    with store.open(f"{shard_name(shard)}.tar") as stream:
        stream.seek(row["offset"])
        part = io.BytesIO(stream.read(row["size"]))
    try:
        stored = next(scan(part))
    except (FormatError, StopIteration) as error:
        raise _damaged(store, shard, f"is damaged at {key}") from error
    sample = _decoded(store, shard, stored)
    if sample.key != key:
        raise _damaged(store, shard, f"holds {sample.key} where its parquet says {key}")
    return sample


def _shard_of(store: Store, key: str) -> int:
    """The shard that holds the key, by the index or, while the set is unfinished, by the shards' tables.

    Only the number is taken from the index: offsets may be newer in the shard's own table.
    """
    if store.exists("index.parquet"):
        with store.open("index.parquet") as stream, pq.ParquetFile(stream) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["shard", "key"])
                if (place := pc.index(rows["key"], key).as_py()) >= 0:
                    return int(rows["shard"][place].as_py())
    else:
        for shard in committed(store):
            rows = shard_table.read(store, f"{shard_name(shard)}.parquet")
            if pc.index(rows["key"], key).as_py() >= 0:
                return shard
    raise MaskgenError(
        f'no sample "{key}" in {store.place}. The keys are the column "key" of its .parquet files '
        "(index.parquet once the set is finished)."
    )


def _finished(store: Store, shard: int) -> Commit:
    commit = read_commit(store, shard)
    if commit is None:
        raise MaskgenError(
            f"{store.where(shard_name(shard))} is not finished. Run the same maskgen run again to finish it."
        )
    return commit


def _stored(store: Store, commit: Commit) -> Iterator[Stored]:
    """The tar's samples; size and count are held against the commit, for a cut tar reads as a shorter one."""
    if not commit.samples:
        return
    with store.open(f"{shard_name(commit.shard)}.tar") as stream:
        if (size := stream.seek(0, io.SEEK_END)) != commit.tar.bytes:
            raise _damaged(store, commit.shard, f"has {size} bytes instead of {commit.tar.bytes}")
        stream.seek(0)
        count = 0
        try:
            for stored in scan(stream):
                count += 1
                yield stored
        except FormatError as error:
            raise _damaged(store, commit.shard, f"is not a shard: {error}") from error
    if count != commit.samples:
        raise _damaged(store, commit.shard, f"holds {count} samples instead of {commit.samples}")


def _decoded(store: Store, shard: int, stored: Stored) -> ShardSample:
    try:
        return format.decode(dict(stored.members))
    except FormatError as error:
        raise _damaged(store, shard, f"holds a bad sample: {error}") from error


def _damaged(store: Store, shard: int, problem: str) -> FormatError:
    stem = shard_name(shard)
    return FormatError(
        f"{store.where(stem)}.tar {problem.rstrip('.')}. Remove {stem}.json, then run the same maskgen run "
        "again: that shard is made anew."
    )
