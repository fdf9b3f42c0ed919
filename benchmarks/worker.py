"""One worker, from plan to commit: its stages at the same time against one after the other, and both against
the bare forwards of the models.

    python benchmarks/worker.py --threads 1

The embedded models ground drawn scenes, one shard a turn, the two ways in turn. The forwards are timed inside
a shard made one stage after the other; every time is the smallest of `--rounds`. On a busy machine the wall's
clock tells little, the processor's more. Ends with whether both ways made the same bytes.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from maskgen import config
from maskgen.draw import text
from maskgen.pipeline import worker as workers
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.runtime.journal import Journal
from maskgen.runtime.spans import Recorder
from maskgen.runtime.store import Store
from maskgen.sources.data_root import ensure
from maskgen.sources.plan import make_plan
from maskgen.views import stage_times

NAME = "bench"
SHARD = "000000"
FORWARDS = ("florence2.encode", "florence2.decode", "sam.encode", "sam.decode")


@dataclass
class Took:
    """Seconds on the wall's clock, and seconds on the processor of all threads together."""

    wall: float = 0.0
    processor: float = 0.0

    @contextmanager
    def more(self) -> Iterator[None]:
        """Add what goes on inside."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor


def forwards(worker: ShardWorker) -> Took:
    """What only a model can do, in a shard: encoders, decoder steps, mask decoder; no searching, no pre- or
    postprocessing."""
    with Recorder() as recorder:
        shard(worker)
    return Took(
        sum(recorder.seconds[name] for name in FORWARDS), sum(recorder.processor[name] for name in FORWARDS)
    )


@contextmanager
def one_after_the_other() -> Iterator[None]:
    with mock.patch.object(workers, "QUEUE_CAPACITY", dict.fromkeys(workers.QUEUE_CAPACITY, 0)):
        yield


def shard(worker: ShardWorker) -> Took:
    took = Took()
    with took.more():
        worker.make(Task(0, {}))
    return took


def bytes_of(out: str) -> list[bytes]:
    return [Path(out, f"{SHARD}.{ending}").read_bytes() for ending in ("tar", "parquet", "json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, and that read images")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    overrides = [
        f"source.scenes.count={options.scenes}",
        f"shards.size={options.scenes}",
        f"resources.threads={options.threads}",
    ]
    settings = config.load("demo", overrides=overrides)
    with tempfile.TemporaryDirectory(prefix="maskgen-bench-") as folder:
        data, out = f"{folder}/data", f"{folder}/out"
        ensure(settings, data, lambda _: None)
        with Store(out).publish("plan.parquet") as path:
            make_plan(settings, data, path)
        worker = ShardWorker(Job(settings, data, out, "f" * 16), NAME, "cpu")
        shard(worker)  # warm-up
        overlapped, serial, bare = [], [], []
        for _ in range(options.rounds):
            with one_after_the_other():
                serial.append(shard(worker))
                one = bytes_of(out)
                bare.append(forwards(worker))
            overlapped.append(shard(worker))
            other = bytes_of(out)
        heartbeat = Journal(out).heartbeats()[NAME]
    print(f"{options.scenes} scenes, one shard, {options.threads} thread(s)")
    ways = {"bare forwards": bare, "overlapped": overlapped, "serial": serial}
    best = {
        name: Took(min(one.wall for one in took), min(one.processor for one in took))
        for name, took in ways.items()
    }
    for name, took in best.items():
        rate = options.scenes / took.wall
        print(
            f"{name:<14}{took.wall:>7.2f} s  ({rate:6.1f} images/s), {took.processor:6.2f} s on the processor"
        )
    both = best["overlapped"]
    for name in ("serial", "bare forwards"):
        wall, processor = both.wall / best[name].wall, both.processor / best[name].processor
        print(f"overlapped / {name:<14} {wall:.3f}, on the processor {processor:.3f}")
    print(f"the same bytes: {'yes' if one == other else 'NO'}")
    print(
        "\n".join(
            text.table(
                [stage_times.HEAD, *stage_times.table_rows(stage_times.stage_loads([], [heartbeat]))],
                right=frozenset({1}),
            )
        )
    )


if __name__ == "__main__":
    main()
