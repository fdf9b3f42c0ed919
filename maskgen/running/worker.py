"""One shard from plan to commit. A plain class: no Ray, so it is tested and profiled as it is."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat

from maskgen.config import Config, NoProposer
from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding.grounder import Grounder
from maskgen.outcome import Outcome
from maskgen.pixels import STAND_IN, decode
from maskgen.running.journal import Beacon, Journal
from maskgen.sample import Grounding, Picture, Sample
from maskgen.sharding import table
from maskgen.sharding.commit import Commit, read_commit, shard_name
from maskgen.sharding.reader import read_raw
from maskgen.sharding.writer import Record, ShardWriter
from maskgen.sources.images import ImageRoot
from maskgen.sources.plan import read_shard
from maskgen.sources.rows import place
from maskgen.store import Store

PACKED = 64  # samples read together where no model sets a batch
CHUNKS_AHEAD = 2
BEACON_SECONDS = 1.0


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; small, so that an actor restarts with it anywhere."""

    config: Config
    data: str
    out: str
    fingerprint: str


@dataclass(frozen=True)
class Task:
    """One call: which shard, and how.

    `rows`: how many it grounds, for the figures. `retry`: outcomes to try again; the shard's other
    samples are taken over as they are. Empty: the whole shard is made. `alone`: one sample at a time,
    for a shard whose samples kill only together.
    """

    shard: int
    quarantined: dict[str, str]
    rows: int = 0
    retry: tuple[Outcome, ...] = ()
    alone: bool = False


class ShardWorker:
    """Holds both models and makes shards. A shard's bytes follow from plan, config and quarantine."""

    def __init__(self, job: Job, name: str, device: str):
        self._job = job
        self._name = name
        self._store = Store(job.out)
        self._journal = Journal(job.out)
        self._images = ImageRoot(place(job.data, job.config.source.images), job.config.limits.image_bytes)
        self._grounder = Grounder(job.config, job.data, device)
        self._readers = ThreadPoolExecutor(job.config.resources.threads, "read")

    def describe(self) -> dict[str, object]:
        """Model revisions, generation settings and package versions, for the run's record."""
        return self._grounder.describe()

    def make(self, task: Task) -> Commit:
        """Ground the shard's samples and publish it. Raises only what is no single sample's fault."""
        config = self._job.config
        if task.retry and read_commit(self._store, task.shard) is None:
            task = replace(task, retry=())  # a worker died while rewriting it: nothing to keep
        samples = self._planned(task.shard)
        kept = self._kept(task)
        earlier = read_raw(self._store, task.shard) if task.retry else repeat(None)
        progress = _Progress(self._journal, self._name, task.shard, len(samples))
        with ShardWriter(self._store, task.shard, config.split, config.grid, self._job.fingerprint) as writer:
            fresh = [sample for sample in samples if sample.key not in kept]
            records = self._records(fresh, task, progress)
            for sample, before in zip(samples, earlier, strict=False):
                if before and sample.key in kept:
                    row, members = before
                    writer.copy(row, members)
                    progress.finished(Outcome(row["outcome"]))
                else:
                    progress.finished(_add(writer, next(records)))
            progress.touching([], now=True)
            return writer.commit()

    def probe(self, task: Task, keys: Sequence[str]) -> None:
        """Ground the suspects one by one and throw the results away: only a killer dies here."""
        progress = _Progress(self._journal, self._name, task.shard, 0)
        for sample in self._planned(task.shard):
            if sample.key in keys and _settled(sample, task) is None:
                progress.touching([sample.key], now=True)
                got = self._fetch(sample, task)
                if isinstance(got, Picture):
                    self._grounder.ground([got], [sample])
        progress.touching([], now=True)

    def _planned(self, shard: int) -> list[Sample]:
        with self._store.open("plan.parquet") as file:
            return read_shard(file, shard)

    def _kept(self, task: Task) -> set[str]:
        """Keys of the samples that a retry leaves as they are."""
        if not task.retry:
            return set()
        rows = table.read(self._store, f"{shard_name(task.shard)}.parquet").select(["key", "outcome"])
        return {row["key"] for row in rows.to_pylist() if row["outcome"] not in task.retry}

    def _records(self, samples: list[Sample], task: Task, progress: "_Progress") -> Iterator[Record]:
        """A record for each sample, in order, while threads read the next chunks."""
        size = 1 if task.alone else self._chunk_size()
        chunks = iter([samples[start : start + size] for start in range(0, len(samples), size)])
        waiting: deque[tuple[list[Sample], list[Future[Picture | Record]]]] = deque()
        ahead = 0 if task.alone else CHUNKS_AHEAD

        def fetch() -> None:
            chunk = next(chunks, None)
            if chunk is None:
                return
            readable = [sample.key for sample in chunk if _settled(sample, task) is None]
            in_hand = [sample.key for earlier, _ in waiting for sample in earlier]
            progress.touching(in_hand + readable, now=bool(readable))
            waiting.append((chunk, [self._readers.submit(self._fetch, sample, task) for sample in chunk]))

        for _ in range(1 + ahead):
            fetch()
        while waiting:
            chunk, futures = waiting[0]
            progress.queued = sum(future.done() for _, later in list(waiting)[1:] for future in later)
            made = list(self._ground(chunk, [future.result() for future in futures]))
            waiting.popleft()
            progress.touching([sample.key for later, _ in waiting for sample in later], now=True)
            fetch()
            yield from made

    def _chunk_size(self) -> int:
        """Samples grounded together: the larger of the two models' batches, so both run full."""
        config = self._job.config
        if isinstance(config.proposer, NoProposer):
            return PACKED
        return max(getattr(config.proposer, "together", 1), getattr(config.refiner, "batch", 1))

    def _fetch(self, sample: Sample, task: Task) -> Picture | Record:
        """The sample's picture, or the record that says why there is none."""
        settled = _settled(sample, task)
        if settled:
            return settled
        if not sample.image:
            return STAND_IN  # planned without an outcome: to be packed as text
        try:
            return decode(self._images.read(sample), self._job.config.limits)
        except SampleError as error:
            return Record(sample, error.outcome, error.reason, None, None)
        except Exception as error:  # a surprise in one image must not cost the shard
            return Record(sample, Outcome.ERROR, f"reading raised {type(error).__name__}", None, None)

    def _ground(self, chunk: list[Sample], fetched: list[Picture | Record]) -> Iterator[Record]:
        readable = [
            (sample, got) for sample, got in zip(chunk, fetched, strict=True) if isinstance(got, Picture)
        ]
        groundings = iter(
            self._grounder.ground([picture for _, picture in readable], [sample for sample, _ in readable])
            if readable
            else []
        )
        for sample, got in zip(chunk, fetched, strict=True):
            yield got if isinstance(got, Record) else _record(sample, got, next(groundings))


