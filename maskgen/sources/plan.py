"""The plan: which rows are grounded, in which shard. Row group i of `plan.parquet` is shard i."""

import itertools
import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.config import Config
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import PUBLISHED, ArchiveMember, Query, Sample, Turn, role
from maskgen.sources import conversation
from maskgen.sources.image_index import FoundImage, ImageIndex
from maskgen.sources.images import ImageRoot
from maskgen.sources.row_scan import RowScanner, ScannedRows, check_of, portions, scan_all
from maskgen.sources.rows import find_files, place
from maskgen.sources.selection import EVERYTHING, Chosen, Cut, spilled

_EXAMPLES = 5
_NAMED = 3  # examples in a note
_NAME_CHARS = 100
_ORDINARY = (Outcome.NO_IMAGE, Outcome.TEXT_EMPTY)
_HOPELESS = 10_000  # images looked for, and not one found
_SPARE_ROWS = 1024  # drawn at least beyond what is asked for, in the place of images that are not there
_MEASURED_IMAGES = 200

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
    tells beforehand what that costs. `progress` gets the number of rows read, now and then.
    Raises MaskgenError where the data cannot be read, holds no row, or the disk is full.
    """
    folder = destination.with_name(f"{destination.name}.rows")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        return _Planner(config, data, progress, kept, say).make(folder, destination)
    except (OSError, sqlite3.Error) as error:
        raise MaskgenError(f"cannot plan into {destination}: {error}. Make room there.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def passed_over(record: dict[str, Any]) -> dict[str, int]:
    """Of a run's record: the planned rows, by outcome, in whose place the next of the draw were taken."""
    plan, count = record["plan"], record["config"].get("select", {}).get("count")
    return dict(plan["outcomes"]) if count and plan["groundable"] >= count else {}


def find_again(
    config: Config,
    data: str,
    plan: IO[bytes],
    destination: Path,
    kept: Store | None = None,
    say: Callable[[str], None] | None = None,
) -> "Update":
    """Write the plan anew with the places its images have now.

    Which rows are planned does not change, nor what is known of an image that was there.
    """
    file, then, now = _open(plan), _Writing(), _Writing()
    with ImageIndex(data, config.source, kept, say) as images, _writer(destination) as writer:
        for shard in range(file.num_row_groups):
            before = [_sample(row) for row in file.read_row_group(shard).to_pylist()]
            asked = [_as_before_looking(sample) for sample in before]
            after = [
                old if new.outcome else new
                for old, new in zip(before, find_images(asked, images), strict=True)
            ]
            then.take(before, [])
            now.take(after, [])
            writer.write_table(_table(after), row_group_size=len(after))
    return Update(then, now, config.select.count)


