"""A worker's stages at the same time: the bytes of one after the other, every error told, memory bounded."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.pipeline import worker as workers
from maskgen.pipeline.heartbeat import HeartbeatWriter
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.store import Store
from maskgen.scenes.scene_dataset import write_scenes
from maskgen.sharding.writer import ShardWriter
from maskgen.sources.plan import make_plan

ROWS = 24
CHUNK = 2
FILES = ("000000.tar", "000000.parquet", "000000.json")
SERIAL = dict.fromkeys(workers.QUEUE_CAPACITY, 0)

# Each stage of a worker, and what it calls.
CALLS = {
    "reading": (HeartbeatWriter, "begin"),
    "proposing": (workers.Grounder, "propose"),
    "refining": (workers.Grounder, "refine"),
    "encoding": (ShardWriter, "encode"),
    "writing": (ShardWriter, "put"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures with a box each; one is broken and one missing."""
    root = tmp_path / "data"
    root.mkdir()
    draw = np.random.default_rng(0)
    rows, boxes = [], {}
    for number in range(ROWS):
        name = f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (30, 40 + number, 3), np.uint8)).save(root / name)
        rows.append({"id": number, "image": name, "conversations": [{"from": "human", "value": "Where?"}]})
        if number % 5:
            boxes[name] = [{"label": "thing", "box": [5, 5, 25, 20]}]
    (root / "7.png").write_bytes(b"no picture")
    (root / "11.png").unlink()
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


TREE: dict[str, object] = {
    "split": "test",
    "source": {"files": ["rows.jsonl"]},
    "text": {"query": "question"},
    "proposer": {"kind": "recorded", "file": "boxes.json"},
    "refiner": {"kind": "none"},
}


def job(data: Path, out: Path, **sections: object) -> Job:
    made = Job(config.parse({**TREE, **sections}, "the test"), str(data), str(out), "f" * 16)
    with Store(made.out).publish("plan.parquet") as path:
        make_plan(made.config, made.data, path)
    return made


@pytest.fixture
def worker(data, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "DEFAULT_CHUNK", CHUNK)
    return ShardWorker(job(data, tmp_path / "out"), "w", "cpu")


def made(worker: ShardWorker, task: Task | None = None) -> list[bytes]:
    worker.make(task or Task(0, {}))
    return [Path(worker.job.out, name).read_bytes() for name in FILES]


def lit(out: str | Path) -> Heartbeat:
    heartbeat = Journal(str(out)).heartbeat("w")
    assert heartbeat is not None
    return heartbeat


def stage_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("maskgen-")}


def wrapped(monkeypatch, stage, around):
    """Put `around(call, *arguments)` in place of what a stage calls."""
    owner, name = CALLS[stage]
    call = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments: around(call, *arguments))


@pytest.mark.parametrize("slow", [None, *CALLS])
def test_bytes_are_those_of_one_stage_after_the_other(worker, monkeypatch, slow):
    before = stage_threads()
    monkeypatch.setattr(workers, "QUEUE_CAPACITY", SERIAL)
    serial = made(worker)
    chance = random.Random(slow)
    if slow:

        def dawdle(call, *arguments):
            time.sleep(chance.uniform(0, 0.004))
            return call(*arguments)

        wrapped(monkeypatch, slow, dawdle)
    for most in (1, 4):
        monkeypatch.setattr(workers, "QUEUE_CAPACITY", {name: chance.randint(1, most) for name in SERIAL})
        assert made(worker) == serial
    assert len(stage_threads() - before) == len(SERIAL)


def test_stages_keep_their_threads_from_shard_to_shard(worker, monkeypatch):
    """What a library keeps by thread, such as cuDNN its plans, is made once."""
    before, seen = stage_threads(), set()

    def note(call, *arguments):
        seen.add((threading.current_thread().name, threading.get_ident()))
        return call(*arguments)

    for stage in ("proposing", "refining"):
        wrapped(monkeypatch, stage, note)
    for _ in range(3):
        made(worker)
    assert sorted(name for name, _ in seen) == ["maskgen-proposing", "maskgen-refining"]
    threads = stage_threads() - before
    assert len(threads) == len(SERIAL)
    del worker.threads
    for thread in threads:
        thread.join(5)
    assert not stage_threads() & threads


@pytest.mark.slow
def test_bytes_are_the_same_with_models(tmp_path, monkeypatch, one_thread):
    write_scenes(str(tmp_path / "data"), 16, 1_000_000)
    demo = config.load("demo").model_dump()
    sections = {
        "source": {"files": ["scenes.jsonl"]},
        "proposer": demo["proposer"] | {"batch": 2, "slots": 2},
        "refiner": demo["refiner"] | {"batch": 2},
    }
    worker = ShardWorker(job(tmp_path / "data", tmp_path / "out", **sections), "w", "cpu")
    overlapped = made(worker)
    monkeypatch.setattr(workers, "QUEUE_CAPACITY", SERIAL)
    assert made(worker) == overlapped
    assert json.loads(overlapped[2])["outcomes"]["ok"] > 8


