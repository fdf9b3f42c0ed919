"""The finished set's indexes: one table of all samples, and what open_clip, wids and HF datasets read."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskgen.errors import MaskgenError
from maskgen.runtime.store import AbsentError, Store, dump_json
from maskgen.sharding import shard_table
from maskgen.sharding.commit import Commit, committed, shard_name
from maskgen.sharding.dataset_card import write_card
from maskgen.sharding.format import SCHEMA
from maskgen.sharding.huggingface import features

COLUMNS = pa.schema([pa.field("shard", pa.int32(), nullable=False), *shard_table.COLUMNS])
NAMES = ("index.parquet", "sizes.json", "wids.json", "features.json")
"""The files that `finish` writes."""

_SOURCE = b"maskgen.shards"
_OF_AN_INDEX = ("quality.json", "report.html")  # made from it; without them a finished set is not whole


def finish(store: Store, fingerprint: str) -> None:
    """Write index.parquet, the `summaries` and the card of a set whose shards are all committed.

    A file that is up to date already is left alone. Memory is bounded by one shard's table.
    """
    commits = committed(store)
    if missing := sorted(set(range(max(commits, default=-1) + 1)) - set(commits)):
        raise MaskgenError(
            f"shard {missing[0]} of {store.place} is not finished. Run the same command again."
        )
    if strange := [shard for shard in commits if commits[shard].fingerprint != fingerprint]:
        raise MaskgenError(
            f"shard {strange[0]} of {store.place} comes from another run. "
            f"Remove {shard_name(strange[0])}.json and run the same command again: that shard is made anew."
        )
    _write_index(store, commits)
    for name, tree in summaries(commits, fingerprint).items():
        data = dump_json(tree)
        if not store.exists(name) or store.read_bytes(name) != data:
            store.write_bytes(name, data)
    write_card(store, commits)


def summaries(commits: dict[int, Commit], fingerprint: str) -> dict[str, Any]:
    """The JSON files at the root of a finished set, by name."""
    return {
        "sizes.json": sizes(commits),
        "wids.json": wids(commits, fingerprint),
        "features.json": features(max((commit.version for commit in commits.values()), default=SCHEMA)),
    }


def sizes(commits: dict[int, Commit]) -> dict[str, int]:
    """{"000000.tar": samples}, as open_clip reads it; shards without a tar are left out."""
    return {f"{shard_name(shard)}.tar": commits[shard].samples for shard in _with_tar(commits)}


def wids(commits: dict[int, Commit], fingerprint: str) -> dict[str, Any]:
    """The index of the wids library; the addresses are relative to wids.json itself."""
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        # wids keeps its cache under the name: two sets must not share one.
        "name": f"maskgen-{fingerprint[:16]}",
        "shardlist": [
            {
                "url": f"{shard_name(shard)}.tar",
                "md5sum": commits[shard].tar.md5,
                "nsamples": commits[shard].samples,
                "filesize": commits[shard].tar.bytes,
            }
            for shard in _with_tar(commits)
        ],
    }


def rows(shard: int, of_shard: pa.Table) -> pa.Table:
    """A shard's rows as they stand in the index: with its number before them."""
    number = pa.array([shard], pa.int32()).take(pa.array([0] * len(of_shard), pa.int32()))
    return pa.table([number, *of_shard.columns], schema=_schema(of_shard))


def read_index(store: Store, names: Sequence[str]) -> pa.Table:
    """Columns of a finished set's index; those that it does not have are left out. MaskgenError without
    one.
    """
    try:
        with store.open("index.parquet") as stream, pq.ParquetFile(stream) as file:
            there = set(file.schema_arrow.names)
            return file.read(columns=[name for name in names if name in there])
    except (AbsentError, pa.ArrowException) as error:
        raise MaskgenError(
            f"{store.place} is no finished set: its index.parquet is missing or broken. Finish its "
            "maskgen run."
        ) from error


def source(commits: dict[int, Commit]) -> str:
    """What an index was made of: a hash over the hashes of the shards' tables."""
    tables = "".join(commits[shard].parquet.sha256 for shard in sorted(commits))
    return hashlib.sha256(tables.encode()).hexdigest()


def source_of(file: pq.ParquetFile) -> str:
    """The `source` that an index.parquet says it was made of; empty if it says nothing."""
    metadata = file.schema_arrow.metadata or {}
    return metadata.get(_SOURCE, b"").decode("ascii", "replace")


def _write_index(store: Store, commits: dict[int, Commit]) -> None:
    name = "index.parquet"
    try:
        with store.open(name) as stream, pq.ParquetFile(stream) as file:
            if source_of(file) == source(commits):
                return
    except (AbsentError, pa.ArrowException):
        pass  # none yet, or a broken one
    for outdated in _OF_AN_INDEX:
        store.remove(outdated)
    # Of one set, all shards have the same columns.
    first = [shard_table.read(store, f"{shard_name(shard)}.parquet") for shard in sorted(commits)[:1]]
    schema = _schema(*first).with_metadata({_SOURCE: source(commits).encode()})
    with store.publish(name) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        # Row group i is shard i, as in plan.parquet.
        for shard in sorted(commits):
            of_shard = shard_table.read(store, f"{shard_name(shard)}.parquet")
            writer.write_table(rows(shard, of_shard).cast(schema), row_group_size=max(1, len(of_shard)))


def _schema(of_shard: pa.Table | None = None) -> pa.Schema:
    """An index's columns: those of a shard's table after its number."""
    return COLUMNS if of_shard is None else pa.schema([COLUMNS.field("shard"), *of_shard.schema])


def _with_tar(commits: dict[int, Commit]) -> list[int]:
    return [shard for shard in sorted(commits) if commits[shard].samples]
