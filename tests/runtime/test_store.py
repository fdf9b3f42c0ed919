"""The output place: all or nothing, and sentences for what goes wrong."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from maskgen.errors import MaskgenError
from maskgen.runtime.store import AbsentError, Store


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path, monkeypatch) -> Store:
    """A local and a remote place, and a temp folder of their own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return Store(
        str(tmp_path / "out" / "set") if request.param == "folder" else f"memory://{uuid.uuid4()}/set"
    )


def test_a_file_comes_back_as_it_was_written(store):
    assert store.names() == [] and not store.exists("a.bin")
    store.write_bytes("a.bin", b"one")
    store.write_bytes("a.bin", b"twelve")
    store.write_json("b.json", {"b": 1.0, "a": ["é"]})
    assert store.names() == ["a.bin", "b.json"] and store.exists("a.bin")
    assert store.read_bytes("a.bin") == b"twelve"
    assert store.read_bytes("b.json").endswith(b"}\n") and list(store.read_json("b.json")) == ["a", "b"]
    with store.open("a.bin") as stream:
        stream.seek(3)
        assert stream.read() == b"lve"
    store.remove("a.bin")
    store.remove("a.bin")
    assert store.names() == ["b.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(store, tmp_path):
    store.write_bytes("a.bin", b"old")
    with pytest.raises(RuntimeError), store.publish("a.bin") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert store.read_bytes("a.bin") == b"old" and store.names() == ["a.bin"]
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_failed_upload_leaves_no_half_file(monkeypatch):
    store = Store(f"memory://{uuid.uuid4()}")

    def half(source, target):
        store.files.system.pipe_file(target, Path(source).read_bytes()[:2])
        raise OSError("connection reset")

    monkeypatch.setattr(store.files.system, "put_file", half)
    with pytest.raises(MaskgenError, match=r"cannot write .*a\.bin.*connection reset"):
        store.write_bytes("a.bin", b"whole")
    assert store.names() == []


def test_sweep_takes_what_killed_processes_left(store, tmp_path):
    store.write_bytes("a.bin", b"kept")
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = (store.local("a.bin") or tmp_path / "a.bin").parent
    left = folder / f".partial-a.bin-{dead.pid}-0badcafe"
    left.touch()
    assert store.names() == ["a.bin"]
    store.sweep()
    assert not left.exists() and store.read_bytes("a.bin") == b"kept"


def test_sweep_spares_other_runs_in_the_shared_temp_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(f"memory://{uuid.uuid4()}")
    with store.publish("a.bin") as path:
        path.write_bytes(b"x")
        Store(f"memory://{uuid.uuid4()}").sweep()
    assert store.read_bytes("a.bin") == b"x"


def test_reading_what_is_absent_says_so(store):
    with pytest.raises(AbsentError, match=r"a\.bin is not there"):
        store.read_bytes("a.bin")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a", "a\\b"])
def test_names_cannot_leave_the_folder(store, name):
    with pytest.raises(ValueError, match="no file name"):
        store.write_bytes(name, b"")


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "out"))
    store.write_bytes("a.bin", b"old")
    full = pytest.raises(MaskgenError, match=r"cannot write .*out/a\.bin: the disk is full\. Free space")
    with full, store.publish("a.bin") as path:
        path.unlink()
        path.symlink_to("/dev/full")
        path.write_bytes(b"new")
    assert store.read_bytes("a.bin") == b"old" and store.leftovers() == []


def test_a_file_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(MaskgenError, match="is a file, not a folder"):
        Store(str(tmp_path / "out"))
    with pytest.raises(MaskgenError, match="a part of the path is a file"):
        Store(str(tmp_path / "out" / "set")).write_bytes("a.bin", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_folder_is_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MaskgenError, match="permission denied"):
        Store(str(tmp_path)).write_bytes("a.bin", b"")


@pytest.mark.parametrize("number", [30, 13, 122])
def test_other_refusals_are_sentences(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(MaskgenError, match=r"cannot write .*a\.bin: .*(--out|Free space)"):
        Store(str(tmp_path)).write_bytes("a.bin", b"")


def test_an_unknown_place_is_a_sentence():
    with pytest.raises(MaskgenError, match="Give a folder or a URL"):
        Store("nosuch://place")


def test_no_password_in_messages():
    assert "secret" not in Store("memory://me:secret@host/set").where("a.bin")


def test_disk_free_needs_no_folder(tmp_path):
    free = Store(str(tmp_path / "not" / "yet")).disk_free()
    assert free is not None and free > 0
    assert Store("memory://x").disk_free() is None
