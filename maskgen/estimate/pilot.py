"""`maskgen plan --pilot N`: ground a few rows for real, in this process, and reckon the whole from it."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from maskgen.config import Config, Select, Shards
from maskgen.grounding.auto_settings import in_words, resolve
from maskgen.pipeline.worker import Job, ShardWorker, Task, chunk_size
from maskgen.runtime.device import choose_device, device_name
from maskgen.runtime.store import Store
from maskgen.sources.plan import make_plan
from maskgen.sources.plan_file import count_rows

FINGERPRINT = "pilot"
CHUNKS = 5  # fewer, and the worker's stages hardly work at the same time


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


def run_pilot(
    config: Config, data: str, rows: int, say: Callable[[str], None], kept: Store | None = None
) -> Pilot:
    """Plan `rows` and a warm-up of the same kind, ground them, and throw the shards away.

    `kept`: as in `make_plan`.
    """
    here = choose_device()
    config = resolve(config, here)
    say(f"pilot: {in_words(config) or 'no model'} on {device_name(here)}")
    chunk = chunk_size(config)
    # Shard 0 is measured; what is left over warms up before it (kernels, caches, disks).
    small = config.model_copy(
        update={
            "select": Select(count=rows + chunk, seed=config.select.seed),
            "shards": Shards(size=max(rows, chunk)),
        }
    )
    with tempfile.TemporaryDirectory(prefix="maskgen-pilot-") as out:
        store = Store(out)
        with store.publish("plan.parquet") as path:
            make_plan(small, data, path, kept=kept or store)
        with store.open("plan.parquet") as file:
            sizes = count_rows(file)
        say("pilot: loading the models")
        began = time.monotonic()
        worker = ShardWorker(Job(small, data, out, FINGERPRINT, (kept or store).url), "pilot", str(here))
        loaded = time.monotonic()
        if len(sizes) == 1:
            say(f"pilot: only {sizes[0]} rows, so they are measured without a warm-up")
        else:
            worker.make(Task(1, {}))
        say(f"pilot: grounding {sizes[0]} rows")
        if sizes[0] < CHUNKS * chunk:
            say(f"note: a real shard is faster than so few rows; --pilot {CHUNKS * chunk} measures it better")
        started = time.monotonic()
        commit = worker.make(Task(0, {}))
        return Pilot(
            rows=commit.planned,
            seconds=time.monotonic() - started,
            shard_bytes=commit.tar.bytes + commit.parquet.bytes,
            loading_seconds=loaded - began,
            device=device_name(here),
        )
