"""One shard from plan to commit, without Ray: recorded polygons, no refiner, a few drawn images."""

import json
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskgen import config
from maskgen.outcome import Outcome
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.runtime.journal import Journal
from maskgen.runtime.store import Store
from maskgen.sharding import format
from maskgen.sharding.reader import read_shard
from maskgen.sources.plan import find_again, make_plan

ROWS = 9


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine rows: seven pictures (one of them broken), one missing file, one row without an image."""
    root = tmp_path / "data"
    root.mkdir()
    rows = []
    for number in range(ROWS):
        picture = BytesIO()
        Image.new("RGB", (40 + number, 30), (9 * number, 90, 120)).save(picture, "PNG")
        if number < 7:
            (root / f"{number}.png").write_bytes(picture.getvalue() if number != 3 else b"no picture")
        row = {
            "id": number,
            "conversations": [{"from": "human", "value": f"<image>\nWhere is number {number}?"}],
        }
        rows.append(row if number == 8 else {**row, "image": f"{number}.png"})
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    box = [{"label": "thing", "box": [5, 5, 25, 20]}]
    (root / "boxes.json").write_text(json.dumps({f"{number}.png": box for number in range(6)}))
    return root


def job(data: Path, out: Path, **sections: object) -> Job:
    tree = {
        "split": "test",
        "source": {"files": ["rows.jsonl"]},
        "text": {"query": "question"},
        "proposer": {"kind": "recorded", "file": "boxes.json"},
        "refiner": {"kind": "none"},
        "shards": {"size": 100},
        "resources": {"threads": 2},
        **sections,
    }
    made = Job(config.parse(tree, "the test"), str(data), str(out), "f" * 16)
    with Store(made.out).publish("plan.parquet") as path:
        make_plan(made.config, made.data, path)
    return made


def outcomes(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "000000.parquet").to_pylist()
    return {row["id"]: row["outcome"] for row in rows}


def test_every_row_has_its_outcome(data, tmp_path):
    made = job(data, tmp_path / "out")
    commit = ShardWorker(made, "w", "cpu").make(Task(0, {}))
    found = outcomes(tmp_path / "out")
    assert found == {
        **{str(number): "ok" for number in (0, 1, 2, 4, 5)},
        "3": "image_corrupt",
        "6": "no_grounding",
        "7": "image_missing",
        "8": "no_image",
    }
    assert (commit.planned, commit.samples) == (9, 6)
    kept = list(read_shard(Store(made.out), 0))
    assert sorted(sample.fields.id for sample in kept) == ["0", "1", "2", "4", "5", "6"]


def test_the_bytes_do_not_depend_on_threads_or_on_how_often(data, tmp_path):
    one = job(data, tmp_path / "one")
    two = job(data, tmp_path / "two", resources={"threads": 7})
    ShardWorker(one, "a", "cpu").make(Task(0, {}))
    again = ShardWorker(two, "b", "cpu")
    again.make(Task(0, {}))
    again.make(Task(0, {}))
    for name in ("000000.tar", "000000.parquet", "000000.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_sample_made_alone_is_the_same(data, tmp_path):
    one, two = job(data, tmp_path / "one"), job(data, tmp_path / "two")
    ShardWorker(one, "a", "cpu").make(Task(0, {}))
    ShardWorker(two, "b", "cpu").make(Task(0, {}, alone=True))
    assert (tmp_path / "one" / "000000.tar").read_bytes() == (tmp_path / "two" / "000000.tar").read_bytes()


def test_quarantine_takes_one_sample_out_and_leaves_the_rest(data, tmp_path):
    made = job(data, tmp_path / "out")
    worker = ShardWorker(made, "w", "cpu")
    worker.make(Task(0, {}))
    key = next(
        row["key"] for row in pq.read_table(tmp_path / "out/000000.parquet").to_pylist() if row["id"] == "2"
    )
    worker.make(Task(0, {key: "it kills"}))
    assert outcomes(tmp_path / "out")["2"] == "quarantined"
    assert key not in [sample.key for sample in read_shard(Store(made.out), 0)]


def test_retry_redoes_only_what_it_is_asked_to(data, tmp_path):
    made = job(data, tmp_path / "out")
    worker = ShardWorker(made, "w", "cpu")
    worker.make(Task(0, {}))
    healed = (data / "0.png").read_bytes()
    (data / "3.png").write_bytes(healed)
    (data / "7.png").write_bytes(healed)
    (data / "0.png").write_bytes(b"broken since")  # a sample that went well is not looked at again
    store = Store(made.out)
    with store.open("plan.parquet") as plan, store.publish("plan.parquet") as path:
        assert find_again(made.config, made.data, plan, path).found == 1
    worker.make(Task(0, {}, retry=(Outcome.IMAGE_MISSING,)))
    found = outcomes(tmp_path / "out")
    assert (found["7"], found["3"], found["0"]) == ("no_grounding", "image_corrupt", "ok")
    order = [row["key"] for row in pq.read_table(tmp_path / "out/000000.parquet").to_pylist()]
    assert order == pq.read_table(tmp_path / "out/plan.parquet")["key"].to_pylist()


def test_a_retry_that_was_killed_while_publishing_makes_the_shard_whole(data, tmp_path):
    made = job(data, tmp_path / "out")
    worker = ShardWorker(made, "w", "cpu")
    worker.make(Task(0, {}))
    (tmp_path / "out" / "000000.json").unlink()  # a rewrite takes the commit away first
    commit = worker.make(Task(0, {}, retry=(Outcome.IMAGE_MISSING,)))
    assert (commit.planned, commit.samples) == (9, 6)


def test_the_heartbeat_names_the_samples_before_they_are_touched(data, tmp_path, monkeypatch):
    made = job(data, tmp_path / "out")
    worker = ShardWorker(made, "w", "cpu")
    journal = Journal(made.out)
    unnamed = []
    read = worker.images.read

    def watched(sample):
        heartbeat = journal.heartbeat("w")
        if heartbeat is None or sample.key not in heartbeat.suspects:
            unnamed.append(sample.key)
        return read(sample)

    monkeypatch.setattr(worker.images, "read", watched)
    worker.make(Task(0, {}))
    worker.probe(
        Task(0, {}), [row["key"] for row in pq.read_table(tmp_path / "out/plan.parquet").to_pylist()]
    )
    assert unnamed == []


def test_a_sample_that_cannot_be_encoded_costs_itself_alone(data, tmp_path, monkeypatch):
    made = job(data, tmp_path / "out")
    encode = format.encode

    def picky(sample, *rest):
        if sample.id == "4":
            raise ValueError("no number")
        return encode(sample, *rest)

    monkeypatch.setattr(format, "encode", picky)
    commit = ShardWorker(made, "w", "cpu").make(Task(0, {}))
    assert outcomes(tmp_path / "out")["4"] == "error"
    assert (commit.planned, commit.samples) == (9, 5)


def test_an_unexpected_exception_costs_one_sample(data, tmp_path, monkeypatch):
    made = job(data, tmp_path / "out")
    worker = ShardWorker(made, "w", "cpu")
    read = worker.images.read

    def moody(sample):
        if sample.id == "4":
            raise ZeroDivisionError
        return read(sample)

    monkeypatch.setattr(worker.images, "read", moody)
    worker.make(Task(0, {}))
    rows = pq.read_table(tmp_path / "out/000000.parquet").to_pylist()
    assert [(row["outcome"], row["reason"]) for row in rows if row["id"] == "4"] == [
        ("error", "reading raised ZeroDivisionError")
    ]