def _settled(sample: Sample, task: Task) -> Record | None:
    """A record for a sample that is decided without looking: by the plan, or by quarantine."""
    if sample.outcome is not None:
        return Record(sample, sample.outcome, sample.reason, None, None)
    if sample.key in task.quarantined:
        return Record(sample, Outcome.QUARANTINED, task.quarantined[sample.key], None, None)
    return None


def _add(writer: ShardWriter, record: Record) -> Outcome:
    """Put the record into the shard; what cannot be encoded is that sample's failure, not the shard's."""
    try:
        writer.add(record)
        return record.outcome
    except (MaskgenError, OSError):
        raise
    except Exception as error:
        failed = Record(record.sample, Outcome.ERROR, f"encoding raised {type(error).__name__}")
        writer.add(failed)
        return failed.outcome


def _record(sample: Sample, picture: Picture, grounding: Grounding) -> Record:
    if grounding.outcome.in_tar:
        return Record(sample, grounding.outcome, grounding.reason, picture, grounding)
    return Record(sample, grounding.outcome, grounding.reason, None, None)


class _Progress:
    """Keeps the worker's beacon lit: at once before new images are touched, else once a second."""

    def __init__(self, journal: Journal, worker: str, shard: int, planned: int):
        self.queued = 0
        self._journal = journal
        self._worker = worker
        self._shard = shard
        self._planned = planned
        self._outcomes: Counter[str] = Counter()
        self._suspects: tuple[str, ...] = ()
        self._lit = 0.0
        self._light()

    def touching(self, keys: list[str], now: bool) -> None:
        self._suspects = tuple(keys)
        self._light(now)

    def finished(self, outcome: Outcome) -> None:
        self._outcomes[outcome.value] += 1
        self._light(now=False)

    def _light(self, now: bool = True) -> None:
        if not now and time.monotonic() - self._lit < BEACON_SECONDS:
            return
        self._lit = time.monotonic()
        self._journal.light(
            Beacon(
                worker=self._worker,
                shard=self._shard,
                planned=self._planned,
                done=self._outcomes.total(),
                suspects=self._suspects,
                outcomes=dict(self._outcomes),
                queued=self.queued,
            )
        )
