"""Images inside tar and zip files are found by the names that rows use, and read back byte for byte."""

import io
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest

from maskgen.errors import MaskgenError
from maskgen.sample import Query, Sample
from maskgen.sources.archives import ArchiveIndex
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


def find(root: Path | str, *references: str) -> list[bytes | None]:
    """What an image root reads for each reference through the index; None where no archive has it."""
    images = ImageRoot(str(root), 10_000)
    with ArchiveIndex(str(root)) as index:
        return [
            images.read(Sample("k", "a", reference, (), Query("", ()), member)) if member else None
            for reference, member in zip(references, index.locate(list(references)), strict=True)
        ]


def test_members_answer_to_their_names_and_to_the_archive_s(tmp_path):
    write_tar(tmp_path / "coco.tar", {"./train/1.jpg": b"one", "2.jpg": b"two"})
    write_tar(tmp_path / "sets" / "vg.tar", {"x/3.jpg": b"three"})
    assert find(tmp_path, "train/1.jpg", "coco/train/1.jpg", "./2.jpg", "coco/2.jpg") == [
        *(b"one", b"one", b"two", b"two")
    ]
    assert find(tmp_path, "x/3.jpg", "vg/x/3.jpg", "sets/x/3.jpg", "sets/vg/x/3.jpg") == [b"three"] * 4
    assert find(tmp_path, "1.jpg", "other/train/1.jpg", "sets/2.jpg", "coco/x/3.jpg") == [None] * 4


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
    assert find(tmp_path, "1.jpg", "2.jpg") == [None, b"b"]


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
    with ArchiveIndex(str(tmp_path)) as index:
        assert [note.split()[0] for note in index.notes] == ["cut.tar", "junk.zip"]
        found = index.locate(["0.jpg", "1.jpg", "8.jpg"])
    assert [member is not None for member in found] == [True, True, False]


def test_compressed_tars_are_only_listed(tmp_path):
    write_tar(tmp_path / "a.tar.gz", {"1.jpg": b"one"}, "w:gz")
    with ArchiveIndex(str(tmp_path)) as index:
        assert (index.compressed, index.is_empty) == (["a.tar.gz"], False)
        assert index.locate(["1.jpg"]) == [None]


def test_a_url_is_as_good_as_a_folder(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    write_zip(tmp_path / "b.zip", {"3.jpg": b"three"})
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path) + "/", "/archives-test/", recursive=True)
    fs.pipe("/archives-test/2.jpg", b"file")
    assert find("memory://archives-test", "1.jpg", "2.jpg", "b/3.jpg", "4.jpg") == [
        b"one",
        None,
        b"three",
        None,
    ]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(MaskgenError, match="no image folder"):
        ArchiveIndex(str(tmp_path / "none"))


def test_a_storage_that_cannot_list_is_a_note(monkeypatch):
    fs = fsspec.filesystem("memory")
    monkeypatch.setattr(type(fs), "find", lambda *_, **__: 1 / 0)
    with ArchiveIndex("memory://archives-unlisted") as index:
        assert index.is_empty
        assert index.notes == ["the image root cannot be searched for archives: ZeroDivisionError"]


def test_images_that_are_there_are_found_in_files_and_archives(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    (tmp_path / "2.jpg").write_bytes(b"file")
    with ArchiveIndex(str(tmp_path)) as index:
        in_archive, in_folder, nowhere = index.find(["1.jpg", "2.jpg", "3.jpg"])
        assert (
            in_archive is not None and in_archive.member is not None and in_archive.member.archive == "a.tar"
        )
        assert in_folder is not None and in_folder.member is None
        assert nowhere is None
        assert index.has("1.jpg") and not index.has("3.jpg")
