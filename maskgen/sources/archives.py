"""Image reference → archive member: an index on disk of the tar and zip files under the image root."""

import os
import posixpath
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskgen.errors import MaskgenError
from maskgen.sample import ArchiveMember

_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_REMOTE_DEPTH = 3  # listing a bucket with millions of images takes minutes and gigabytes
_Entry = tuple[int, int, int, int, int]
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: magic, length of its name, of its extra field


class Found(NamedTuple):
    """An image that is there: `member` is None for a file that has the reference's own name."""

    member: ArchiveMember | None


class ArchiveIndex:
    """Finds images in archives. Use as a context manager: the index is a temporary file.

    `notes` says what could not be indexed; `compressed` are archives that cannot be read at random.
    """

    def __init__(self, root: str):
        self._fs, path = fsspec.core.url_to_fs(root)
        self._root = path.rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)
        if self._is_local and not Path(path).is_dir():
            raise MaskgenError(f"no image folder {root}. Check --data and source.images.")
        self._folder = tempfile.TemporaryDirectory(prefix="maskgen-")
        self._table = sqlite3.connect(Path(self._folder.name, "members.sqlite"))
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(
            "CREATE TABLE members (name TEXT, archive INT, start INT, size INT, deflated INT, is_zip INT, "
            "PRIMARY KEY (name, archive)) WITHOUT ROWID"
        )
        self._archives: list[str] = []
        self._places: dict[str, set[int]] = {}
        self.notes: list[str] = []
        self.compressed: list[str] = []
        for name in sorted(self._walk()):
            if name.lower().endswith(_COMPRESSED_TARS):
                self.compressed.append(name)
            else:
                self._add(name)
        self._table.commit()

    def __enter__(self) -> "ArchiveIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._folder.cleanup()

    @property
    def is_empty(self) -> bool:
        return not self._archives and not self.compressed

    def locate(self, references: list[str]) -> list[ArchiveMember | None]:
        """The member for each reference; None where no archive has it or the folder itself does.

        A member answers to its own name, to "<archive's stem>/<name>", and to both after the archive's
        folder. Of several archives the first by name wins.
        """
        found = [self._look_up(posixpath.normpath(reference)) for reference in references]
        in_archives = [reference for reference, entry in zip(references, found, strict=True) if entry]
        in_folder = dict(zip(in_archives, self.exist(in_archives), strict=True))
        return [
            self._member(*entry) if entry and not in_folder[reference] else None
            for reference, entry in zip(references, found, strict=True)
        ]

    def find(self, references: list[str]) -> list[Found | None]:
        """Where each image lies, in a file or in an archive; None where it is nowhere."""
        members = self.locate(references)
        there = self.exist(references)
        return [
            Found(member) if member or exists else None for member, exists in zip(members, there, strict=True)
        ]

    def has(self, reference: str) -> bool:
        """Whether the image is there. `find` asks for many at a time, which a remote root answers sooner."""
        return self.find([reference])[0] is not None

    def exist(self, references: list[str]) -> list[bool]:
        """Whether the folder itself has each of the files."""
        paths = [f"{self._root}/{reference}" for reference in references]
        if self._is_local:
            return [os.path.exists(path) for path in paths]  # noqa: PTH110 (false for an impossible name)
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self._fs.exists, paths))

    def _look_up(self, reference: str) -> _Entry | None:
        parts = reference.split("/")
        for cut in range(len(parts)):
            archives = self._places.get("/".join(parts[:cut]), ())
            if archives:
                rows = self._table.execute(
                    "SELECT archive, start, size, deflated, is_zip FROM members WHERE name = ? "
                    "ORDER BY archive",
                    ("/".join(parts[cut:]),),
                )
                for row in rows:
                    if row[0] in archives:
                        return row
        return None

    def _member(
        self, archive: int, start: int, size: int, deflated: int, is_zip: int
    ) -> ArchiveMember | None:
        name = self._archives[archive]
        if is_zip:  # only now: reading every member's own header would read the whole archive
            header = self._fs.cat_file(f"{self._root}/{name}", start=start, end=start + _LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
                return None
            _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            start += _LOCAL_HEADER.size + name_length + extra_length
        return ArchiveMember(name, start, size, bool(deflated))

    def _add(self, name: str) -> None:
        number = len(self._archives)
        self._archives.append(name)
        folder, file_name = posixpath.split(name)
        stem = posixpath.splitext(file_name)[0]
        for place in ("", stem, folder, posixpath.join(folder, stem)):
            self._places.setdefault(place, set()).add(number)
        read_entries = _zip_entries if name.lower().endswith(".zip") else _tar_entries
        try:
            with self._fs.open(f"{self._root}/{name}", "rb") as file:
                self._table.executemany(
                    "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)",
                    ((posixpath.normpath(entry[0]), number, *entry[1:]) for entry in read_entries(file)),
                )
        except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            self.notes.append(f"{name} is broken ({error}): only images before the damage are found")

    def _walk(self) -> Iterator[str]:
        """Archives under the root, as paths relative to it."""
        files = _local_files(self._root, self.notes) if self._is_local else self._remote_files()
        for path in files:
            if path.lower().endswith((".tar", ".zip", *_COMPRESSED_TARS)):
                yield posixpath.relpath(path, self._root)

    def _remote_files(self) -> Iterator[str]:
        try:
            yield from self._fs.find(self._root, maxdepth=_REMOTE_DEPTH)
        except Exception as error:  # each storage has errors of its own; some cannot list at all
            self.notes.append(f"the image root cannot be searched for archives: {type(error).__name__}")


def _local_files(folder: str, notes: list[str]) -> Iterator[str]:
    """Regular files below `folder`; one at a time, since a folder may hold millions."""
    try:
        entries = os.scandir(folder)
    except OSError as error:
        notes.append(f"{folder} cannot be searched for archives: {error.strerror}")
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _local_files(entry.path, notes)
            elif entry.is_file():
                yield entry.path


def _tar_entries(file: BinaryIO) -> Iterator[tuple[str, int, int, bool, bool]]:
    """Regular members: name, where the data starts, its size, deflated, zip."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and not member.issparse():
                yield member.name, member.offset_data, member.size, False, False
            tar.members = []  # type: ignore[attr-defined]  # or it would keep them all


def _zip_entries(file: BinaryIO) -> Iterator[tuple[str, int, int, bool, bool]]:
    """Members stored or deflated, not encrypted: name, where the local header starts, bytes in the file."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            plain = not member.flag_bits & 1 and not member.is_dir()
            if plain and member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                deflated = member.compress_type == zipfile.ZIP_DEFLATED
                yield member.filename, member.header_offset, member.compress_size, deflated, True
