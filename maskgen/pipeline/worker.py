"""One shard from plan to commit. A plain class: no Ray, so it is tested and profiled as it is."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import repeat

from maskgen.config import Config, Florence2, Limits, NoProposer, NoRefiner, Recorded, Sam, settled
from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding.auto_settings import counts
from maskgen.grounding.grounder import Grounder, Work
from maskgen.outcome import Outcome
from maskgen.pipeline.heartbeat import HeartbeatWriter
from maskgen.pipeline.picture_memory import DECODING_BYTES, PART_BYTES, FoundImage, PictureMemory, parts
from maskgen.pixels import STAND_IN, decode
from maskgen.runtime.device import describe_device
from maskgen.runtime.journal import Journal
from maskgen.runtime.spans import span
from maskgen.runtime.stages import PersistentThreads, StageThreads
from maskgen.runtime.store import Store
from maskgen.sample import Picture, Sample
from maskgen.sharding import shard_table
from maskgen.sharding.commit import Commit, read_commit, shard_name
from maskgen.sharding.reader import read_raw
from maskgen.sharding.writer import Entry, Record, ShardWriter
from maskgen.sources.images import ImageRoot
from maskgen.sources.plan_file import read_shard
from maskgen.sources.rows import place

DEFAULT_CHUNK = 32  # samples handed on together where no model sets a batch

# How far a stage may be ahead of the next. The first two hand on chunks, the others a refiner's batch at a
# time; so at most six chunks of pictures are in memory, and four as long as most samples have a region; fewer
# if the pictures are large (`PictureMemory`).
QUEUE_CAPACITY = {"reading": 2, "proposing": 1, "refining": 2, "encoding": 2}


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; small, so that an actor restarts with it anywhere.

    `kept`: the place of what is known of .tar.gz archives, if that is not `out`.
    """

    config: Config
    data: str
    out: str
    fingerprint: str
    kept: str = ""


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
    """Holds both models and makes shards. A shard's bytes follow from plan, config and quarantine.

    `grounder`: the models.
    """

    def __init__(self, job: Job, name: str, device: str):
        self.job = job
        self._name = name
        self._store = Store(job.out)
        self._journal = Journal(job.out)
        source, limit = job.config.source, job.config.limits.image_bytes
        kept = Store(job.kept or job.out)
        self.images = ImageRoot(place(job.data, source.images), limit, source.allow_links_to, kept)
        self.grounder = Grounder(job.config, job.data, device)
        self._device = describe_device(device) | counts(self.grounder.config)
        self.threads = PersistentThreads()  # for all shards: cuDNN keeps its plans by thread
        self._readers = ThreadPoolExecutor(job.config.resources.threads, "read")
        self._decoding = PictureMemory(DECODING_BYTES)  # a decoder takes several times what it makes

    def describe(self) -> dict[str, object]:
        """Model revisions, generation settings, package versions and the device, for the run's record."""
        return {**self.grounder.describe(), "device": self._device}

    def make(self, task: Task) -> Commit:
        """Ground the shard's samples and publish it. Raises only what is no single sample's fault."""
        return self._store.waited_out(lambda: self._make(task))

    def _make(self, task: Task) -> Commit:
        config = self.job.config
        if task.retry and read_commit(self._store, task.shard) is None:
            task = replace(task, retry=())  # a worker died while rewriting it: nothing to keep
        samples = self._planned(task.shard)
        kept = self._kept(task)
        earlier = read_raw(self._store, task.shard) if task.retry else repeat(None)
        heartbeat = HeartbeatWriter(self._journal, self._name, task.shard, len(samples))
        with ShardWriter(
            self._store,
            task.shard,
            config.split,
            config.grid,
            self.job.fingerprint,
            signals=config.quality != "none",
        ) as writer:
            fresh = [sample for sample in samples if sample.key not in kept]
            with closing(self._entries(fresh, task, writer, heartbeat)) as entries:
                for sample, before in zip(samples, earlier, strict=False):
                    if before and sample.key in kept:
                        row, members = before
                        writer.copy(row, members)
                        heartbeat.finished(sample.key, Outcome(row["outcome"]))
                    else:
                        entry = next(entries)
                        with span("shard.write", host=True):
                            writer.put(entry)
                        heartbeat.finished(sample.key, entry.outcome)
                heartbeat.write()
            return writer.commit()

    def probe(self, task: Task, keys: Sequence[str]) -> None:
        """Ground the suspects one by one and throw the results away: only a killer dies here."""
        heartbeat = HeartbeatWriter(self._journal, self._name, task.shard, 0)
        for sample in self._planned(task.shard):
            if sample.key in keys and _known_failure(sample, task) is None:
                heartbeat.begin([sample.key])
                work = self._fetch(sample, task)
                if work.failure is None:
                    self.grounder.ground([work.pixels], [sample])
                heartbeat.finished(sample.key, None)

    def _planned(self, shard: int) -> list[Sample]:
        with self._store.open("plan.parquet") as file:
            return read_shard(file, shard)

    def _kept(self, task: Task) -> set[str]:
        """Keys of the samples that a retry leaves as they are."""
        if not task.retry:
            return set()
        rows = shard_table.read(self._store, f"{shard_name(task.shard)}.parquet").select(["key", "outcome"])
        return {row["key"] for row in rows.to_pylist() if row["outcome"] not in task.retry}

    def _entries(
        self, samples: list[Sample], task: Task, writer: ShardWriter, heartbeat: HeartbeatWriter
    ) -> Generator[Entry]:
        """What the shard holds of each sample, in order.

        Threads read and decode the images of a chunk, the proposer takes the chunk whole, the refiner hands
        it on batch by batch, then the masks are judged and everything is encoded, and the caller writes it.
        All of this goes on at the same time. What a chunk holds is settled beforehand, so it does not matter
        to the bytes which stage is how far.
        """
        size = 1 if task.alone else chunk_size(self.grounder.config)
        capacity = dict.fromkeys(QUEUE_CAPACITY, 0) if task.alone else QUEUE_CAPACITY
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        memory = PictureMemory(self.job.config.resources.picture_megabytes * 1_000_000)
        with StageThreads("writing", self.threads) as stages, closing(memory):
            heartbeat.stages = stages
            read = stages.stage("reading", self._read(chunks, task, heartbeat, memory), capacity["reading"])
            proposed = stages.stage("proposing", self._propose(read), capacity["proposing"])
            refined = stages.stage("refining", self._refine(proposed), capacity["refining"])
            encoded = stages.stage("encoding", self._encode(refined, writer, memory), capacity["encoding"])
            for entries in encoded:
                yield from entries

    def _read(
        self, chunks: list[list[Sample]], task: Task, heartbeat: HeartbeatWriter, memory: PictureMemory
    ) -> Iterator[list[Work]]:
        for chunk in chunks:
            heartbeat.begin([sample.key for sample in chunk if _known_failure(sample, task) is None])
            for part in parts(self._found(chunk, task), PART_BYTES):
                memory.take(part)
                yield list(self._readers.map(self._decoded, part))

    def _fetch(self, sample: Sample, task: Task) -> Work:
        """The sample with its picture, or with what says why there is none."""
        return self._decoded(self._image(sample, task))

    def _found(self, samples: list[Sample], task: Task) -> Iterator[FoundImage]:
        """The samples' images in order, with a few more being read than were taken."""
        reading: deque[Future[FoundImage]] = deque()
        for sample in samples:
            reading.append(self._readers.submit(self._image, sample, task))
            if len(reading) > 2 * self.job.config.resources.threads:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()

    def _image(self, sample: Sample, task: Task) -> FoundImage:
        """The image's own bytes, or what says why there are none."""
        data: bytes | SampleError = b""
        if known := _known_failure(sample, task):
            data = known
        elif sample.image:
            try:
                with span("read", host=True):
                    data = self.images.read(sample)
            except Exception as error:
                data = _reading_failure(error)
        return FoundImage.of(sample, data, self.job.config.limits)

    def _decoded(self, found: FoundImage) -> Work:
        if isinstance(found.data, SampleError):
            return Work(found.sample, failure=found.data)
        if not found.sample.image:
            return Work(found.sample, STAND_IN)  # planned without an outcome: to be packed as text
        try:
            self._decoding.take([found])
            with span("read", host=True):
                return Work(found.sample, decode(found.data, self.job.config.limits))
        except Exception as error:
            return Work(found.sample, failure=_reading_failure(error))
        finally:
            self._decoding.give(found.sample.key)

    def _propose(self, chunks: Iterable[list[Work]]) -> Iterator[list[Work]]:
        for chunk in chunks:
            self.grounder.propose(chunk)
            yield chunk

    def _refine(self, chunks: Iterable[list[Work]]) -> Iterator[list[Work]]:
        for chunk in chunks:
            yield from self.grounder.refine(chunk)

    def _encode(
        self, pieces: Iterable[list[Work]], writer: ShardWriter, memory: PictureMemory
    ) -> Iterator[list[Entry]]:
        for piece in pieces:
            entries = []
            for work in piece:
                entries.append(_encoded(writer, self._record(work)))
                work.picture = work.refinement = None  # stages hold their last piece until the next
                memory.give(work.sample.key)
            yield entries

    def _record(self, work: Work) -> Record:
        if work.picture is None:
            assert work.failure is not None
            return Record(work.sample, work.failure.outcome, work.failure.reason)
        grounding = self.grounder.judge(work)
        if grounding.outcome.in_tar:
            return Record(work.sample, grounding.outcome, grounding.reason, work.picture, grounding)
        return Record(work.sample, grounding.outcome, grounding.reason)


