"""How many shards an hour can one driver hand out? With workers that do nothing, without Ray and with it.

    python benchmarks/driver.py

Without Ray the workers are done as soon as they are asked. With Ray they are real actors, which publish the
smallest commit there is. Time is the wall's, and the driver's own seconds on the processor: with few cores
the actors stand in the driver's way, and only the latter tells what a driver on a machine of its own could
do. What it needs more with Ray than without is `RAY_SECONDS` in maskgen/estimate/driver_ceiling.py.
"""

import argparse
import tempfile

from maskgen import config
from maskgen.estimate import driver_ceiling
from maskgen.pipeline.ray_cluster import RayCluster
from maskgen.pipeline.worker import Job, Task
from maskgen.pipeline.worker_calls import WorkerPool
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.store import Store
from maskgen.sharding.commit import Commit, publish


class NoWork:
    """An actor that commits an empty shard."""

    def load(self, job: Job, name: str, threads: int) -> dict[str, object]:
        self._store = Store(job.out)
        Journal(job.out).write_heartbeat(Heartbeat(name))
        return {}

    def make(self, task: Task) -> Commit:
        publish(self._store, commit := driver_ceiling.nothing(task))
        return commit


def measured(workers: WorkerPool, out: str, journal: Journal, shards: int) -> tuple[float, float]:
    """Wall-clock and processor seconds a shard."""
    return driver_ceiling.drive(workers, Job(config.load("demo"), out, out, "0" * 16), journal, shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--actors", type=int, default=2, help="real ones")
    parser.add_argument("--workers", default="1,8,64,512", help="numbers of workers without Ray")
    options = parser.parse_args()
    found: list[tuple[str, tuple[float, float]]] = []
    for count in map(int, options.workers.split(",")):
        with tempfile.TemporaryDirectory() as out:
            journal = Journal(out)
            idle = driver_ceiling.NoOpWorkerPool(count, journal)
            found.append((f"{count} workers", measured(idle, out, journal, options.shards)))
    with tempfile.TemporaryDirectory() as out, RayCluster("", options.actors, actor=NoWork) as cluster:
        found.append((f"{options.actors} Ray actors", measured(cluster, out, Journal(out), options.shards)))
    for name, (wall, processor) in found:
        print(
            f"{name:<14}{3600 / wall:>12,.0f} shards/hour  {1000 * wall:6.2f} ms a shard, "
            f"{1000 * processor:.2f} ms of them the driver's own"
        )
    without = [processor for name, (_, processor) in found if "Ray" not in name]
    print(f"Ray's share    {1000 * (found[-1][1][1] - min(without)):.2f} ms of the driver's a shard")


if __name__ == "__main__":
    main()
