"""Files and folders at a path or URL, by way of fsspec, which is imported here alone.

Outages are waited out, a storage's own exceptions become OSErrors, and no bucket is ever made.
"""

import errno
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.compression import compr
from fsspec.implementations.local import LocalFileSystem

from maskgen.errors import MaskgenError, first_line
from maskgen.runtime.waiting import is_on_network, waited_out

_T = TypeVar("_T")
_BUFFER_BYTES = 64 << 10
# What has buckets instead of folders. Elsewhere (sftp, hdfs, memory) folders are made as on a disk.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"}
_STORAGES = {
    "adlfs", "aiobotocore", "aiohttp", "azure", "boto3", "botocore", "fsspec", "gcsfs", "google", "ocifs",
    "ossfs", "paramiko", "requests", "s3fs", "urllib3",
}  # fmt: skip


class Files:
    """The file system behind `url`. Making one touches nothing. Safe to use from several threads.

    `path`: what the system calls the URL. `is_local`: whether it is this machine's own, or mounted on it.
    `place`: the URL without a password, for messages. MaskgenError if no such system is known.
    """

    def __init__(self, url: str):
        self.place = without_password(url)
        try:
            self.system, self.path = fsspec.core.url_to_fs(url)
        except ValueError as error:
            raise MaskgenError(f"{self.place}: {error}. Give a folder or a URL fsspec knows.") from error
        except ImportError as error:
            raise MaskgenError(f"{self.place} needs another package: {error}.{_extra(url)}") from error
        self.is_local = isinstance(self.system, LocalFileSystem)
        protocols = (
            {self.system.protocol} if isinstance(self.system.protocol, str) else set(self.system.protocol)
        )
        self.has_buckets = bool(protocols & _BUCKETS)
        if "s3" in protocols:
            self.system.retries = 1  # s3fs would repeat botocore's five attempts five times, in silence
        self._host = re.sub(r"(://[^/]*).*", r"\1", self.place)  # what is away when it is away
        self.on_network = not self.is_local or is_on_network(self.path)

    def info(self, path: str) -> dict[str, Any]:
        """Size and kind, asked anew. FileNotFoundError if there is none."""
        return self._call(lambda: self._asked(path))

    def size(self, path: str) -> int | None:
        """Bytes, if the system knows them. FileNotFoundError if there is no such file."""
        size = self.info(path)["size"]
        return None if size is None else int(size)

    def isfile(self, path: str) -> bool:
        """Unlike fsspec's own, an outage or a refusal is not "no"."""
        return self._kind(path) == "file"

    def isdir(self, path: str) -> bool:
        """Likewise."""
        return self._kind(path) == "directory"

    def ls(self, path: str) -> list[dict[str, Any]]:
        """Name, size and kind of what lies in a folder, asked anew."""

        def listed() -> list[dict[str, Any]]:
            self.system.invalidate_cache()
            return list(self.system.ls(path, detail=True))

        return self._call(listed)

    def find(self, path: str, maxdepth: int) -> list[str]:
        """The files below a folder, at most so deep."""
        return self._call(lambda: list(self.system.find(path, maxdepth=maxdepth)))

    def glob(self, pattern: str) -> list[str]:
        """What matches."""
        return self._call(lambda: list(self.system.glob(pattern)))

    def open(self, path: str) -> BinaryIO:
        """The file, to be read and seeked in. FileNotFoundError if it is not there."""
        if not self.on_network:
            return Path(path).open("rb")
        return reopening(lambda: self.system.open(path, "rb"), self._call)

    def put(self, source: str, path: str) -> None:
        """Upload a local file."""
        self._call(lambda: self.system.put_file(source, path))

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file, at one stroke, if there is none; whether there was none.

        By a conditional put (S3, GCS, Azure) or as the system does it; one that cannot is asked beforehand.
        """
        try:
            self._call(lambda: self.system.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return False
        except (NotImplementedError, ValueError, TypeError):  # it knows no such mode
            if self._kind(path):
                return False
            self._call(lambda: self.system.pipe_file(path, data))
        return True

    def remove(self, path: str) -> None:
        """Remove a file. FileNotFoundError if there is none."""
        self._call(lambda: self.system.rm_file(path))

    def make_folder(self, path: str) -> None:
        """With those above it; where there are buckets, nothing: a mistyped one must not come into being."""
        if not self.has_buckets:
            self._call(lambda: self.system.makedirs(path, exist_ok=True))

    def _asked(self, path: str) -> dict[str, Any]:
        self.system.invalidate_cache()
        return dict(self.system.info(path))

    def _kind(self, path: str) -> str:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _call(self, work: Callable[[], _T]) -> _T:
        return waited_out(lambda: _as_os_error(work), self._host, self.on_network)


class _Reopening(io.RawIOBase):
    """A file that is opened again, where it was, when reading fails on the way; `size` if it is known."""

    def __init__(self, opener: Callable[[], BinaryIO], call: Callable[[Callable[[], Any]], Any]):
        self._opener, self._call, self._at = opener, call, 0
        self._file: BinaryIO | None = call(opener)
        self.size: int | None = getattr(self._file, "size", None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            offset += self._call(lambda: self._opened().seek(0, io.SEEK_END))
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).cast("B")
        data = self._call(lambda: self._read(len(wanted)))
        wanted[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._opener()
        return self._file

    def _read(self, count: int) -> bytes:
        try:
            file = self._opened()
            if file.tell() != self._at:
                file.seek(self._at)
            return file.read(count)
        except Exception:
            self._file = None  # its connection or handle may be what is stale
            raise


def reopening(opener: Callable[[], BinaryIO], call: Callable[[Callable[[], Any]], Any]) -> BinaryIO:
    """What `opener` opens, read through outages by `call`, which repeats what it is given while one lasts."""
    return io.BufferedReader(_Reopening(opener, call), _BUFFER_BYTES)


def open_file(url: str, inflated: bool = False) -> BinaryIO:
    """One file at a path or URL, to be read. `inflated`: what its name's ending says is undone."""
    files = Files(url)
    stream = files.open(files.path)
    kind = compression(files.path) if inflated else None
    if kind is None:
        return stream
    if kind not in compr:
        raise ValueError(f"compression {kind} is not installed")
    inflating: BinaryIO = compr[kind](stream, mode="rb")
    return inflating


def compression(path: str) -> str | None:
    """How a file is compressed, by its name's ending."""
    kind: str | None = fsspec.utils.infer_compression(path)
    return kind


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", url)


def _as_os_error(work: Callable[[], _T]) -> _T:
    """The storages' packages have exceptions of their own, which nobody above knows."""
    try:
        return work()
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORAGES:
            raise
        said = f"{type(error).__name__}: {first_line(error)}"
        if "Credential" in type(error).__name__ or "Token" in type(error).__name__:
            raise PermissionError(errno.EACCES, said) from error
        raise OSError(errno.EIO, said) from error


def _extra(url: str) -> str:
    protocol = url.partition("://")[0]
    extras = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
    extra = extras.get(protocol)
    return f" pip install 'maskgen[{extra}]' brings it." if extra else ""
