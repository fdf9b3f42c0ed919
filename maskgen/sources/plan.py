"""Planning: which rows are grounded, in which shard, and where their images lie."""

import itertools
import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.config import Config
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.place_errors import translate
from maskgen.runtime.store import Store
from maskgen.sample import ArchiveMember, role
from maskgen.sources.image_folder import ImageFolder
from maskgen.sources.image_index import ImageIndex
from maskgen.sources.images import ImageRoot
from maskgen.sources.plan_file import (
    Plan,
    count_groundable,
    foreign_speakers,
    open_plan,
    plan_writer,
    planned_samples,
    with_decisions,
)
from maskgen.sources.row_scan import RowScanner, ScannedRows
from maskgen.sources.row_workers import RowWorkers, estimate_counted
from maskgen.sources.rows import find_files, place
from maskgen.sources.selection import EVERYTHING, Chosen, Cut, spilled

_EXAMPLES = 5
_NAMED = 3  # examples in a note
_NAME_CHARS = 100
_ORDINARY = (Outcome.NO_IMAGE, Outcome.TEXT_EMPTY)
_HOPELESS = 10_000  # images looked for, and not one found
_SPARE_ROWS = 1024  # drawn at least beyond what is asked for, in the place of images that are not there
_MEASURED_IMAGES = 200


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
    except OSError as error:
        raise MaskgenError(f"cannot plan: {translate(error)}") from error
    except sqlite3.Error as error:
        raise MaskgenError(f"cannot plan into {destination}: {error}. Make room there.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_condition(config: Config) -> None:
    """MaskgenError if `select.where` is not one condition over a row."""
    if config.select.where:
        from maskgen.sources.row_filter import RowFilter

        RowFilter(config.select.where)


def check_images(config: Config, data: str) -> None:
    """MaskgenError if the image folder, or one that links may lead to, is not there."""
    ImageFolder(place(data, config.source.images), config.source.allow_links_to)


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
    file, then, now = open_plan(plan), _Writing(), _Writing()
    with ImageIndex(data, config.source, kept, say) as images, plan_writer(destination) as writer:
        for shard in range(file.num_row_groups):
            before = file.read_row_group(shard)
            after = _look_again(before, images)
            then.take(before)
            now.take(after)
            writer.write_table(after, row_group_size=len(after))
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


def estimate_bytes(config: Config, data: str, plan: Plan) -> int:
    """Bytes that the planned images will take: the mean of the first ones, which are a random draw.

    An image that cannot be opened counts as nothing, as it does in a shard.
    """
    groundable = count_groundable(plan)
    if not groundable:
        return 0
    source = config.source
    images = ImageRoot(place(data, source.images), config.limits.image_bytes, source.allow_links_to)
    usable = (sample for sample in planned_samples(plan) if not sample.outcome)
    drawn = itertools.islice(usable, _MEASURED_IMAGES)
    sizes = [(images.size(sample) or 0) if sample.image else 0 for sample in drawn]
    return round(groundable * sum(sizes) / len(sizes))


def find_images(rows: pa.Table, images: ImageIndex) -> pa.Table:
    """The rows of a plan with the place of each image, or with the outcome that says why there is none."""
    names, outcomes, reasons = (rows[column].to_pylist() for column in ("image", "outcome", "reason"))
    members: list[ArchiveMember | None] = [None] * len(rows)
    asked = [row for row, name in enumerate(names) if name and not outcomes[row]]
    for row, found in zip(asked, images.find([names[row] for row in asked]), strict=True):
        if found is None:
            why = images.why_not(names[row])
            outcomes[row], reasons[row] = why.outcome, why.reason
        else:
            members[row] = found.member
    return with_decisions(rows, members, outcomes, reasons)


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
            expected = self._expected(folder)
            while True:
                cut = Cut(self._config.select, drawn, expected=expected)
                folder.mkdir(parents=True)
                with RowWorkers(self._config, self._without, bool(wanted), self._files, folder) as workers:
                    reading = self._choose(workers, cut)
                    images.forget_matches()
                    rows = spilled(folder, cut.bound)
                    writing = _Writing() if cut.is_short else self._write(workers, rows, images, destination)
                shutil.rmtree(folder)
                if cut.is_short:
                    expected = 0
                    continue
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

    def _expected(self, folder: Path) -> float:
        """Roughly how many rows count; 0 for no idea, and with a condition, which is to look at many rows."""
        if not self._config.select.count or self._config.select.where:
            return 0
        folder.mkdir(parents=True)
        scanner = RowScanner(self._config, self._without, True, folder, "sample")
        try:
            return estimate_counted(self._files, scanner)
        finally:
            scanner.close()
            shutil.rmtree(folder)

    def _choose(self, workers: RowWorkers, cut: Cut) -> "_Reading":
        """Spill every row that may be chosen; lowers the cut's bound to what the chosen ones rank below."""
        reading = _Reading()

        def take(file: str, found: ScannedRows) -> None:
            reading.take(self._below(file), found)
            cut.offer(found.ranks)
            self._progress(reading.read)

        workers.scan(lambda: cut.bound, take)
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

    def _write(
        self, workers: RowWorkers, rows: Iterator[Chosen], images: ImageIndex, destination: Path
    ) -> "_Writing":
        """Write the chosen rows, a row group a shard, until as many as asked for can be grounded."""
        writing, wanted = _Writing(), self._config.select.count
        chunks, sent = itertools.tee(iter(lambda: list(itertools.islice(rows, self._config.shards.size)), []))
        with plan_writer(destination) as writer:
            for chunk, prepared in zip(chunks, workers.prepare(sent), strict=False):
                table = find_images(prepared, images)
                if wanted:
                    table = _first(table, wanted - writing.groundable)
                writing.take(table)
                writing.duplicates += sum(row.copies for row in chunk[: len(table)])
                writer.write_table(table, row_group_size=len(table))
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

    def take(self, rows: pa.Table) -> None:
        """Count the rows of a shard."""
        self.planned += len(rows)
        self.shards += 1
        outcomes = rows["outcome"].to_pylist()
        self.outcomes.update(outcomes)
        for row, outcome in enumerate(outcomes):
            if outcome == Outcome.IMAGE_MISSING:
                if len(self.missing) < _NAMED:
                    self.missing.append(rows["image"][row].as_py()[:_NAME_CHARS])
            elif outcome and outcome not in _ORDINARY and outcome not in self.reasons:
                self.reasons[Outcome(outcome)] = rows["reason"][row].as_py()
        for speaker in foreign_speakers(rows):
            self.speakers[speaker[:_NAME_CHARS]] += 1

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


def _look_again(rows: pa.Table, images: ImageIndex) -> pa.Table:
    """The rows with the places that their images have now; what is not found stays as it was."""
    outcomes, reasons = rows["outcome"].to_pylist(), rows["reason"].to_pylist()
    missing = [outcome == Outcome.IMAGE_MISSING for outcome in outcomes]
    asked = with_decisions(
        rows,
        [None] * len(rows),
        ["" if gone else outcome for gone, outcome in zip(missing, outcomes, strict=True)],
        ["" if gone else reason for gone, reason in zip(missing, reasons, strict=True)],
    )
    found = find_images(asked, images)
    both = pa.concat_tables([rows, found])
    now = [row + len(rows) * (not outcome) for row, outcome in enumerate(found["outcome"].to_pylist())]
    return both.take(now).combine_chunks()


def _first(rows: pa.Table, wanted: int) -> pa.Table:
    """The rows up to the last of the first `wanted` that can be grounded."""
    usable = [row for row, outcome in enumerate(rows["outcome"].to_pylist()) if not outcome]
    return rows[: usable[wanted - 1] + 1] if len(usable) >= wanted else rows


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
