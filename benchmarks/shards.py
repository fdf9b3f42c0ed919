"""What the driver of a set with very many shards takes: planned, run, killed, resumed, indexed.

    python benchmarks/shards.py --shards 10000

The workers do nothing: each shard is one row whose table was written beforehand, so time and memory are
those of planning, of the driver and of Ray. The run goes on in a process of its own, which is killed when
half of the shards are there. Seconds are the clock's, and the process's own on the processor.
"""

import argparse
import functools
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from maskgen import config
from maskgen.outcome import Outcome
from maskgen.pipeline import ray_cluster
from maskgen.pipeline.run import RunRequest, run
from maskgen.pipeline.worker import Job, Task
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.store import Store
from maskgen.sample import Query, Sample
from maskgen.sharding.commit import Commit, publish, shard_name
from maskgen.sharding.writer import Record, ShardWriter

SETTINGS = [
    "source.scenes=null", "source.truth=''", "source.files=[rows.jsonl]", "shards.size=1",
    "proposer={kind: none}", "refiner={kind: none}",
]  # fmt: skip


class NoWork:
    """An actor whose every shard is the same table of one row."""

    def load(self, job: Job, name: str, threads: int) -> dict[str, object]:
        self._store = Store(job.out)
        Journal(job.out).write_heartbeat(Heartbeat(name))
        with tempfile.TemporaryDirectory() as folder:
            there = Store(folder)
            with ShardWriter(there, 0, job.config.split, job.config.grid, job.fingerprint) as writer:
                sample = Sample("k", "k", "", (), Query("", ()))
                writer.add(Record(sample, Outcome.NO_IMAGE, "no work"))
                self._commit = writer.commit()
            self._table = there.read_bytes(f"{shard_name(0)}.parquet")
        return {"device": {"name": "none", "dtype": "float32"}}

    def make(self, task: Task) -> Commit:
        commit = self._commit.model_copy(update={"shard": task.shard})
        self._store.write_bytes(f"{shard_name(task.shard)}.parquet", self._table, durable=False)
        publish(self._store, commit)
        return commit


def drive(data: str, out: str, actors: int) -> None:
    """The run, in this process; what it took is the last line that it prints."""
    ray_cluster.RayCluster = functools.partial(ray_cluster.RayCluster, actor=NoWork)  # type: ignore[misc]
    memory = {"began": _resident()}

    def say(line: str) -> None:
        print(f"{time.perf_counter():.2f} {line}", file=sys.stderr)
        if line.startswith("loading"):
            memory["driving"] = _resident()

    wall, processor = time.perf_counter(), time.process_time()
    settings = config.load("demo", overrides=[*SETTINGS, f"resources.actors={actors}"])
    summary = run(RunRequest(settings, data, out), say)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(
        json.dumps(
            {
                "wall": time.perf_counter() - wall,
                "processor": time.process_time() - processor,
                "made": summary.made,
                "memory": peak - memory.get("driving", memory["began"]),
                "peak": peak,
            }
        )
    )


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def started(data: str, out: str, actors: int) -> "subprocess.Popen[str]":
    """The run in a process of its own."""
    command = [sys.executable, __file__, "--drive", data, out, "--actors", str(actors)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


def finished(process: "subprocess.Popen[str]", what: str, shards: int) -> None:
    """Wait for it and print what it took a shard."""
    told = process.communicate()[0]
    assert process.returncode == 0, told
    took = json.loads(told.splitlines()[-1])
    print(
        f"{what:<22}{took['made']:>8,} shards made{took['wall']:>8.1f} s  "
        f"{1000 * took['wall'] / shards:7.2f} ms a shard of the set, "
        f"{1000 * took['processor'] / shards:.2f} of them the driver's own; memory "
        f"{took['memory'] / shards / 1024:.2f} KiB a shard, {took['peak'] >> 20:,} MiB at most"
    )


def killed_half_way(data: str, out: Path, actors: int, shards: int) -> None:
    """Begin the run, and end all of it when half of the shards are there."""
    process = started(data, str(out), actors)
    began, first = time.perf_counter(), 0.0
    while (done := sum(1 for _ in out.glob("[0-9]*.json"))) < shards // 2:
        assert process.poll() is None, "the run ended early"
        first = first or (time.perf_counter() if done else 0.0)
        time.sleep(0.2)
    spent = time.perf_counter() - first
    own = sum(psutil.Process(process.pid).cpu_times()[:2])
    print(
        f"{'planned, run, killed':<22}{done:>8,} shards made{time.perf_counter() - began:>8.1f} s  "
        f"{1000 * spent / done:7.2f} ms a shard since the first; the driver's own {1000 * own / done:.2f}, "
        f"with its start; memory {psutil.Process(process.pid).memory_info().rss >> 20:,} MiB"
    )
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.send_signal(signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--drive", nargs=2, metavar=("DATA", "OUT"), help="for this script itself")
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive, options.actors)
        return
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "out")
        data.mkdir()
        with (data / "rows.jsonl").open("w") as rows:
            for number in range(options.shards):
                turns = [{"from": "human", "value": f"row {number}"}, {"from": "gpt", "value": "yes"}]
                rows.write(json.dumps({"id": str(number), "conversations": turns}) + "\n")
        killed_half_way(str(data), out, options.actors, options.shards)
        finished(started(str(data), str(out), options.actors), "resumed, indexed", options.shards)
        finished(started(str(data), str(out), options.actors), "asked again", options.shards)


if __name__ == "__main__":
    main()