def read_picture(images: ImageRoot, sample: Sample, limits: Limits) -> Picture:
    """The sample's picture; a SampleError says what is wrong with it, a surprise too."""
    try:
        return decode(images.read(sample), limits)
    except Exception as error:
        raise _reading_failure(error) from None


def chunk_size(config: Config) -> int:
    """Samples proposed together: the larger of the two models' batches, so both run full. `config` is
    resolved."""
    proposer, refiner = config.proposer, config.refiner
    modelless = isinstance(proposer, Recorded) and isinstance(refiner, NoRefiner)
    if modelless or isinstance(proposer, NoProposer):
        return DEFAULT_CHUNK
    return max(
        proposer.together if isinstance(proposer, Florence2) else 1,
        settled(refiner.batch) if isinstance(refiner, Sam) else 1,
    )


def _known_failure(sample: Sample, task: Task) -> SampleError | None:
    """What decides the sample without a look at it: the plan, or its quarantine."""
    if sample.outcome is not None:
        return SampleError(sample.outcome, sample.reason)
    if sample.key in task.quarantined:
        return SampleError(Outcome.QUARANTINED, task.quarantined[sample.key])
    return None


def _reading_failure(error: Exception) -> SampleError:
    """A surprise in one image must not cost the shard; that a storage is away or refuses all is none."""
    if isinstance(error, MaskgenError):
        raise error
    if isinstance(error, SampleError):
        return error.bare()
    return SampleError(Outcome.ERROR, f"reading raised {type(error).__name__}")


def _encoded(writer: ShardWriter, record: Record) -> Entry:
    """The record as the shard holds it; what cannot be encoded is that sample's failure, not the shard's."""
    try:
        with span("shard.encode", host=True):
            return writer.encode(record)
    except (MaskgenError, OSError):
        raise
    except Exception as error:
        return writer.encode(Record(record.sample, Outcome.ERROR, f"encoding raised {type(error).__name__}"))
