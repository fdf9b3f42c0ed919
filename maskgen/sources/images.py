"""Image reference → bytes: from a folder or any fsspec URL, from files or archive members."""

import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import IO

from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sample import ArchiveMember, Sample
from maskgen.sources.conversation import check_reference
from maskgen.sources.gzip_archives import GzipArchives, is_gzip
from maskgen.sources.gzip_points import Points
from maskgen.sources.image_folder import ImageFolder, problem


class ImageRoot:
    """The folder (or URL) that image references are relative to. Safe to use from several threads.

    Nothing outside the root is read, whatever a reference or a link in the folder says, but for what links
    in `allow_links_to` or in the hub's cache may reach, and never more than `max_bytes` of one image.
    `kept`: the place where planning left what it takes to read .tar.gz archives at random.
    """

    def __init__(
        self, root: str, max_bytes: int, allow_links_to: Sequence[str] = (), kept: Store | None = None
    ):
        self.folder = ImageFolder(root, allow_links_to)
        self._max_bytes = max_bytes
        self._gzips = GzipArchives(self.folder, kept) if kept else None
        self._points: dict[str, Points] = {}
        self._lock = threading.Lock()

    def read(self, sample: Sample) -> bytes:
        """The image's own bytes.

        SampleError: IMAGE_MISSING, PATH_ESCAPE, IMAGE_TOO_LARGE, IMAGE_CORRUPT (a broken archive member),
        and ERROR for a storage that fails, which trying again may cure.
        """
        if sample.member is not None:  # the index found it, whatever the row calls it
            return self._read_member(sample.member)
        return self.read_file(sample.image)

    def read_file(self, name: str) -> bytes:
        """The same for a file by its name alone."""
        check_reference(name)
        file, size = self.folder.open(name)
        return self._read(file, 0, size)

    def has(self, name: str) -> bool:
        """Whether there is such a file that may be read."""
        try:
            check_reference(name)
            self.folder.open(name)[0].close()
        except SampleError:
            return False
        return True

    def size(self, sample: Sample) -> int | None:
        """Bytes of the image's file (compressed, for an archive member), or None if it cannot be opened."""
        if sample.member is not None:
            return sample.member.size
        try:
            check_reference(sample.image)
            file, size = self.folder.open(sample.image)
        except SampleError:
            return None
        file.close()
        return size

    def _read_member(self, member: ArchiveMember) -> bytes:
        file, _ = self.folder.open_archive(member.archive)
        if is_gzip(member.archive):
            data = self._read_packed(file, member)
        else:
            data = self._read(file, member.offset, member.size)
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

    def _read(self, file: IO[bytes], offset: int, count: int | None) -> bytes:
        """`count` bytes of the file from `offset` on; None for all. Fewer if the file ends."""
        with closing(file):
            self._check_size(count or 0)
            data = _reading(lambda: _at(file, offset, self._max_bytes + 1 if count is None else count))
        self._check_size(len(data))
        return data

    def _read_packed(self, file: IO[bytes], member: ArchiveMember) -> bytes:
        """Of a .tar.gz, `offset` and `size` being those of the inflated tar."""
        with closing(file):
            self._check_size(member.size)
            points = self._points_of(member.archive)
            return _reading(lambda: points.read(file, member.offset, member.size))

    def _points_of(self, archive: str) -> Points:
        with self._lock:
            if archive not in self._points:
                try:
                    if self._gzips is None:
                        raise MaskgenError("nothing is kept of .tar.gz archives")
                    self._points[archive] = self._gzips.points(archive)
                except MaskgenError:
                    lost = "the points to read this .tar.gz from are not beside the output"
                    raise SampleError(Outcome.ERROR, lost) from None
            return self._points[archive]

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise SampleError(
                Outcome.IMAGE_TOO_LARGE, f"the image has more bytes than the limit of {self._max_bytes}"
            )


def _at(file: IO[bytes], offset: int, count: int) -> bytes:
    if offset:
        file.seek(offset)
    return file.read(count)


def _reading(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except MaskgenError:
        raise  # the place, not the image
    except Exception as error:  # each storage has errors of its own
        raise SampleError(Outcome.ERROR, f"the image cannot be read ({problem(error)})") from None
