"""Image bytes from folders, URLs and archive members; nothing outside the root, never more than the limit."""

import io
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.runtime import waiting
from maskgen.runtime.waiting import StorageAwayError
from maskgen.sample import ArchiveMember, Query, Sample
from maskgen.sources.images import ImageRoot

LIMIT = 1000


def sample(image: str, member: ArchiveMember | None = None) -> Sample:
    return Sample("k", "a", image, (), Query("", ()), member)


def outcome(root: ImageRoot, image: str, member: ArchiveMember | None = None) -> Outcome:
    with pytest.raises(SampleError) as caught:
        root.read(sample(image, member))
    assert "/" not in caught.value.reason
    return caught.value.outcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "sub" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture
def root(folder: Path) -> ImageRoot:
    return ImageRoot(str(folder), LIMIT)


def test_a_file_is_read_as_it_is(root):
    assert root.read(sample("sub/a.jpg")) == root.read(sample("./sub//a.jpg")) == b"picture"
    assert root.size(sample("sub/a.jpg")) == 7


@pytest.mark.parametrize("image", ["b.jpg", "sub/a.jpg/b.jpg", "sub", "x" * 5000, "é\ufffd.jpg", "~/a.jpg"])
def test_what_is_not_there_is_missing(root, image):
    assert outcome(root, image) is Outcome.IMAGE_MISSING
    assert root.size(sample(image)) is None


@pytest.mark.parametrize(
    "image", ["../secret.jpg", "sub/../../secret.jpg", "/etc/passwd", "file:///etc/passwd"]
)
def test_references_cannot_leave_the_root(root, image):
    assert outcome(root, image) is Outcome.PATH_ESCAPE


def test_links_cannot_leave_the_root(folder, root):
    (folder / "file.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "up").symlink_to("..")
    (folder / "inside.jpg").symlink_to("sub/a.jpg")
    assert outcome(root, "file.jpg") is Outcome.PATH_ESCAPE
    assert outcome(root, "up/secret.jpg") is Outcome.PATH_ESCAPE
    assert root.read(sample("inside.jpg")) == b"picture"


def test_a_root_that_is_a_link_itself_works(folder):
    (folder.parent / "link").symlink_to(folder)
    assert ImageRoot(str(folder.parent / "link"), LIMIT).read(sample("sub/a.jpg")) == b"picture"


def test_loops_and_dangling_links_are_missing(folder, root):
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    assert outcome(root, "loop.jpg") is Outcome.IMAGE_MISSING
    assert outcome(root, "dangling.jpg") is Outcome.IMAGE_MISSING


@pytest.mark.timeout(20)
def test_a_pipe_does_not_hang(folder, root):
    os.mkfifo(folder / "pipe.jpg")
    assert outcome(root, "pipe.jpg") is Outcome.IMAGE_MISSING


def test_a_file_over_the_limit_is_not_read(folder, root):
    (folder / "full.jpg").write_bytes(bytes(LIMIT))
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take a terabyte
    assert len(root.read(sample("full.jpg"))) == LIMIT
    assert outcome(root, "huge.jpg") is Outcome.IMAGE_TOO_LARGE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error_to_try_again(folder, root):
    (folder / "sub" / "a.jpg").chmod(0)
    assert outcome(root, "sub/a.jpg") is Outcome.ERROR


def test_a_root_that_is_not_there_is_said():
    with pytest.raises(MaskgenError, match="no image folder"):
        ImageRoot("/nowhere/at/all", LIMIT)


def test_a_url_is_as_good_as_a_folder():
    fs = fsspec.filesystem("memory")
    fs.pipe("/images-test/root/a.jpg", b"picture")
    fs.pipe("/images-test/root/huge.jpg", bytes(LIMIT + 1))
    fs.pipe("/images-test/secret.jpg", b"secret")
    root = ImageRoot("memory://images-test/root/", LIMIT)
    assert root.read(sample("a.jpg")) == b"picture"
    assert root.read(sample("a", ArchiveMember("a.jpg", 2, 3, False))) == b"ctu"
    assert root.size(sample("a.jpg")) == 7
    assert outcome(root, "b.jpg") is Outcome.IMAGE_MISSING
    assert outcome(root, "huge.jpg") is Outcome.IMAGE_TOO_LARGE
    assert outcome(root, "../secret.jpg") is Outcome.PATH_ESCAPE


def test_a_storage_that_does_not_answer_is_waited_for_and_then_ends_the_run(monkeypatch):
    """It is no image's fault, so no image gets an outcome for it."""
    root = ImageRoot("memory://images-fail", LIMIT)
    down = [True] * 3

    def failing(path: str, mode: str) -> io.BytesIO:
        if down and down.pop():
            raise TimeoutError
        return io.BytesIO(b"picture")

    monkeypatch.setattr(waiting, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(root.folder.storage.system, "open", failing)
    assert root.read(sample("a.jpg")) == b"picture" and not down
    monkeypatch.setenv("MASKGEN_STORAGE_SECONDS", "0")
    down.append(True)
    with pytest.raises(StorageAwayError, match="images-fail has not answered"):
        root.read(sample("a.jpg"))


def test_a_storage_that_refuses_one_image_is_its_error_and_one_that_refuses_all_is_not(monkeypatch):
    root = ImageRoot("memory://images-refused", LIMIT)
    root.folder.storage.system.pipe_file("memory://images-refused/b.jpg", b"picture")

    def refusing(*_: str, **__: str) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(root.folder.storage.system, "open", refusing)
    assert outcome(root, "a.jpg") is Outcome.ERROR
    monkeypatch.setattr(root.folder.storage.system, "info", refusing)
    with pytest.raises(MaskgenError, match="keys or the token"):
        root.read(sample("a.jpg"))


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def test_members_of_archives(folder, root):
    packed = deflate(b"picture" * 20)
    (folder / "a.zip").write_bytes(b"head" + packed + b"tail")
    deflated = ArchiveMember("a.zip", 4, len(packed), True)
    assert root.read(sample("x.jpg", deflated)) == b"picture" * 20
    assert root.read(sample("x.jpg", replace(deflated, deflated=False))) == packed
    assert outcome(root, "x.jpg", replace(deflated, offset=5)) is Outcome.IMAGE_CORRUPT
    assert outcome(root, "x.jpg", replace(deflated, size=len(packed) - 1)) is Outcome.IMAGE_CORRUPT
    assert outcome(root, "x.jpg", replace(deflated, size=500)) is Outcome.IMAGE_CORRUPT
    assert outcome(root, "x.jpg", replace(deflated, size=LIMIT + 1)) is Outcome.IMAGE_TOO_LARGE
    assert outcome(root, "x.jpg", replace(deflated, archive="../a.zip")) is Outcome.PATH_ESCAPE
    assert outcome(root, "x.jpg", replace(deflated, archive="b.zip")) is Outcome.IMAGE_MISSING
    assert root.read(sample("/mnt/x.jpg", deflated)) == b"picture" * 20  # the index knows what was meant


def test_a_bomb_is_not_inflated(folder, root):
    bomb = deflate(bytes(500_000))
    assert len(bomb) < LIMIT
    (folder / "a.zip").write_bytes(bomb)
    assert outcome(root, "x.jpg", ArchiveMember("a.zip", 0, len(bomb), True)) is Outcome.IMAGE_TOO_LARGE


def test_threads_share_a_root(folder, root):
    for index in range(50):
        (folder / f"{index}.jpg").write_bytes(b"%d" % index)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda index: root.read(sample(f"{index % 50}.jpg")), range(400)))
    assert read == [b"%d" % (index % 50) for index in range(400)]
