"""The plan: which rows are grounded, in which shard. Row group i of `plan.parquet` is shard i."""

import itertools
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.config import Config, NoProposer, Text
from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import ArchiveMember, Query, Sample, Turn
from maskgen.sources import conversation
from maskgen.sources.image_index import ImageIndex
from maskgen.sources.images import ImageRoot
from maskgen.sources.rows import BrokenRow, RawRow, find_files, place, read_rows
from maskgen.sources.selection import Cut, Spill

PROGRESS_ROWS = 10_000
_EXAMPLES = 5
_MEASURED_IMAGES = 200

_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "id": pa.string(),
        "image": pa.string(),
        "conversations": pa.string(),  # JSON: [{"speaker", "value"}, ...]
        "query": pa.string(),
        "spans": pa.string(),  # JSON: [[turn, start, end], ...]
        "archive": pa.string(),  # "" for an image of its own; then the three below say nothing
        "offset": pa.int64(),
        "size": pa.int64(),
        "deflated": pa.bool_(),
        "outcome": pa.string(),  # "" where planning did not decide it
        "reason": pa.string(),
    }
)


@dataclass(frozen=True)
class PlanSummary:
    """What planning found. `read` counts every row, broken ones too.

    `groundable` of the `planned` rows have no outcome yet; `outcomes` counts those of the others.
    `duplicates`: further copies of planned rows. `broken_examples`: "file:position: reason".
    """

    files: list[str]
    read: int
    broken: int
    broken_examples: list[str]
    duplicates: int
    planned: int
    groundable: int
    outcomes: dict[str, int]
    shards: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    config: Config,
    data: str,
    destination: Path,
    progress: Callable[[int], None] | None = None,
    kept: Store | None = None,
    say: Callable[[str], None] | None = None,
) -> PlanSummary:
    """Choose the rows under `data` and write the plan to the local path `destination`.

    The choice follows from the rows' content and `select` alone: not from their order, their files or
    where they lie; a bigger count keeps what a smaller one chose, and puts it first. Rows stay on disk
    beside `destination` meanwhile. What it takes to read .tar.gz archives at random stays in `kept`; `say`
    tells beforehand what that costs. `progress` gets the number of rows read, every PROGRESS_ROWS rows.
    Raises MaskgenError where the data cannot be read, holds no row, or the disk is full.
    """
    folder = destination.with_name(f"{destination.name}.rows")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        return _Planner(config, data, progress, kept, say).make(folder, destination)
    except (OSError, sqlite3.Error) as error:
        raise MaskgenError(f"cannot plan into {destination}: {error}. Make room there.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def count_rows(plan: Path | str | IO[bytes]) -> list[int]:
    """Planned rows of each shard."""
    metadata = _open(plan).metadata
    return [metadata.row_group(shard).num_rows for shard in range(metadata.num_row_groups)]


def read_shard(plan: Path | str | IO[bytes], shard: int) -> list[Sample]:
    """The shard's samples, in order."""
    file = _open(plan)
    if not 0 <= shard < file.num_row_groups:
        raise MaskgenError(f"the plan has no shard {shard}: it has {file.num_row_groups}, counted from 0.")
    return [_sample(row) for row in file.read_row_group(shard).to_pylist()]


def estimate_bytes(config: Config, data: str, plan: Path | str | IO[bytes]) -> int:
    """Bytes that the planned images will take: the mean of the first ones, which are a random draw.

    An image that cannot be opened counts as nothing, as it does in a shard.
    """
    file = _open(plan)
    groundable = pc.sum(pc.equal(file.read(["outcome"])["outcome"], "")).as_py()
    if not groundable:
        return 0
    source = config.source
    images = ImageRoot(place(data, source.images), config.limits.image_bytes, source.allow_links_to)
    samples = (_sample(row) for i in range(file.num_row_groups) for row in file.read_row_group(i).to_pylist())
    drawn = itertools.islice((sample for sample in samples if not sample.outcome), _MEASURED_IMAGES)
    sizes = [(images.size(sample) or 0) if sample.image else 0 for sample in drawn]
    return round(groundable * sum(sizes) / len(sizes))


class _Planner:
    """One planning: rows → spill → sorted samples → Parquet, counting on the way."""

    def __init__(
        self,
        config: Config,
        data: str,
        progress: Callable[[int], None] | None,
        kept: Store | None,
        say: Callable[[str], None] | None,
    ):
        self._config = config
        self._data = data
        self._files = find_files(data, config.source.files)
        self._progress = progress or (lambda _: None)
        self._check: conversation.Check = conversation.check
        if isinstance(config.proposer, NoProposer):
            keep = config.proposer.text_only == "keep"
            self._check = partial(conversation.check_packed, text_only=keep)
        self._kept = kept
        self._say = say
        self._without = _keys(config.select.without)
        self._read = 0
        self._broken = 0
        self._examples: list[str] = []
        self._outcomes: Counter[str] = Counter()
        self._notes: list[str] = []

    def make(self, folder: Path, destination: Path) -> PlanSummary:
        index = ImageIndex(self._data, self._config.source, self._kept, self._say)
        with index as images, Spill(folder) as spill:
            bound = self._choose(spill)
            shards = self._write(spill.rows(bound), images, destination)
            self._notes += images.notes
        planned = self._outcomes.total()
        groundable = self._outcomes.pop("", 0)
        wanted = self._config.select.count
        if wanted and groundable < wanted:
            self._notes.append(
                f"only {groundable:,} rows can be grounded, fewer than select.count ({wanted:,})"
            )
        return PlanSummary(
            files=[self._below(name) for name in self._files],
            read=self._read,
            broken=self._broken,
            broken_examples=self._examples,
            duplicates=spill.duplicates,
            planned=planned,
            groundable=groundable,
            outcomes=dict(sorted(self._outcomes.items())),
            shards=shards,
            notes=self._notes,
        )

    def _choose(self, spill: Spill) -> bytes:
        """Spill every row that may be chosen; returns the bound below which the chosen ones rank."""
        cut, text = Cut(self._config.select), self._config.text
        seed = conversation.seed_bytes(self._config.select.seed)
        for row in self._rows():
            content = conversation.canonical(row)
            key = conversation.key(content)
            rank = conversation.rank(key, seed)
            if rank < cut.bound and key not in self._without:
                spill.add(rank, key, content)
                if cut.counts and self._is_usable(row, text):
                    cut.offer(rank)
        if self._read == self._broken:
            why = f" The first: {self._examples[0]}." if self._examples else ""
            raise MaskgenError(
                f"there is no usable row in {', '.join(self._files)}.{why} "
                "A row has id, image and conversations."
            )
        cut.tighten()
        return cut.bound

    def _rows(self) -> Iterator[RawRow]:
        for name in self._files:
            for row in read_rows(name):
                self._read += 1
                if self._read % PROGRESS_ROWS == 0:
                    self._progress(self._read)
                if type(row) is BrokenRow:
                    self._broken += 1
                    if len(self._examples) < _EXAMPLES:
                        self._examples.append(f"{self._below(name)}:{row.position}: {row.reason}")
                else:
                    yield row  # type: ignore[misc]  # a RawRow
        self._progress(self._read)

    def _write(self, rows: Iterator[tuple[str, bytes]], images: ImageIndex, destination: Path) -> int:
        """Write the chosen rows, a row group a shard; returns the number of shards."""
        shards = 0
        # Neither statistics nor anything else that readers do not need: equal plans are equal bytes.
        with pq.ParquetWriter(
            destination,
            _SCHEMA,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
        ) as writer:
            while chunk := list(itertools.islice(rows, self._config.shards.size)):
                samples = [
                    conversation.sample(content, key, self._config.text, self._check)
                    for key, content in chunk
                ]
                samples = _find_members(samples, images)
                self._outcomes.update(sample.outcome.value if sample.outcome else "" for sample in samples)
                writer.write_table(_table(samples), row_group_size=len(samples))
                shards += 1
        return shards

    def _below(self, name: str) -> str:
        return name.removeprefix(self._data.rstrip("/") + "/")

    def _is_usable(self, row: RawRow, text: Text) -> bool:
        try:
            self._check(row.image, row.turns, text)
        except SampleError:
            return False
        return True


def _find_members(samples: list[Sample], images: ImageIndex) -> list[Sample]:
    found = iter(images.find([sample.image for sample in samples if sample.image and not sample.outcome]))
    return [
        replace(sample, member=there.member)
        if sample.image and not sample.outcome and (there := next(found))
        else sample
        for sample in samples
    ]


def _keys(places: list[str]) -> frozenset[str]:
    """Keys of the rows that are in the tars of these finished sets."""
    keys: set[str] = set()
    for url in places:
        store = Store(url)
        if not store.exists("index.parquet"):
            raise MaskgenError(
                f"{url} is no finished set: it has no index.parquet. Finish it, or leave it out."
            )
        with store.open("index.parquet") as stream:
            rows = pq.read_table(stream, columns=["key", "offset"])
        keys.update(rows.filter(pc.greater_equal(rows["offset"], 0))["key"].to_pylist())
    return frozenset(keys)


def _table(samples: list[Sample]) -> pa.Table:
    rows = [
        (
            sample.key,
            sample.id,
            sample.image,
            orjson.dumps(sample.conversations).decode(),
            sample.query.text,
            orjson.dumps(sample.query.spans).decode(),
            *((m.archive, m.offset, m.size, m.deflated) if (m := sample.member) else ("", 0, 0, False)),
            sample.outcome or "",
            sample.reason,
        )
        for sample in samples
    ]
    columns = zip(zip(*rows, strict=True), _SCHEMA, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in columns], _SCHEMA)


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
    )


def _open(plan: Path | str | IO[bytes]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(plan)
    except (pa.ArrowInvalid, OSError) as error:
        raise MaskgenError(f"the plan cannot be read: {error}. Remove it and plan again.") from error
    if file.schema_arrow.names != _SCHEMA.names:
        raise MaskgenError("the plan has other columns than this version writes. Remove it and plan again.")
    return file
