"""`plan.parquet`: which rows are grounded, in which shard. Row group i is shard i."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.sample import PUBLISHED, ArchiveMember, Query, Sample, Turn

Plan = Path | str | IO[bytes]

_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "id": pa.string(),
        "image": pa.string(),
        "conversations": pa.string(),  # JSON: [{"speaker", "value"}, ...]
        "query": pa.string(),
        "spans": pa.string(),  # JSON: [[turn, start, end], ...]
        "meta": pa.string(),  # JSON: the row's further columns
        "archive": pa.string(),  # "" for an image of its own; then the three below say nothing
        "offset": pa.int64(),
        "size": pa.int64(),
        "deflated": pa.bool_(),
        "outcome": pa.string(),  # "" where planning did not decide it
        "reason": pa.string(),
    }
)
_MEMBER = ("archive", "offset", "size", "deflated")
_DECISION = ("outcome", "reason")


def plan_writer(destination: Path) -> pq.ParquetWriter:
    """Writes tables, a row group each. Neither statistics nor anything else that readers do not need: equal
    plans are equal bytes."""
    return pq.ParquetWriter(
        destination,
        _SCHEMA,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """The samples as rows of a plan."""
    rows = [
        (
            sample.key,
            sample.id,
            sample.image,
            orjson.dumps(sample.conversations).decode(),
            sample.query.text,
            orjson.dumps(sample.query.spans).decode(),
            sample.meta,
            *_place(sample.member),
            sample.outcome or "",
            sample.reason,
        )
        for sample in samples
    ]
    columns = zip(zip(*rows, strict=True), _SCHEMA, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in columns], _SCHEMA)


def to_samples(table: pa.Table) -> list[Sample]:
    """The samples that a plan's rows are."""
    return [_sample(row) for row in table.to_pylist()]


def with_decisions(
    table: pa.Table,
    members: Iterable[ArchiveMember | None],
    outcomes: Iterable[str],
    reasons: Iterable[str],
) -> pa.Table:
    """The rows with other places of their images, outcomes and reasons."""
    places = zip(*(_place(member) for member in members), strict=True)
    for name, column in zip((*_MEMBER, *_DECISION), (*places, outcomes, reasons), strict=True):
        field = _SCHEMA.field(name)
        table = table.set_column(_SCHEMA.get_field_index(name), field, pa.array(column, field.type))
    return table


def foreign_speakers(table: pa.Table) -> list[str]:
    """The speakers of all turns whose speaker is none of the published layouts'."""
    return [
        turn["speaker"]
        for turns in table["conversations"].to_pylist()
        for turn in orjson.loads(turns)
        if turn["speaker"] not in PUBLISHED
    ]


def count_rows(plan: Plan) -> list[int]:
    """Planned rows of each shard."""
    metadata = open_plan(plan).metadata
    return [metadata.row_group(shard).num_rows for shard in range(metadata.num_row_groups)]


def count_groundable(plan: Plan) -> int:
    """Planned rows that have no outcome yet."""
    return pc.sum(pc.equal(open_plan(plan).read(["outcome"])["outcome"], "")).as_py() or 0


def read_shard(plan: Plan, shard: int) -> list[Sample]:
    """The shard's samples, in order."""
    file = open_plan(plan)
    if not 0 <= shard < file.num_row_groups:
        raise MaskgenError(f"the plan has no shard {shard}: it has {file.num_row_groups}, counted from 0.")
    return to_samples(file.read_row_group(shard))


def planned_samples(plan: Plan) -> Iterator[Sample]:
    """All samples of a plan, shard by shard."""
    file = open_plan(plan)
    for shard in range(file.num_row_groups):
        yield from to_samples(file.read_row_group(shard))


def open_plan(plan: Plan) -> pq.ParquetFile:
    """The plan's file; MaskgenError if it is no plan, or another version's."""
    try:
        file = pq.ParquetFile(plan)
    except (pa.ArrowInvalid, OSError) as error:
        raise MaskgenError(f"the plan cannot be read: {error}. Remove it and plan again.") from error
    if file.schema_arrow.names != _SCHEMA.names:
        raise MaskgenError("the plan has other columns than this version writes. Remove it and plan again.")
    return file


def _place(member: ArchiveMember | None) -> tuple[str, int, int, bool]:
    return (member.archive, member.offset, member.size, member.deflated) if member else ("", 0, 0, False)


def _sample(row: dict[str, Any]) -> Sample:
    member = ArchiveMember(row["archive"], row["offset"], row["size"], row["deflated"])
    return Sample(
        key=row["key"],
        id=row["id"],
        image=row["image"],
        conversations=tuple([Turn(**turn) for turn in orjson.loads(row["conversations"])]),
        query=Query(row["query"], tuple([tuple(span) for span in orjson.loads(row["spans"])])),
        member=member if member.archive else None,
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        reason=row["reason"],
        meta=row["meta"],
    )