@dataclass(frozen=True)
class Update:
    """What a second look for a plan's images changed."""

    then: "_Writing"
    now: "_Writing"
    wanted: int | None

    @property
    def found(self) -> int:
        """How many images were missing and are there."""
        return self.now.groundable - self.then.groundable

    def summary(self, before: dict[str, Any]) -> dict[str, Any]:
        """The plan's summary as it is now; `before`: as it was."""
        old = list(self.then.notes(self.wanted))
        kept = [note for note in before["notes"] if note not in old]
        place = next((at for at, note in enumerate(before["notes"]) if note in old), len(kept))
        notes = [*kept[:place], *self.now.notes(self.wanted), *kept[place:]]
        changed = {"groundable": self.now.groundable, "outcomes": self.now.failures(), "notes": notes}
        return {**before, **changed}


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
        self._kept = kept
        self._say = say
        self._without = _keys(config.select.without)

    def make(self, folder: Path, destination: Path) -> PlanSummary:
        """Draw rows until enough of them can be grounded: some more than asked, then as many as needed."""
        wanted = self._config.select.count
        drawn = wanted and wanted + max(wanted // 4, _SPARE_ROWS)
        with ImageIndex(self._data, self._config.source, self._kept, self._say) as images:
            while True:
                folder.mkdir(parents=True)
                cut = Cut(self._config.select, drawn)
                reading = self._choose(folder, cut)
                images.forget_matches()
                writing = self._write(spilled(folder, cut.bound), images, destination)
                shutil.rmtree(folder)
                if not wanted or not drawn or writing.groundable >= wanted or cut.bound == EVERYTHING:
                    break
                if not writing.groundable and writing.outcomes[Outcome.IMAGE_MISSING] >= _HOPELESS:
                    break  # the images are somewhere else
                drawn = max(2 * drawn, math.ceil(drawn * wanted / max(1, writing.groundable)))
            notes = [*images.notes, *reading.notes(), *writing.notes(wanted)]
        return PlanSummary(
            files=[self._below(name) for name in self._files],
            read=reading.read,
            broken=reading.broken,
            broken_examples=reading.examples,
            duplicates=writing.duplicates,
            planned=writing.planned,
            groundable=writing.groundable,
            outcomes=writing.failures(),
            shards=writing.shards,
            notes=notes,
        )

    def _choose(self, folder: Path, cut: Cut) -> "_Reading":
        """Spill every row that may be chosen; lowers the cut's bound to what the chosen ones rank below."""
        reading = _Reading()
        counts = self._config.select.count is not None

        def take(file: str, found: ScannedRows) -> None:
            reading.take(self._below(file), found)
            cut.offer(found.ranks)
            self._progress(reading.read)

        make_scanner = partial(RowScanner, self._config, self._without, counts, folder)
        scan_all(portions(self._files), make_scanner, lambda: cut.bound, take)
        self._progress(reading.read)
        if reading.read == reading.broken:
            why = f" The first: {reading.examples[0]}." if reading.examples else ""
            raise MaskgenError(
                f"there is no usable row in {', '.join(self._files)}.{why} "
                "A row has id, image and conversations."
            )
        self._check_columns(reading)
        cut.tighten()
        return reading

    def _check_columns(self, reading: "_Reading") -> None:
        """Refuse a condition over a column that no row has."""
        where = self._config.select.where
        if not where:
            return
        from maskgen.sources.row_filter import RowFilter

        absent = [name for name in RowFilter(where).names if name not in reading.columns]
        if absent:
            raise MaskgenError(
                f"select.where: {where}: no row has a column {absent[0]}. "
                f"There are {', '.join(sorted(reading.others)) or 'none'}."
            )

    def _write(self, rows: Iterator[Chosen], images: ImageIndex, destination: Path) -> "_Writing":
        """Write the chosen rows, a row group a shard, until as many as asked for can be grounded."""
        writing = _Writing()
        check, text, wanted = check_of(self._config), self._config.text, self._config.select.count
        with _writer(destination) as writer:
            while chunk := list(itertools.islice(rows, self._config.shards.size)):
                samples = [conversation.sample(row.content, row.key, text, check, row.meta) for row in chunk]
                samples = find_images(samples, images)
                if wanted:
                    samples = _first(samples, wanted - writing.groundable)
                writing.take(samples, chunk)
                writer.write_table(_table(samples), row_group_size=len(samples))
                if writing.groundable == wanted:
                    break
        return writing

    def _below(self, name: str) -> str:
        return name.removeprefix(self._data.rstrip("/") + "/")


@dataclass
class _Reading:
    """What one pass over all rows found."""

    read: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    _file: str = ""
    _lines: int = 0

    def take(self, file: str, found: ScannedRows) -> None:
        """Add what a part of `file` held; the parts of a file come in order."""
        if file != self._file:
            self._file, self._lines = file, 0
        self.read += found.read
        self.broken += found.broken_rows
        for row in found.broken[: _EXAMPLES - len(self.examples)]:
            self.examples.append(f"{file}:{self._lines + row.position}: {row.reason}")
        self._lines += found.lines
        self.columns |= found.columns
        self.others |= found.others

    def notes(self) -> Iterator[str]:
        if self.broken:
            yield f"{self.broken:,} rows are broken and left out, the first at {self.examples[0]}"


@dataclass
class _Writing:
    """What became of the rows that were drawn. `outcomes`: "" for those without."""

    planned: int = 0
    shards: int = 0
    duplicates: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    speakers: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    reasons: dict[Outcome, str] = field(default_factory=dict)

    @property
    def groundable(self) -> int:
        return self.outcomes[""]

    def take(self, samples: list[Sample], rows: list[Chosen]) -> None:
        """Count the samples of a shard; `rows` are those that they are the first of."""
        self.planned += len(samples)
        self.shards += 1
        self.duplicates += sum(row.copies for row in rows[: len(samples)])
        for sample in samples:
            self.outcomes[sample.outcome or ""] += 1
            if sample.outcome is Outcome.IMAGE_MISSING:
                if len(self.missing) < _NAMED:
                    self.missing.append(sample.image[:_NAME_CHARS])
            elif sample.outcome and sample.outcome not in _ORDINARY:
                self.reasons.setdefault(sample.outcome, sample.reason)
            for turn in sample.conversations:
                if turn.speaker not in PUBLISHED:
                    self.speakers[turn.speaker[:_NAME_CHARS]] += 1

    def failures(self) -> dict[str, int]:
        """The outcomes that planning decided."""
        return {str(name): count for name, count in sorted(self.outcomes.items()) if name and count}

    def notes(self, wanted: int | None) -> Iterator[str]:
        """What a person should know of the rows, a sentence each. Foreign text stands as Python's repr."""
        for name, turns in self.speakers.most_common(_NAMED):
            read = f"read as {role(name)}" if role(name) else "unknown, so such rows are left out"
            yield f"the speaker {name!r} of {turns:,} turns is {read}"
        for outcome, reason in sorted(self.reasons.items()):
            yield f"{self.outcomes[outcome]:,} rows are {outcome}, the first since {reason}"
        if missing := self.outcomes[Outcome.IMAGE_MISSING]:
            named = ", ".join(map(repr, self.missing))
            replaced = "; the next of the draw took their places" if self.groundable == wanted else ""
            yield f"the images of {missing:,} rows are not there ({named}){replaced}"
        if wanted and self.groundable < wanted:
            yield f"only {self.groundable:,} rows can be grounded, fewer than select.count ({wanted:,})"


def _writer(destination: Path) -> pq.ParquetWriter:
    """Neither statistics nor anything else that readers do not need: equal plans are equal bytes."""
    return pq.ParquetWriter(
        destination,
        _SCHEMA,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )


def _as_before_looking(sample: Sample) -> Sample:
    """The sample as if nobody had looked for its image."""
    missing = sample.outcome is Outcome.IMAGE_MISSING
    return replace(sample, member=None, outcome=None, reason="") if missing else replace(sample, member=None)


def _first(samples: list[Sample], wanted: int) -> list[Sample]:
    """The samples up to the last of the first `wanted` that can be grounded."""
    usable = [place for place, sample in enumerate(samples) if not sample.outcome]
    return samples[: usable[wanted - 1] + 1] if len(usable) >= wanted else samples


def find_images(samples: list[Sample], images: ImageIndex) -> list[Sample]:
    """The samples with the place of each image, or with the outcome that says why there is none."""
    found = iter(images.find([sample.image for sample in samples if sample.image and not sample.outcome]))
    return [
        _found(sample, next(found), images) if sample.image and not sample.outcome else sample
        for sample in samples
    ]


def _found(sample: Sample, there: FoundImage | None, images: ImageIndex) -> Sample:
    if there is None:
        why = images.why_not(sample.image)
        return replace(sample, outcome=why.outcome, reason=why.reason)
    return replace(sample, member=there.member)


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
            sample.meta,
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
        meta=row["meta"],
    )


def _open(plan: Path | str | IO[bytes]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(plan)
    except (pa.ArrowInvalid, OSError) as error:
        raise MaskgenError(f"the plan cannot be read: {error}. Remove it and plan again.") from error
    if file.schema_arrow.names != _SCHEMA.names:
        raise MaskgenError("the plan has other columns than this version writes. Remove it and plan again.")
    return file