@pytest.mark.parametrize("stage", CALLS)
@pytest.mark.parametrize("error", [MaskgenError("the disk is full"), RuntimeError("CUDA error: lost")])
def test_what_breaks_a_stage_is_told_and_the_worker_goes_on(worker, monkeypatch, stage, error):
    before = stage_threads()
    calm = made(worker)
    for name in FILES:
        Path(worker.job.out, name).unlink()
    calls = 0

    def break_the_third(call, *arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return call(*arguments)

    with monkeypatch.context() as broken:
        wrapped(broken, stage, break_the_third)
        if stage == "encoding" and not isinstance(error, MaskgenError):
            made(worker)  # an exception in encoding a sample is that sample's
        else:
            with pytest.raises(type(error), match=str(error)):
                worker.make(Task(0, {}))
            assert not any(Path(worker.job.out, name).exists() for name in FILES)
    assert made(worker) == calm
    assert len(stage_threads() - before) == len(SERIAL)


@pytest.mark.slow
def test_a_process_killed_in_any_stage_leaves_its_suspects_and_no_file(data, tmp_path):
    for stage, (owner, name) in CALLS.items():
        out = tmp_path / stage
        job(data, out)
        done = subprocess.run(
            [sys.executable, "-c", _SUICIDE.format(owner=owner.__name__, name=name), str(data), str(out)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        named = set(lit(out).suspects)
        in_hand = set(Path(out, "in_hand.txt").read_text().split())
        assert in_hand
        assert in_hand <= named, stage
        assert not any(Path(out, name).exists() for name in FILES)


_SUICIDE = """
import os, signal, sys
from pathlib import Path
import test_overlap as test
from maskgen.pipeline import worker as workers
from maskgen.pipeline.heartbeat import HeartbeatWriter
from maskgen.sharding.writer import ShardWriter

workers.DEFAULT_CHUNK = test.CHUNK
Grounder = workers.Grounder
call, calls = {owner}.{name}, 0

def keys(thing):
    if isinstance(thing, str):
        return [thing]
    if isinstance(thing, list):
        return [key for one in thing for key in keys(one)]
    if hasattr(thing, "row"):
        return [thing.row["key"]]
    return [thing.sample.key]

def die(owner, argument):
    global calls
    calls += 1
    if calls == 4:
        if "{name}" == "begin":  # what it names from now on, it must have named
            call(owner, argument)
        Path(sys.argv[2], "in_hand.txt").write_text(" ".join(keys(argument)))
        os.kill(os.getpid(), signal.SIGKILL)
    return call(owner, argument)

{owner}.{name} = die
made = test.Job(test.config.parse(test.TREE, "the test"), sys.argv[1], sys.argv[2], "f" * 16)
workers.ShardWorker(made, "w", "cpu").make(workers.Task(0, {{}}))
"""


@pytest.mark.parametrize("slow", ["refining", "encoding", "writing"])
def test_pictures_in_memory_are_bounded(worker, monkeypatch, slow):
    alive: set[int] = set()
    most = 0
    decode = workers.decode

    def counted(*arguments):
        nonlocal most
        picture = decode(*arguments)
        alive.add(id(picture))
        weakref.finalize(picture, alive.discard, id(picture))
        most = max(most, len(alive))
        return picture

    monkeypatch.setattr(workers, "decode", counted)

    def dawdle(call, *arguments):
        time.sleep(0.01)
        return call(*arguments)

    wrapped(monkeypatch, slow, dawdle)
    made(worker)
    assert 2 * CHUNK < most <= 6 * CHUNK
    assert not alive


def test_a_sample_made_alone_is_the_only_one_in_hand(worker, monkeypatch):
    seen = []
    read = worker.images.read

    def watched(sample):
        seen.append((lit(worker.job.out).suspects, sample.key))
        return read(sample)

    monkeypatch.setattr(worker.images, "read", watched)
    whole = made(worker)
    seen.clear()
    assert made(worker, Task(0, {}, alone=True)) == whole
    assert len(seen) == ROWS - 1, "nobody looks for the image that planning did not find"
    assert all(suspects == (key,) for suspects, key in seen)


def test_the_heartbeat_says_how_busy_the_stages_were(worker):
    made(worker)
    heartbeat = lit(worker.job.out)
    assert heartbeat.suspects == ()
    assert [stage["stage"] for stage in heartbeat.stage_times["stages"]] == list(CALLS)
