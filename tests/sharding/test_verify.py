"""The audit: silent on a sound set, and a sentence for everything that can be wrong with one."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.shard_sets import (
    FINGERPRINT,
    GRID,
    grounding,
    mixed_set,
    picture,
    record,
    sample,
    write_set,
    write_shard,
)
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding import format, index, shard_table
from maskgen.sharding.reader import scan
from maskgen.sharding.verify import find_problems, repair, verify
from maskgen.sharding.writer import ShardWriter
from maskgen.views.summary import render_problems


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path / "out"))
    mixed_set(store)
    return store


def edit(store: Store, name: str, change) -> None:
    store.write_bytes(name, change(store.read_bytes(name)))


def flip(data: bytes) -> bytes:
    """One bit of an image's pixels."""
    return data[:700] + bytes([data[700] ^ 1]) + data[701:]


def test_a_sound_set_has_no_problems(store):
    seen = []
    assert verify(store, lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("000001.tar", flip, "000001.tar is not the file that was committed"),
        ("000001.parquet", lambda data: data + b"x", "000001.parquet has"),
        ("000001.json", lambda data: b"{", "000001.json is broken"),
        (
            "000001.json",
            lambda data: data.replace(b'"planned": 9', b'"planned": 8'),
            "has 9 rows, its commit",
        ),
        ("000001.json", lambda data: data.replace(b'"ok": 1', b'"ok": 2'), "do not add up"),
        (
            "000001.json",
            lambda data: data.replace(b"0123", b"3210"),
            "the fingerprint is not that of run.json",
        ),
        ("run.json", lambda data: b"{}", "run.json gives no fingerprint"),
        ("plan.parquet", lambda data: b"", "plan.parquet cannot be read"),
        ("sizes.json", lambda data: data.replace(b"8", b"9"), "sizes.json does not say"),
        ("wids.json", lambda data: data.replace(b"8", b"9"), "wids.json does not say"),
        ("features.json", lambda data: b"{}", "features.json does not say"),
        ("index.parquet", lambda data: b"", "indexes cannot be checked"),
    ],
)
def test_a_changed_file_is_named(store, name, change, problem):
    edit(store, name, change)
    assert any(problem in found for found in verify(store)), verify(store)


@pytest.mark.parametrize(
    "name", ["000001.tar", "000001.parquet", "000001.json", "sizes.json", "index.parquet"]
)
def test_a_missing_file_is_named(store, name):
    store.remove(name)
    assert any(name in problem for problem in verify(store))


@pytest.mark.parametrize("name", ["000003.tar", "00000001.parquet", "copy of 000001.tar", ".partial-x-1-2"])
def test_a_stray_file_is_named(store, name):
    (store.local("x").parent / name).write_bytes(b"")
    assert [problem.split(" ")[0] for problem in verify(store)] == [name.split(" ")[0]]


def test_every_problem_is_found_in_one_go(store):
    edit(store, "000000.tar", flip)
    store.remove("000001.json")
    edit(store, "000002.parquet", lambda data: b"")
    store.remove("run.json")
    found = "\n".join(verify(store))
    for name in ("000000.tar", "000001 is not finished", "000002.parquet", "run.json"):
        assert name in found


def test_a_key_planned_twice_is_named(tmp_path):
    store = Store(str(tmp_path / "twice"))
    write_set(store, [[record(1)], [record(1)]])
    assert verify(store) == [f"the key {1:016x} is planned 2 times."]


def test_a_shard_of_other_samples_is_named(store):
    write_shard(store, 1, [record(5)])
    index.finish(store, FINGERPRINT)
    assert verify(store) == ["000001.parquet does not have the planned keys in the planned order."]


def write_encoded(store: Store, members: list[tuple[str, bytes]]) -> None:
    """A set of one sample, hashes and all, whatever its members say."""
    write_set(store, [[record(7)]])
    with ShardWriter(store, 0, "demo", GRID, FINGERPRINT) as writer:
        writer.copy({}, members)
        writer.commit()
    index.finish(store, FINGERPRINT)


@pytest.mark.parametrize(("what", "problem"), [("grid", "grid is not"), ("coverage", "coverage is not")])
def test_a_grid_or_coverage_that_is_not_the_masks_is_named(tmp_path, what, problem):
    store = Store(str(tmp_path / "wrong"))
    done = grounding((30, 40))
    wrong = {"grid": done.grid ^ 1, "coverage": 0.9}
    bad = type(done)(**{**vars(done), what: wrong[what]})
    write_encoded(store, format.encode(sample(7), picture(7), bad, "demo", GRID))
    assert len(verify(store)) == 1 and problem in verify(store)[0]


def test_a_row_that_differs_from_its_sample_is_named(store):
    rows = shard_table.read(store, "000000.parquet").to_pylist()
    rows[5]["sam_iou"] = 0.5
    shard_table.write(rows, store.local("000000.parquet"))
    assert any("and its row in the parquet differ in sam_iou" in problem for problem in verify(store))


def test_a_pickle_in_a_tar_is_named_and_not_run(store):
    name = "000000.tar"
    with store.open(name) as stream:
        members = [member for stored in scan(stream) for member in stored.members]
    with tarfile.open(store.local(name), "w") as tar:
        for old, data in members:
            info = tarfile.TarInfo(old.replace(".mask.npy", ".pickle"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert any("the members are" in problem for problem in verify(store))


def test_an_outcome_that_moves_into_the_tar_keeps_the_set_sound(store):
    write_shard(store, 1, [record(100 + number, Outcome.OK) for number in range(9)])
    index.finish(store, FINGERPRINT)
    assert verify(store) == []


def test_more_rows_in_the_index_are_noticed(store):
    path = store.local("index.parquet")
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(group) for group in range(3)]
        schema = file.schema_arrow
    groups[2] = pa.concat_tables([groups[2], groups[2].slice(0, 1)])
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            writer.write_table(group)
    assert any("index.parquet differs from 000002.parquet" in problem for problem in verify(store))


@pytest.mark.parametrize(
    ("name", "change", "removed"),
    [
        ("000001.tar", flip, ["000001.json", "000001.parquet", "000001.tar"]),
        ("000001.json", lambda data: b"{", ["000001.json", "000001.parquet", "000001.tar", *index.NAMES]),
        ("wids.json", lambda data: b"{}", list(index.NAMES)),
    ],
)
def test_a_repair_removes_what_a_run_makes_again_and_nothing_else(store, name, change, removed):
    store.write_bytes("000009.tar", b"somebody's")
    edit(store, name, change)
    said: list[str] = []
    before = set(store.names())
    repair(store, said.append)
    assert before - set(store.names()) == set(removed)
    assert any(line.startswith("repair: 000009.tar") and "left as it is" in line for line in said)


@pytest.mark.parametrize("name", ["run.json", "plan.parquet"])
def test_without_plan_and_record_nothing_is_removed(store, name):
    edit(store, name, lambda data: b"")
    edit(store, "000001.tar", flip)
    before = store.names()
    with pytest.raises(MaskgenError, match="cannot be repaired"):
        repair(store, lambda _: None)
    assert store.names() == before


def test_what_is_wrong_comes_with_what_mends_it(store):
    edit(store, "000001.tar", flip)
    told = render_problems("OUT", find_problems(store))
    assert "000001.tar is not the file" in told
    assert "To mend it: maskgen resume OUT --repair, which removes 000001.json" in told
    store.remove("000001.json")
    assert render_problems("OUT", find_problems(store)).endswith("To finish it: maskgen resume OUT.")
