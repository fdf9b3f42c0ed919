"""A shard from records to files and back: writer, reader, index."""

import os
import tarfile
import time
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.shard_sets import FINGERPRINT, GRID, files, mixed_set, record, write_set, write_shard
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding import index
from maskgen.sharding.commit import committed, read_commit
from maskgen.sharding.format import FormatError
from maskgen.sharding.reader import find, read_raw, read_shard
from maskgen.sharding.verify import verify
from maskgen.sharding.writer import ShardWriter

RECORDS = [record(0), record(1, Outcome.IMAGE_CORRUPT), record(2, Outcome.NO_GROUNDING, "PNG"), record(3)]
KEYS = [one.sample.key for one in RECORDS]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "out"))


def test_equal_inputs_give_equal_bytes(tmp_path, monkeypatch):
    mixed_set(Store(str(tmp_path / "a")))
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    mixed_set(Store(str(tmp_path / "elsewhere" / "b")))
    first, second = files(tmp_path / "a"), files(tmp_path / "elsewhere" / "b")
    assert len(first) == 3 * 3 + 7 and first == second


def test_the_tar_is_plain_ustar(store):
    write_shard(store, 0, RECORDS)
    with tarfile.open(store.local("000000.tar")) as tar:
        for info in tar:
            stamp = (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode, info.pax_headers)
            assert stamp == (0, 0, 0, "", "", 0o644, {}) and info.type == tarfile.REGTYPE


@pytest.mark.parametrize("remote", [False, True])
def test_samples_come_back_in_plan_order(tmp_path, remote):
    store = Store(f"memory://{uuid.uuid4()}" if remote else str(tmp_path))
    write_set(store, [RECORDS])
    back = list(read_shard(store, 0))
    first, last = RECORDS[0], RECORDS[3]
    assert first.picture and first.grounding and last.picture
    assert [one.key for one in back] == [KEYS[0], KEYS[2], KEYS[3]]
    assert [one.extension for one in back] == ["jpg", "png", "jpg"]
    assert back[0].image == first.picture.data
    assert (back[0].mask_pixels() == first.grounding.mask).all()
    assert find(store, KEYS[3]).image == last.picture.data
    assert verify(store) == []


def test_the_table_has_every_planned_sample(store):
    write_shard(store, 0, RECORDS)
    rows = pq.read_table(store.local("000000.parquet")).to_pylist()
    assert [row["key"] for row in rows] == KEYS
    assert [row["outcome"] for row in rows] == ["ok", "image_corrupt", "no_grounding", "ok"]
    assert rows[1]["offset"] == -1 and rows[1]["size"] == 0 and rows[1]["reason"] == "a reason"
    assert rows[0]["offset"] == 0 and rows[2]["offset"] == rows[0]["size"]
    assert rows[0]["polygons"] == 2 and rows[2]["polygons"] == 0
    assert rows[0]["box_y1"] == 20.13 and rows[0]["sam_iou"] == 0.987654
    assert rows[0]["grid_cells"] > 0 and rows[2]["grid_cells"] == 0


def test_the_commit_says_what_is_there(store):
    write_shard(store, 0, RECORDS)
    commit = read_commit(store, 0)
    assert commit is not None and committed(store) == {0: commit}
    assert (commit.planned, commit.samples, commit.fingerprint) == (4, 3, FINGERPRINT)
    assert commit.outcomes == {Outcome.OK: 2, Outcome.IMAGE_CORRUPT: 1, Outcome.NO_GROUNDING: 1}
    assert commit.tar.bytes == len(store.read_bytes("000000.tar"))
    assert read_commit(store, 1) is None


@pytest.mark.parametrize("broken", [b"", b"{}", b"[1"])
def test_a_broken_commit_is_an_error_with_a_remedy(store, broken):
    write_shard(store, 0, RECORDS)
    store.write_bytes("000000.json", broken)
    with pytest.raises(MaskgenError, match=r"000000\.json is broken: .* Remove it"):
        committed(store)


