"""How many shards an hour one driver can hand out, whatever the number of GPUs."""

import tempfile
import time
from collections import deque
from collections.abc import Sequence

from maskgen.config import Config
from maskgen.outcome import Outcome
from maskgen.pipeline.driver import Driver
from maskgen.pipeline.worker import Job, Task
from maskgen.pipeline.worker_calls import Call, CallResult, WorkerPool
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.sharding.commit import Commit, Digest
from maskgen.sharding.format import SCHEMA

# What Ray takes of the driver for a shard, beside the driver's own work: `python benchmarks/driver.py`.
RAY_SECONDS = 0.001


class NoOpWorkerPool:
    """WorkerPool that are done as soon as they are asked: what is left of a run's time is the driver's."""

    def __init__(self, size: int, journal: Journal):
        self.size = size
        self._journal = journal
        self._names: list[str] = []
        self._calls: dict[str, Call] = {}
        self._ended: deque[CallResult] = deque()

    def start(self, job: Job) -> str:
        name = f"{len(self._names):03d}"
        self._names.append(name)
        self._journal.write_heartbeat(Heartbeat(name, shard=0, planned=1000, suspects=("0" * 20,) * 300))
        self._take(Call(name, "load"), {})
        return name

    def names(self) -> list[str]:
        return list(self._names)

    def idle(self) -> list[str]:
        return [name for name in self._names if name not in self._calls]

    def calls(self) -> list[Call]:
        return list(self._calls.values())

    def make(self, worker: str, task: Task) -> None:
        self._take(Call(worker, "make", task), nothing(task))

    def probe(self, worker: str, task: Task, keys: Sequence[str]) -> None:
        self._take(Call(worker, "probe", task), None)

    def wait(self, seconds: float) -> list[CallResult]:
        ended, self._ended = list(self._ended), deque()
        for one in ended:
            del self._calls[one.call.worker]
        return ended

    def kill(self, worker: str) -> None:
        self._names.remove(worker)

    def _take(self, call: Call, value: object) -> None:
        self._calls[call.worker] = call
        self._ended.append(CallResult(call, value))


def nothing(task: Task) -> Commit:
    """The smallest commit there is."""
    return Commit(
        schema=SCHEMA,
        shard=task.shard,
        planned=1,
        samples=0,
        outcomes={Outcome.NO_IMAGE: 1},
        tar=Digest(),
        parquet=Digest(),
        fingerprint="0" * 16,
    )


def measure(config: Config, workers: int = 64, shards: int = 500) -> float:
    """Shards an hour that this machine's driver hands out, settles and notes down; takes a moment.

    The workers are `NoOpWorkerPool`, without Ray, whose share is added as it was measured: `RAY_SECONDS`.
    """
    with tempfile.TemporaryDirectory(prefix="maskgen-ceiling-") as out:
        journal = Journal(out)
        wall, _ = drive(NoOpWorkerPool(workers, journal), Job(config, out, out, "0" * 16), journal, shards)
    return 3600 / (wall + RAY_SECONDS)


def drive(cluster: WorkerPool, job: Job, journal: Journal, shards: int) -> tuple[float, float]:
    """Wall-clock and processor seconds that a driver takes for one of `shards` shards, once it has begun."""
    done: list[tuple[float, float]] = []
    Driver(
        cluster=cluster,
        job=job,
        journal=journal,
        tasks=[Task(shard, {}, rows=1000) for shard in range(shards)],
        on_commit=lambda task, commit: done.append((time.monotonic(), time.process_time())),
        on_tick=lambda heartbeats: None,
        on_loaded=lambda models: None,
        should_stop=lambda: False,
        say=lambda line: None,
    ).run()
    wall, processor = (end - begin for begin, end in zip(done[0], done[-1], strict=True))
    return wall / (shards - 1), processor / (shards - 1)
