"""`maskgen plan --pilot N`: ground a few rows for real, in this process, and reckon the whole from it."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from maskgen.config import Config, Select, Shards
from maskgen.running.worker import Job, ShardWorker, Task
from maskgen.sources.plan import count_rows, make_plan
from maskgen.store import Store

FINGERPRINT = "pilot"


@dataclass(frozen=True)
class Pilot:
    """What a pilot measured. `rows`: planned rows it grounded, after a warm-up shard; `seconds`: for
    them, loading not counted; `shard_bytes`: what they took on disk."""

    rows: int
    seconds: float
    shard_bytes: int
    loading_seconds: float
    device: str

    @property
    def rate(self) -> float:
        """Rows a second of one worker."""
        return self.rows / self.seconds

    def hours(self, planned: int, workers: int = 1) -> float:
        """Wall-clock hours for `planned` rows on `workers` devices like this one."""
        return planned / self.rate / workers / 3600


def fly(config: Config, data: str, rows: int, say: Callable[[str], None]) -> Pilot:
    """Plan `rows` + a warm-up of the same kind, ground them, and throw the shards away."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    warm_up = max(getattr(config.proposer, "together", 1), getattr(config.refiner, "batch", 1))
    # Shard 0 warms up (kernels, caches, disks); the rest is measured.
    small = config.model_copy(
        update={
            "select": Select(count=rows + warm_up, seed=config.select.seed),
            "shards": Shards(size=warm_up),
        }
    )
    with tempfile.TemporaryDirectory(prefix="maskgen-pilot-") as out:
        store = Store(out)
        with store.publish("plan.parquet") as path:
            make_plan(small, data, path)
        with store.open("plan.parquet") as file:
            sizes = count_rows(file)
        say(f"pilot: loading the models on {device}")
        began = time.monotonic()
        worker = ShardWorker(Job(small, data, out, FINGERPRINT), "pilot", device)
        loaded = time.monotonic()
        if len(sizes) == 1:
            say(f"pilot: only {sizes[0]} rows, so they are measured without a warm-up")
        else:
            worker.make(Task(0, {}))
        measured = range(1, len(sizes)) if len(sizes) > 1 else range(1)
        say(f"pilot: grounding {sum(sizes[shard] for shard in measured)} rows")
        started = time.monotonic()
        commits = [worker.make(Task(shard, {})) for shard in measured]
        return Pilot(
            rows=sum(commit.planned for commit in commits),
            seconds=time.monotonic() - started,
            shard_bytes=sum(commit.tar.bytes + commit.parquet.bytes for commit in commits),
            loading_seconds=loaded - began,
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        )