def test_a_shard_without_samples_has_no_tar(store):
    lost = [record(number, Outcome.IMAGE_MISSING) for number in range(3)]
    write_shard(store, 0, RECORDS)
    write_set(store, [lost, [record(9)]])
    assert "000000.tar" not in store.names() and list(read_shard(store, 0)) == []
    assert store.read_json("sizes.json") == {"000001.tar": 1}
    assert [len(members) for _, members in read_raw(store, 0)] == [0, 0, 0]
    assert verify(store) == []


def test_nothing_appears_before_the_commit(store):
    with ShardWriter(store, 0, "demo", GRID, FINGERPRINT) as writer:
        writer.add(RECORDS[0])
        assert store.names() == [] and len(store.leftovers()) == 1
    assert store.leftovers() == []
    with pytest.raises(KeyboardInterrupt), ShardWriter(store, 0, "demo", GRID, FINGERPRINT) as writer:
        writer.add(RECORDS[0])
        raise KeyboardInterrupt
    assert files(store.local("x").parent) == {}


def test_a_refused_sample_leaves_the_shard_whole(store):
    with ShardWriter(store, 0, "demo", GRID, FINGERPRINT) as writer:
        writer.add(RECORDS[0])
        with pytest.raises(ValueError, match="needs its picture"):
            writer.add(type(RECORDS[0])(RECORDS[0].sample, Outcome.OK, ""))
        writer.add(RECORDS[3])
        writer.commit()
    assert [one.key for one in read_shard(store, 0)] == [KEYS[0], KEYS[3]]


def test_a_retry_takes_over_the_unchanged(store, tmp_path):
    """The shard of a retry that mends a sample is, byte for byte, that of a run in which it never failed."""
    write_shard(store, 0, RECORDS)
    mended = record(1)
    with ShardWriter(store, 0, "demo", GRID, FINGERPRINT) as writer:
        for row, members in read_raw(store, 0):
            if row["outcome"] == Outcome.IMAGE_CORRUPT:
                writer.add(mended)
            else:
                writer.copy(row, members)
        writer.commit()
    other = Store(str(tmp_path / "undisturbed"))
    write_shard(other, 0, [RECORDS[0], mended, *RECORDS[2:]])
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("step", range(5))
def test_a_kill_between_two_steps_leaves_the_old_shard_or_none(store, monkeypatch, step):
    write_set(store, [RECORDS])
    old = files(store.local("x").parent)
    done = 0

    def step_or_die(real):
        def call(self, *arguments):
            nonlocal done
            if done == step:
                raise KeyboardInterrupt
            done += 1
            return real(self, *arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Store, "move_in", step_or_die(Store.move_in))
        patch.setattr(Store, "remove", step_or_die(Store.remove))
        try:
            write_shard(store, 0, [record(0), record(1), record(2), record(3)])
        except KeyboardInterrupt:
            assert step < 4
    if step == 0:
        assert files(store.local("x").parent) == old
    elif step < 4:
        assert committed(store) == {}
        with pytest.raises(MaskgenError, match="is not finished"):
            list(read_shard(store, 0))
    else:
        assert [one.key for one in read_shard(store, 0)] == KEYS
    write_set(store, [RECORDS])
    assert files(store.local("x").parent) == old


@pytest.mark.parametrize("cut", [1, 512, 5_000, 10_240, 12_345])
def test_a_cut_tar_is_noticed(store, cut):
    write_set(store, [[record(number) for number in range(9)]])
    path = store.local("000000.tar")
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(FormatError, match=r"000000\.tar has \d+ bytes instead of .* Remove 000000\.json"):
        list(read_shard(store, 0))
    assert any("000000.tar has" in problem for problem in verify(store))


