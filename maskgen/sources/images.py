"""Image reference → bytes: from a folder or any fsspec URL, from files or archive members."""

import errno
import os
import stat
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.sample import ArchiveMember, Sample
from maskgen.sources.conversation import check_reference

_ATTEMPTS = 3  # at a storage that does not answer
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}


class ImageRoot:
    """The folder (or URL) that image references are relative to. Safe to use from several threads.

    Nothing outside the root is read, whatever a reference or a link in the folder says, and never more
    than `max_bytes` of one image.
    """

    def __init__(self, root: str, max_bytes: int):
        self._fs, self._root = fsspec.core.url_to_fs(root)
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._max_bytes = max_bytes
        if self._is_local:
            if not Path(self._root).is_dir():
                raise MaskgenError(f"no image folder {root}. Check --data and source.images.")
            self._root = str(Path(self._root).resolve())

    def read(self, sample: Sample) -> bytes:
        """The image's own bytes.

        SampleError: IMAGE_MISSING, PATH_ESCAPE, IMAGE_TOO_LARGE, IMAGE_CORRUPT (a broken archive member),
        and ERROR for a storage that fails, which trying again may cure.
        """
        check_reference(sample.image)
        if sample.member is None:
            return self._read(sample.image, 0, None)
        return self._read_member(sample.member)

    def read_file(self, name: str) -> bytes:
        """The same for a file by its name alone."""
        check_reference(name)
        return self._read(name, 0, None)

    def has(self, name: str) -> bool:
        """Whether there is such a file that may be read."""
        try:
            check_reference(name)
            self._open(name)[0].close()
        except SampleError:
            return False
        return True

    def size(self, sample: Sample) -> int | None:
        """Bytes of the image's file (compressed, for an archive member), or None if it cannot be opened."""
        if sample.member is not None:
            return sample.member.size
        try:
            check_reference(sample.image)
            file, size = self._open(sample.image)
        except SampleError:
            return None
        file.close()
        return size

    def _read_member(self, member: ArchiveMember) -> bytes:
        data = self._read(member.archive, member.offset, member.size)
        if len(data) < member.size:
            raise SampleError(Outcome.IMAGE_CORRUPT, "the archive ends within the image")
        if not member.deflated:
            return data
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(data, self._max_bytes + 1)
        except zlib.error:
            raise SampleError(Outcome.IMAGE_CORRUPT, "the archive member cannot be inflated") from None
        self._check_size(len(data))
        if not inflater.eof:
            raise SampleError(Outcome.IMAGE_CORRUPT, "the archive member ends early")
        return data

    def _read(self, name: str, offset: int, count: int | None) -> bytes:
        """`count` bytes of the file from `offset` on; None for all. Fewer if the file ends."""
        file, size = self._open(name)
        with closing(file):
            wanted = size if count is None else count
            self._check_size(wanted or 0)
            try:
                if offset:
                    file.seek(offset)
                data = file.read(self._max_bytes + 1 if wanted is None else wanted)
            except Exception as error:  # each storage has errors of its own
                raise SampleError(Outcome.ERROR, f"the image cannot be read ({_name(error)})") from None
        self._check_size(len(data))
        return data

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise SampleError(
                Outcome.IMAGE_TOO_LARGE, f"the image has more bytes than the limit of {self._max_bytes}"
            )

    def _open(self, name: str) -> tuple[BinaryIO, int | None]:
        """The file and its size in bytes, if the storage knows it."""
        return self._open_local(name) if self._is_local else self._open_remote(name)

    def _open_local(self, name: str) -> tuple[BinaryIO, int]:
        try:
            path = Path(self._root, name).resolve()
            if not path.is_relative_to(self._root):
                raise SampleError(Outcome.PATH_ESCAPE, "a link leads out of the image folder")
            # Non-blocking, or a named pipe would hang; no links, since they have been followed and checked.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            if isinstance(error, OSError) and error.errno not in _NO_SUCH_FILE:
                raise SampleError(Outcome.ERROR, f"the image cannot be opened ({_name(error)})") from None
            raise SampleError(Outcome.IMAGE_MISSING, "there is no such file") from None
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise SampleError(Outcome.IMAGE_MISSING, "the image path is not a regular file")
        return os.fdopen(handle, "rb"), status.st_size

    def _open_remote(self, name: str) -> tuple[BinaryIO, int | None]:
        path = f"{self._root.rstrip('/')}/{name}"
        for attempt in range(_ATTEMPTS):
            try:
                file = self._fs.open(path, "rb")
                return file, getattr(file, "size", None)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise SampleError(Outcome.IMAGE_MISSING, "there is no such file") from None
            except Exception as error:  # each storage has errors of its own
                problem = _name(error)
                time.sleep(0.2 * 4**attempt)
        raise SampleError(Outcome.ERROR, f"the storage does not answer ({problem})")


def _name(error: Exception) -> str:
    """A name for the error that is the same on every machine and in every run."""
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, type(error).__name__) if number else type(error).__name__
