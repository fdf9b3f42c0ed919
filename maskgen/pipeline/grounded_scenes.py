"""Drawn scenes grounded in this process, without Ray: what small trainings learn from."""

from collections.abc import Callable
from pathlib import Path

from maskgen import config as pipelines
from maskgen.pipeline.run import RunRequest
from maskgen.pipeline.run import prepare as plan
from maskgen.pipeline.worker import ShardWorker, Task
from maskgen.runtime.lease import Lease
from maskgen.runtime.store import Store
from maskgen.scenes.scene_dataset import DialogueMaker, write_scenes
from maskgen.sharding.commit import read_commit
from maskgen.sharding.index import finish


def ground_scenes(
    out: Path,
    scenes: Path,
    count: int,
    seed: int,
    say: Callable[[str], None],
    known: bool = False,
    dialogue: DialogueMaker | None = None,
) -> str:
    """A finished set at `out` of `count` scenes from `seed` on, drawn into `scenes`; what is there is left.

    Masks are those of the small models, or with `known` the true ones. `dialogue`: see `scenes.write_scenes`.
    """
    overrides = ["source.scenes=null", "shards.size=100"]
    if known:
        overrides += ["proposer={kind: recorded, file: truth.json}", "refiner={kind: none}"]
    config = pipelines.load("demo", overrides=overrides)
    write_scenes(scenes, count, seed, dialogue)
    store = Store(str(out))
    with Lease(str(out)):
        job, rows = plan(RunRequest(config, str(scenes), str(out)), store, lambda _: None)
        missing = [shard for shard in range(len(rows)) if read_commit(store, shard) is None]
        if missing:
            say(f"grounding {sum(rows[shard] for shard in missing)} scenes into {out}")
            worker = ShardWorker(job, "demo", "cpu")
            for shard in missing:
                worker.make(Task(shard, {}, rows[shard]))
            finish(store, job.fingerprint)
    return str(out)