def test_a_cut_tar_is_noticed_even_if_filled_up(store):
    """Readers take zeros for the end of a tar, so only the count tells."""
    write_shard(store, 0, [record(number) for number in range(9)])
    data = store.read_bytes("000000.tar")
    last = pq.read_table(store.local("000000.parquet"))["offset"][8].as_py()
    store.write_bytes("000000.tar", data[:last].ljust(len(data), b"\0"))
    with pytest.raises(FormatError, match="holds 8 samples instead of 9"):
        list(read_shard(store, 0))
    with pytest.raises(FormatError, match=r"fewer samples|instead of 9"):
        list(read_raw(store, 0))
    with pytest.raises(FormatError, match="is damaged at"):
        find(store, record(8).sample.key)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_links_and_folders_in_a_tar_are_refused(store, kind):
    write_shard(store, 0, RECORDS)
    info = tarfile.TarInfo("passwd.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    data = info.tobuf(tarfile.USTAR_FORMAT) + store.read_bytes("000000.tar")[512:]
    store.write_bytes("000000.tar", data)
    with pytest.raises(FormatError, match="is not a plain file"):
        list(read_shard(store, 0))


def test_find_works_on_an_unfinished_set_and_says_why_not(store):
    write_shard(store, 4, RECORDS)
    assert find(store, KEYS[2]).extension == "png"
    with pytest.raises(MaskgenError, match=r"image_corrupt: a reason.*--retry-failed"):
        find(store, KEYS[1])
    with pytest.raises(MaskgenError, match=r'no sample "nope".*column "key"'):
        find(store, "nope")


def test_an_untouched_set_keeps_its_indexes(store):
    mixed_set(store)
    names = ["index.parquet", "sizes.json", "wids.json", "features.json"]
    before = [(store.local(name).stat().st_mtime_ns, store.local(name).stat().st_ino) for name in names]
    index.finish(store, FINGERPRINT)
    after = [(store.local(name).stat().st_mtime_ns, store.local(name).stat().st_ino) for name in names]
    assert before == after


def test_the_indexes_follow_a_changed_shard(store):
    mixed_set(store)
    write_shard(store, 1, [record(number) for number in (100, 101)])
    index.finish(store, FINGERPRINT)
    assert store.read_json("sizes.json") == {"000000.tar": 8, "000001.tar": 2, "000002.tar": 8}
    table = pq.read_table(store.local("index.parquet"))
    assert table["shard"].to_pylist() == [0] * 9 + [1] * 2 + [2] * 9
    listed = store.read_json("wids.json")["shardlist"][1]
    commit = read_commit(store, 1)
    assert commit is not None
    assert listed == {
        "url": "000001.tar",
        "md5sum": commit.tar.md5,
        "nsamples": 2,
        "filesize": commit.tar.bytes,
    }


def test_an_unfinished_or_mixed_set_gets_no_index(store):
    write_shard(store, 1, RECORDS)
    with pytest.raises(MaskgenError, match=r"shard 0 of .* is not finished"):
        index.finish(store, FINGERPRINT)
    write_shard(store, 0, RECORDS)
    with pytest.raises(MaskgenError, match="comes from another run"):
        index.finish(store, "another")


def test_a_full_disk_is_a_sentence_and_leaves_the_old_shard(store, monkeypatch):
    write_shard(store, 0, RECORDS)
    old = files(store.local("x").parent)
    monkeypatch.setattr(Path, "touch", lambda path, **_: path.symlink_to("/dev/full"))
    for count in (1, 40):  # fails on closing the file, and while writing it
        with pytest.raises(MaskgenError, match=r"cannot write .*000000\.tar: the disk is full"):
            write_shard(store, 0, [record(number, kind="BMP") for number in range(count)])
        assert files(store.local("x").parent) == old


def test_a_full_disk_at_the_table_is_a_sentence(store, monkeypatch):
    touch = Path.touch
    full = lambda path, **_: path.symlink_to("/dev/full") if ".parquet" in path.name else touch(path)  # noqa: E731
    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(MaskgenError, match=r"000000\.parquet: the disk is full"):
        write_shard(store, 0, RECORDS)
    assert store.names() == [] and store.leftovers() == []
