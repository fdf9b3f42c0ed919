"""Images inside tar and zip files are found by the names that rows use, and read back byte for byte."""

import io
import os
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from helpers.archive_files import split, write_tar, write_zip
from maskgen.config import Source
from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import Query, Sample
from maskgen.sources import gzip_archives
from maskgen.sources.image_index import ImageIndex
from maskgen.sources.images import ImageRoot


def index_of(root: Path | str, kept: Store | None = None, **source: object) -> ImageIndex:
    return ImageIndex(str(root), Source.model_validate({"files": [], **source}), kept)


def find(root: Path | str, *references: str, **source: object) -> list[bytes | None]:
    """What an image root reads for each reference where the index finds it; None where it does not."""
    with tempfile.TemporaryDirectory() as folder, index_of(root, Store(folder), **source) as index:
        links: Any = source.get("allow_links_to", ())
        images = ImageRoot(str(root), 10_000, links, Store(folder))
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


def test_links_are_followed_within_their_archive(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("real/1.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"one"))
        for name, target, kind in (
            ("link.jpg", "real/1.jpg", tarfile.SYMTYPE),
            ("x/hard.jpg", "real/1.jpg", tarfile.LNKTYPE),
            ("x/chain.jpg", "../link.jpg", tarfile.SYMTYPE),
            ("folder", "real", tarfile.SYMTYPE),
            ("out.jpg", "/etc/passwd", tarfile.SYMTYPE),
            ("up.jpg", "../../1.jpg", tarfile.SYMTYPE),
            ("loop.jpg", "loop.jpg", tarfile.SYMTYPE),
            ("nowhere.jpg", "gone.jpg", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    found = ["link.jpg", "x/hard.jpg", "x/chain.jpg", "folder/1.jpg", "a/folder/1.jpg"]
    assert find(tmp_path, *found) == [b"one"] * 5
    assert find(tmp_path, "out.jpg", "up.jpg", "loop.jpg", "nowhere.jpg") == [None] * 4


@pytest.mark.parametrize(
    "parts",
    [
        ["sam.tar_part1", "sam.tar_part2", "sam.tar_part3"],
        [f"sam.tar_part{number}" for number in range(1, 12)],
        ["sam.tar.part-aa", "sam.tar.part-ab"],
        ["sam.tar.000", "sam.tar.001", "sam.tar.002"],
        ["sam.tar.gz_part_aa", "sam.tar.gz_part_ab", "sam.tar.gz_part_ac"],
        ["sam.tgz.aa", "sam.tgz.ab"],
        ["sam.zip.001", "sam.zip.002"],
    ],
)
def test_parts_are_the_one_archive_that_they_are(tmp_path, parts):
    members = {f"{number}.jpg": bytes([number]) * 3000 for number in range(20)}
    whole = tmp_path / "x" / "whole"
    if "zip" in parts[0]:
        whole.parent.mkdir()
        write_zip(whole, members)
    else:
        write_tar(whole, members, "w:gz" if "gz" in parts[0] else "w")
    split(whole, parts)
    assert find(tmp_path, *(f"x/sam/{name}" for name in members)) == list(members.values())
    with index_of(tmp_path) as index:
        assert index.notes == []


def test_parts_that_are_missing_are_said(tmp_path):
    write_tar(tmp_path / "whole", {f"{number}.jpg": b"x" * 3000 for number in range(9)})
    split(tmp_path / "whole", ["a.tar_part1", "a.tar_part2", "a.tar_part3"])
    (tmp_path / "a.tar_part2").unlink()
    (tmp_path / "b.tar_part2").write_bytes(b"x")
    (tmp_path / "c.tar.bak").write_bytes(b"no part")
    with index_of(tmp_path) as index:
        assert index.notes[:2] == [
            "a.tar is read up to part 2, which is missing",
            "b.tar is read up to part 1, which is missing",
        ]
        assert index.has("0.jpg") and not index.has("8.jpg")


def test_the_merged_archive_counts_before_its_parts(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": b"merged"})
    (tmp_path / "a.tar_part1").write_bytes(b"junk")
    assert find(tmp_path, "1.jpg") == [b"merged"]


def test_what_is_known_of_a_packed_tar_is_kept_and_used_again(tmp_path, monkeypatch):
    data, kept = tmp_path / "data", Store(str(tmp_path / "kept"))
    random = np.random.default_rng(0)
    members = {f"{number}.jpg": random.bytes(90_000) for number in range(80)}  # three points and more
    write_tar(data / "a.tar.gz", members, "w:gz")
    said: list[str] = []
    with ImageIndex(str(data), Source(files=[]), kept, said.append) as index:
        first = index.find(list(members))
    assert len(said) == 1 and "1 of 1 .tar.gz archives" in said[0] and str(tmp_path / "kept") in said[0]
    monkeypatch.setattr(gzip_archives, "find_points", lambda *_: pytest.fail("it was read through again"))
    with ImageIndex(str(data), Source(files=[]), kept, said.append) as index:
        assert index.find(list(members)) == first
    assert len(said) == 1
    images = ImageRoot(str(data), 100_000, kept=kept)
    samples = [
        Sample("k", "a", name, (), Query("", ()), found.member)
        for name, found in zip(members, first, strict=True)
        if found
    ]
    random.shuffle(samples)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, samples)) == [members[sample.image] for sample in samples]
    lost = ImageRoot(str(data), 100_000)
    with pytest.raises(SampleError, match="not beside the output"):
        lost.read(samples[0])


def test_a_packed_tar_that_changed_is_read_through_again(tmp_path):
    kept = Store(str(tmp_path / "kept"))
    for content in (b"old", b"new one"):
        write_tar(tmp_path / "data" / "a.tgz", {"1.jpg": content}, "w:gz")
        with index_of(tmp_path / "data", kept) as index:
            (found,) = index.find(["1.jpg"])
        assert found is not None
        sample = Sample("k", "a", "1.jpg", (), Query("", ()), found.member)
        assert ImageRoot(str(tmp_path / "data"), 100, kept=kept).read(sample) == content


@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_a_damaged_packed_tar_is_read_up_to_the_damage(tmp_path, damage):
    random = np.random.default_rng(0)
    members = {f"{number}.jpg": random.bytes(5000) for number in range(20)}
    write_tar(tmp_path / "a.tar.gz", members, "w:gz")
    whole = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(
        {"cut": whole[:50_000], "junk": b"no gzip" * 99, "empty": b""}[damage]
    )
    (tmp_path / "b.jpg").write_bytes(b"fine")
    with index_of(tmp_path) as index:
        assert index.has("b.jpg")
        assert [index.has(name) for name in ("0.jpg", "5.jpg", "19.jpg")] == [damage == "cut"] * 2 + [False]
        assert damage != "cut" or "longer than their archive" in index.notes[0]


PREFIX = "mnt/disks/data/2.5m_v2"


def notes_of(root: Path, *references: str, **source: object) -> list[str]:
    with index_of(root, None, **source) as index:
        index.find(references)
        return index.notes


@pytest.mark.parametrize("unpacked", [True, False])
def test_a_prefix_that_rows_lack(tmp_path, unpacked):
    if unpacked:
        (tmp_path / PREFIX / "allava" / "images").mkdir(parents=True)
        (tmp_path / PREFIX / "allava" / "images" / "1.jpg").write_bytes(b"one")
    else:
        write_tar(tmp_path / "allava.tar", {f"{PREFIX}/allava/images/1.jpg": b"one"})
    assert find(tmp_path, "allava/images/1.jpg", "allava/images/2.jpg") == [b"one", None]
    (note,) = notes_of(tmp_path, "allava/images/1.jpg")
    assert note == (f"1 image found under a prefix that rows lack ({PREFIX}: 1, such as allava/images/1.jpg)")


def test_a_prefix_that_rows_carry(tmp_path):
    write_tar(tmp_path / "a.tar", {"iconqa/images/1.jpg": b"one", "gqa/images/2.jpg": b"two"})
    assert find(tmp_path, "hfdata/iconqa/images/1.jpg", "x/y/iconqa/images/1.jpg") == [b"one"] * 2
    (note,) = notes_of(tmp_path, "hfdata/iconqa/images/1.jpg")
    assert "without a prefix that rows carry (hfdata: 1" in note


def test_a_name_that_several_images_fit_is_none_of_them(tmp_path):
    write_tar(tmp_path / "a.tar", {"old/x/1.jpg": b"one", "new/x/1.jpg": b"other"})
    assert find(tmp_path, "x/1.jpg") == [None]
    (note,) = notes_of(tmp_path, "x/1.jpg")
    assert "several fit" in note and "a.tar: new/x/1.jpg or a.tar: old/x/1.jpg" in note
    assert find(tmp_path, "x/1.jpg", rename={"x/": "old/x/"}) == [b"one"]


def test_two_sets_with_the_same_names_are_not_taken_for_each_other(tmp_path):
    write_tar(tmp_path / "gqa.tar", {"images/1.jpg": b"gqa"})
    write_tar(tmp_path / "vg.tar", {"images/1.jpg": b"vg's own"})
    assert find(tmp_path, "gqa/images/1.jpg", "vg/images/1.jpg") == [b"gqa", b"vg's own"]
    assert find(tmp_path, "textvqa/images/1.jpg", "gqa/images/2.jpg", "gqa/1.jpg") == [None] * 3
    (tmp_path / "vg.tar").unlink()
    assert find(tmp_path, "1.jpg", "vg/1.jpg") == [None, None]  # a file's own name alone is no match
    (note,) = notes_of(tmp_path, "vg/1.jpg")
    assert "vg/ may be gqa.tar: images/" in note and "source.rename" in note


def test_the_same_picture_twice_is_one(tmp_path):
    write_tar(tmp_path / "allava.tar", {f"{PREFIX}/allava/1.jpg": b"one"})
    write_tar(tmp_path / "copy" / "allava.tar", {f"{PREFIX}/allava/1.jpg": b"one"})
    (tmp_path / PREFIX / "allava").mkdir(parents=True)
    (tmp_path / PREFIX / "allava" / "1.jpg").write_bytes(b"one")
    assert find(tmp_path, "allava/1.jpg") == [b"one"]


def test_rename(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"one")
    renames = {"": "images/", "/mnt/set/": "images/", "old/": "images/"}
    assert find(tmp_path, "1.jpg", "/mnt/set/1.jpg", "old/1.jpg", rename=renames) == [b"one"] * 3
    assert find(tmp_path, "1.jpg", "/mnt/set/1.jpg", rename={"x": "../"}) == [None, None]


def test_letter_case_counts_unless_it_is_told_not_to(tmp_path):
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images" / "A.JPG").write_bytes(b"one")
    write_tar(tmp_path / "COCO.tar", {"Train/2.JPG": b"two"})
    names = ["images/a.jpg", "coco/train/2.jpg", "train/2.jpg"]
    assert find(tmp_path, *names) == [None] * 3
    assert find(tmp_path, *names, ignore_case=True) == [b"one", b"two", b"two"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "A.jpg").write_bytes(b"other")
    assert find(tmp_path, "images/a.jpg", "Images/A.JPG", ignore_case=True) == [None, b"one"]


@pytest.mark.parametrize(
    ("on_disk", "in_row"),
    [
        ("caf\xe9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301.jpg", "caf\xe9.jpg"),
        ("caf\udce9.jpg", "caf\xe9.jpg"),  # Latin-1 bytes
        ("caf\udce9.jpg", "caf\ufffd.jpg"),  # the same, as an annotation file keeps them
        ("a\\b.jpg", "a/b.jpg"),
        ("a/b.jpg", "a\\b.jpg"),
        ("a::b.jpg", "a::b.jpg"),
        ("12:30/a:b.jpg", "12:30/a:b.jpg"),
        ("C:\\a.jpg", "C:\\a.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("%2e%2e/a.jpg", "%2e%2e/a.jpg"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_names_as_a_disk_has_them(tmp_path, on_disk, in_row, packed):
    if packed:
        write_tar(tmp_path / "a.tar", {on_disk: b"one", "other.jpg": b"other"})
    else:
        path = tmp_path / on_disk
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"one")
    assert find(tmp_path, in_row) == [b"one"]


def test_archives_of_any_name(tmp_path):
    write_tar(tmp_path / "caf\udce9.tar", {"1.jpg": b"one"})
    write_tar(tmp_path / "x\udce9.tar.gz", {"2.jpg": b"two"}, "w:gz")
    assert find(tmp_path, "1.jpg", "2.jpg") == [b"one", b"two"]


def test_the_hubs_cache_is_read_through_its_links(tmp_path):
    hub = tmp_path / "datasets--me--mine"
    root, blobs = hub / "snapshots" / "abc", hub / "blobs"
    (root / "images").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(b"one")
    write_tar(blobs / "2", {"2.jpg": b"two"})
    (root / "images" / "1.jpg").symlink_to("../../../blobs/1")
    (root / "b.tar").symlink_to("../../blobs/2")
    (root / "up.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    assert find(root, "images/1.jpg", "2.jpg", "up.jpg") == [b"one", b"two", None]
    assert find(root / "images", "1.jpg") == [b"one"]
    notes = notes_of(root, "up.jpg")
    assert any("lead out of the folder" in note and "up.jpg" in note for note in notes)


def test_linked_folders_where_the_user_says_so(tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    (elsewhere / "coco").mkdir(parents=True)
    root.mkdir()
    (elsewhere / "coco" / "1.jpg").write_bytes(b"one")
    (elsewhere / "loop").symlink_to(elsewhere)
    write_tar(elsewhere / "coco" / "a.tar", {"2.jpg": b"two"})
    (root / "linked").symlink_to(elsewhere)
    names = ["linked/coco/1.jpg", "linked/coco/2.jpg"]
    assert find(root, *names) == [None, None]
    assert find(root, *names, allow_links_to=[str(elsewhere)]) == [b"one", b"two"]
    for wrong in ("elsewhere", str(tmp_path / "none")):
        with pytest.raises(MaskgenError, match="allow_links_to"):
            index_of(root, allow_links_to=[wrong])


def test_folders_however_deep(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"one")
    here, depth = Path.cwd(), 1500
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            os.mkdir("deep")  # noqa: PTH102 (its path grows too long for a Path)
            os.chdir("deep")
        assert find(tmp_path, "a.jpg", "x/a.jpg") == [b"one", None]
        assert any("cannot be searched" in note for note in notes_of(tmp_path))
    finally:
        for _ in range(depth):  # or pytest could not
            os.chdir("..")
            os.rmdir("deep")  # noqa: PTH106
        os.chdir(here)


def test_what_is_skipped_is_counted_and_safe_to_print(tmp_path):
    for name in ("a.7z", "b.tar.xz", "c.tar.xz", "evil\x1b[2J.rar"):
        (tmp_path / name).write_bytes(b"x")
    assert notes_of(tmp_path) == [
        "1 .7z files that are not read: unpack them, the first a.7z",
        "1 .rar files that are not read: unpack them, the first evil\\x1b[2J.rar",
        "2 .tar.xz files that are not read: unpack them, the first b.tar.xz",
    ]


def test_an_archive_that_a_download_left_as_a_pointer_is_said(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert notes_of(tmp_path) == ["a.tar is a git-lfs pointer: git lfs pull brings the archive itself"]


@pytest.mark.parametrize(
    "name",
    ["x.tar.part1of2", "x.tar (1)", "x.tar.gz.crdownload", "x.tar.bak", "deep/x.zip.incomplete", "X.TGZ~"],
)
def test_what_looks_like_an_archive_and_is_not_read_is_said(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"whatever")
    (note,) = notes_of(tmp_path)
    assert note == f"1 files that look like archives or parts of one and are not read, the first {name}"


def test_what_lies_beside_archives_is_not_said(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.jpg": b"one"})
    for beside in ("x.tar.md5", "x.tar.sha256", "x.tar.json", "x.tar.txt", "y.tarot.jpg", "y.zipper"):
        (tmp_path / beside).write_bytes(b"whatever")
    assert notes_of(tmp_path) == []


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


def test_why_an_image_is_not_found(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "root" / "out.jpg").symlink_to("../secret.jpg")
    with index_of(tmp_path / "root") as index:
        assert index.find(["out.jpg", "gone.jpg"]) == [None, None]
        assert index.why_not("out.jpg").outcome is Outcome.PATH_ESCAPE
        assert index.why_not("gone.jpg").outcome is Outcome.IMAGE_MISSING
        assert any("out.jpg" in note for note in index.notes)


def test_hidden_archives_are_not_read(tmp_path):
    """The publisher's .git.tar.gz weighs 4 GB, and macOS leaves ._x.tar beside x.tar."""
    write_tar(tmp_path / "x.tar", {"1.jpg": b"one"})
    (tmp_path / "._x.tar").write_bytes(b"Mac OS X")
    write_tar(tmp_path / ".git.tar.gz", {"2.jpg": b"two"}, "w:gz")
    assert find(tmp_path, "1.jpg", "2.jpg") == [b"one", None]
    with index_of(tmp_path) as index:
        [note] = index.notes
    assert note.startswith("2 hidden archives that are not read, the first .")


def test_an_archive_that_holds_nothing_is_said(tmp_path):
    """A download that failed: an empty file, or the page that says so."""
    write_tar(tmp_path / "whole.tar", {"1.jpg": b"one"})
    for name in ("a.tar", "b.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    for name in ("c.tar", "d.tar.gz"):
        (tmp_path / name).write_bytes(b"<!DOCTYPE html><html>404: not found</html>" * 30)
    write_tar(tmp_path / "e.tar.gz", {}, "w:gz")
    assert find(tmp_path, "1.jpg") == [b"one"]
    with index_of(tmp_path) as index:
        notes = index.notes
    assert [note[:18] for note in notes if "holds no file" in note] == [
        "a.tar holds no fil", "b.tar.gz holds no ", "d.tar.gz holds no ", "e.tar.gz holds no ",
    ]  # fmt: skip
    assert any(note.startswith("d.tar.gz holds no file: it is a web page") for note in notes)
    assert any("c.tar" in note for note in notes), "its damage is said, as of any tar"
