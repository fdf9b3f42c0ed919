"""Images inside tar and zip files are found by the names that rows use, and read back byte for byte."""

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import fsspec
import pytest

from maskgen.config import Source
from maskgen.errors import MaskgenError
from maskgen.runtime.store import Store
from maskgen.sample import Query, Sample
from maskgen.sources.image_index import ImageIndex
from maskgen.sources.images import ImageRoot


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def index_of(root: Path | str, kept: Store | None = None, **source: object) -> ImageIndex:
    return ImageIndex(str(root), Source.model_validate({"files": [], **source}), kept)


def find(root: Path | str, *references: str, **source: object) -> list[bytes | None]:
    """What an image root reads for each reference where the index finds it; None where it does not."""
    with tempfile.TemporaryDirectory() as folder, index_of(root, Store(folder), **source) as index:
        images = ImageRoot(str(root), 10_000, source.get("allow_links_to", ()), Store(folder))  # type: ignore[arg-type]
        return [
            images.read(Sample("k", "a", reference, (), Query("", ()), found.member)) if found else None
            for reference, found in zip(references, index.find(references), strict=True)
        ]


def test_members_answer_to_their_names_and_to_the_archive_s(tmp_path):
    write_tar(tmp_path / "coco.tar", {"./train/1.jpg": b"one", "2.jpg": b"two"})
    write_tar(tmp_path / "sets" / "vg.tar", {"x/3.jpg": b"three"})
    assert find(tmp_path, "train/1.jpg", "coco/train/1.jpg", "./2.jpg", "coco/2.jpg") == [
        *(b"one", b"one", b"two", b"two")
    ]
    assert find(tmp_path, "x/3.jpg", "vg/x/3.jpg", "sets/x/3.jpg", "sets/vg/x/3.jpg") == [b"three"] * 4
    assert find(tmp_path, "1.jpg", "sets/train/1.jpg", "sets/2.jpg", "coco/x/3.jpg") == [None] * 4


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members_stored_or_deflated(tmp_path, compression):
    write_zip(tmp_path / "a.zip", {"x/1.jpg": b"one" * 500, "x/2.jpg": b""}, compression)
    assert find(tmp_path, "x/1.jpg", "a/x/1.jpg", "x/2.jpg", "x") == [b"one" * 500, b"one" * 500, b"", None]


def test_compressions_that_cannot_be_read_at_random_are_left_out(tmp_path):
    write_zip(tmp_path / "a.zip", {"1.jpg": b"one"}, zipfile.ZIP_BZIP2)
    assert find(tmp_path, "1.jpg") == [None]


def test_long_names_and_many_members(tmp_path):
    members = {f"{'d' * 90}/{'n' * 200}-{number}.jpg": b"%d" % number for number in range(300)}
    write_tar(tmp_path / "a.tar", members)
    assert find(tmp_path, *members) == list(members.values())


def test_a_file_in_the_folder_wins_and_the_first_archive_by_name(tmp_path):
    write_tar(tmp_path / "b.tar", {"1.jpg": b"b", "2.jpg": b"b"})
    write_tar(tmp_path / "a.tar", {"1.jpg": b"a"})
    assert find(tmp_path, "1.jpg", "2.jpg") == [b"a", b"b"]
    (tmp_path / "1.jpg").write_bytes(b"file")
    assert find(tmp_path, "1.jpg", "2.jpg") == [b"file", b"b"]


def test_of_two_members_of_one_name_the_last_counts_as_when_extracting(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"old"})
    write_tar(tmp_path / "a.tar", {"1.jpg": b"new"}, "a")
    assert find(tmp_path, "1.jpg") == [b"new"]


def test_links_in_archives_are_no_images(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("1.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert find(tmp_path, "1.jpg") == [None]


def test_broken_archives_are_notes_and_what_stands_before_the_damage_is_found(tmp_path):
    write_tar(tmp_path / "cut.tar", {f"{number}.jpg": b"x" * 600 for number in range(9)})
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 * 8])
    (tmp_path / "junk.zip").write_bytes(b"no zip")
    with index_of(tmp_path) as index:
        assert [note.split(",")[0] for note in index.notes] == ["in cut.tar", "in junk.zip"]
        assert [found is not None for found in index.find(["0.jpg", "1.jpg", "8.jpg"])] == [True, True, False]


def test_a_url_is_as_good_as_a_folder(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    write_zip(tmp_path / "b.zip", {"3.jpg": b"three"})
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path) + "/", "/archives-test/", recursive=True)
    fs.pipe("/archives-test/2.jpg", b"file")
    assert find("memory://archives-test", "1.jpg", "2.jpg", "b/3.jpg", "4.jpg") == [
        *(b"one", b"file", b"three", None),
    ]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(MaskgenError, match="no image folder"):
        index_of(tmp_path / "none")


def test_a_storage_that_cannot_list_is_a_note(monkeypatch):
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "find", lambda *_, **__: 1 / 0)
    with index_of("memory://archives-unlisted") as index:
        assert index.notes == ["1 failures to search the image root for archives (ZeroDivisionError)"]


def test_images_that_are_there_are_found_in_files_and_archives(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    (tmp_path / "2.jpg").write_bytes(b"file")
    with index_of(tmp_path) as index:
        in_archive, in_folder, nowhere = index.find(["1.jpg", "2.jpg", "3.jpg"])
        assert (
            in_archive is not None and in_archive.member is not None and in_archive.member.archive == "a.tar"
        )
        assert in_folder is not None and in_folder.member is None
        assert nowhere is None
        assert index.has("1.jpg") and not index.has("3.jpg")
