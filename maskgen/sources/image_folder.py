"""The folder or URL that images lie under: its files, its archives in parts, and what links may reach."""

import errno
import io
import os
import posixpath
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from maskgen.errors import MaskgenError, SampleError
from maskgen.outcome import Outcome
from maskgen.runtime.storage import Files, reopening
from maskgen.runtime.waiting import waited_out
from maskgen.sources.archive_parts import Joined, parted
from maskgen.sources.image_names import as_on_disk
from maskgen.sources.links import Confines
from maskgen.sources.members import Oddities

REMOTE_DEPTH = 3  # listing a bucket with millions of images takes minutes and gigabytes
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EILSEQ}


class ImageFolder:
    """Opens what lies under `root`, a folder or URL. Safe to use from several threads.

    Nothing outside it is opened, whatever a name or a link says, but for what `Confines` allows.
    """

    def __init__(self, root: str, allow_links_to: Sequence[str] = ()):
        """MaskgenError if there is no such folder."""
        self.storage = Files(root)
        self.path = self.storage.path.rstrip("/") or "/"
        self.is_local = self.storage.is_local
        if self.is_local:
            if not Path(self.path).is_dir():
                raise MaskgenError(f"no image folder {root}. Check --data and source.images.")
            self.path = str(Path(self.path).resolve())
        self._confines = Confines(self.path, allow_links_to if self.is_local else ())
        self._parts: dict[str, tuple[list[str], list[int]]] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> tuple[BinaryIO, int | None]:
        """A file and its size in bytes, if the storage knows it.

        SampleError: IMAGE_MISSING, PATH_ESCAPE, and ERROR for a storage that fails, which trying again may
        cure.
        """
        return self._open_local(as_on_disk(name)) if self.is_local else self._open_remote(name)

    def open_archive(self, name: str) -> tuple[BinaryIO, int | None]:
        """The same for an archive, which may lie in parts."""
        if name not in self._parts:
            try:
                return self.open(name)
            except SampleError as missing:
                if missing.outcome is not Outcome.IMAGE_MISSING:
                    raise
                self._find_parts(name, missing)
        names, sizes = self._parts[name]
        joined = Joined(sizes, lambda number: self.open(names[number])[0])
        return io.BufferedReader(joined, 64 << 10), sum(sizes)

    def exists(self, name: str) -> bool:
        """Whether there is such a file that may be read."""
        if not self.is_local:
            try:
                return not _leads_elsewhere(name) and self.storage.isfile(self._place(name))
            except OSError:
                return False
        path = f"{self.path}/{as_on_disk(name)}"
        try:
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                return self._confines.folder_is_inside(posixpath.dirname(path))
            return Path(path).is_file() and self._confines.hold(Path(path).resolve())
        except (OSError, ValueError, RuntimeError):
            return False

    def is_refused(self, name: str) -> bool:
        """Whether there is such a file, and links lead to it that may not be followed."""
        path = f"{self.path}/{as_on_disk(name)}"
        try:
            return self.is_local and os.path.isfile(path) and not self.exists(name)  # noqa: PTH113
        except ValueError:
            return False

    def has_folder(self, name: str) -> bool:
        """Whether a local root has such a folder."""
        return self.is_local and Path(self.path, as_on_disk(name)).is_dir()

    def files(self, odd: Oddities) -> Iterator[str]:
        """Names of the files below, relative; of a remote folder, those at most REMOTE_DEPTH down.

        One at a time, since there may be millions. Linked folders are gone through once each, if they may be.
        What is left out is counted in `odd`.
        """
        return self._local_files(odd) if self.is_local else self._remote_files(odd)

    def _find_parts(self, name: str, missing: SampleError) -> None:
        folder, _ = posixpath.split(name)
        try:
            if self.is_local:
                names = os.listdir(self._place(as_on_disk(folder)))  # noqa: PTH208
            else:
                names = [posixpath.basename(each["name"]) for each in self.storage.ls(self._place(folder))]
        except OSError:
            raise missing from None
        parts = parted(posixpath.join(folder, other) for other in names).get(name)
        if parts is None or not parts.names:
            raise missing
        sizes = []
        for part in parts.names:
            file, size = self.open(part)
            with file:
                sizes.append(file.seek(0, io.SEEK_END) if size is None else size)
        with self._lock:
            self._parts[name] = parts.names, sizes

    def _place(self, name: str) -> str:
        return posixpath.join(self.path, name) if name else self.path

    def _open_local(self, name: str) -> tuple[BinaryIO, int]:
        if not self.storage.on_network:
            return self._open_confined(name)
        size = 0

        def opened() -> BinaryIO:
            nonlocal size
            file, size = self._open_confined(name)
            return file

        return reopening(opened, lambda work: waited_out(work, self.path)), size

    def _open_confined(self, name: str) -> tuple[BinaryIO, int]:
        try:
            path = Path(self.path, name).resolve()
            if not self._confines.hold(path):
                raise SampleError(Outcome.PATH_ESCAPE, "a link leads out of the image folder")
            # Non-blocking, or a named pipe would hang; no links, since they have been followed and checked.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            if isinstance(error, OSError) and error.errno not in _NO_SUCH_FILE:
                raise SampleError(Outcome.ERROR, f"the image cannot be opened ({problem(error)})") from error
            raise SampleError(Outcome.IMAGE_MISSING, "there is no such file") from None
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise SampleError(Outcome.IMAGE_MISSING, "the image path is not a regular file")
        return open(handle, "rb"), status.st_size  # noqa: PTH123

    def _open_remote(self, name: str) -> tuple[BinaryIO, int | None]:
        if _leads_elsewhere(name):
            raise SampleError(
                Outcome.PATH_ESCAPE, "a remote storage would read the image path as another place"
            )
        try:
            file = self.storage.open(self._place(name))
            return file, file.raw.size  # type: ignore[attr-defined]
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise SampleError(Outcome.IMAGE_MISSING, "there is no such file") from None
        except OSError as error:
            self._refuse_lost_keys(error)
            said = problem(error)
        raise SampleError(Outcome.ERROR, f"the storage refuses it ({said})")

    def _refuse_lost_keys(self, error: OSError) -> None:
        """MaskgenError if not even the folder can be seen: then it is no image's fault."""
        try:
            self.storage.info(self.path)
        except FileNotFoundError:
            return
        except OSError as refusal:
            raise MaskgenError(
                f"{self.storage.place} cannot be read any more ({refusal}). Have the keys or the token run "
                "out? Renew them, then run the same command again."
            ) from error

    def _local_files(self, odd: Oddities) -> Iterator[str]:
        waiting = [""]
        followed = {self.path}
        while waiting:
            folder = waiting.pop()
            try:
                entries = os.scandir(self._place(folder))
            except OSError as error:
                odd.add(f"folders that cannot be searched ({error.strerror})", folder)
                continue
            with entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if not entry.is_symlink():
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(name)
                        elif entry.is_file(follow_symlinks=False):
                            yield name
                        continue
                    try:
                        target = Path(entry.path).resolve()
                        if not target.exists():
                            odd.add("links that lead nowhere", name)
                        elif not self._confines.hold(target):
                            odd.add("links that lead out of the folder (see source.allow_links_to)", name)
                        elif target.is_file():
                            yield name
                        elif target.is_dir() and str(target) not in followed:
                            followed.add(str(target))
                            waiting.append(name)
                    except (OSError, RuntimeError):
                        odd.add("links that lead nowhere", name)

    def _remote_files(self, odd: Oddities) -> Iterator[str]:
        try:
            for path in self.storage.find(self.path, maxdepth=REMOTE_DEPTH):
                yield posixpath.relpath(path, self.path)
        except MaskgenError:
            raise
        except Exception as error:  # each storage has errors of its own; some cannot list at all
            odd.add(f"failures to search the image root for archives ({type(error).__name__})")


def _leads_elsewhere(name: str) -> bool:
    """Whether a name may mean a place outside to a remote storage.

    Some read backslashes as separators, percent signs as escapes, and "::" as a chain of storages.
    """
    parts = unquote(name).replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or ":" in parts[0] or "::" in name


def problem(error: Exception) -> str:
    """A name for the error that is the same on every machine and in every run."""
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, type(error).__name__) if number else type(error).__name__
