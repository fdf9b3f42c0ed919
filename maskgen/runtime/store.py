"""The output place, a folder or any fsspec URL, where files appear whole or not at all."""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import fsspec
import orjson
from fsspec.implementations.local import LocalFileSystem

from maskgen.errors import MaskgenError
from maskgen.runtime.place_errors import REMEDIES

_PARTIAL = ".partial-"


class AbsentError(MaskgenError):
    """The file that was asked for is not there."""


class Store:
    """One flat folder of files, local or remote; a name never holds a path separator.

    Making a Store touches nothing: the folder comes into being with its first file. Problems of the
    place (full, read-only, forbidden, unreachable) are MaskgenErrors with the place and the remedy.
    """

    def __init__(self, url: str):
        self.url = url
        self.place = re.sub(r"//[^/@]*@", "//", url)  # no password in a message
        if not url:
            raise MaskgenError("the output place is empty. Give a folder or a URL.")
        try:
            self.fs, self._root = fsspec.core.url_to_fs(url)
        except ValueError as error:
            raise MaskgenError(f"{self.place}: {error}. Give a folder or a URL fsspec knows.") from error
        except ImportError as error:
            raise MaskgenError(f"{self.place} needs another package: {error}") from error
        self._folder = Path(self._root) if isinstance(self.fs, LocalFileSystem) else None
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise MaskgenError(f"{self.place} is a file, not a folder. Give another place.")

    def __repr__(self) -> str:
        return f"Store({self.place!r})"

    # Reading

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        with self.explained(name, "look up"):
            if self._folder is not None:
                return (self._folder / _checked(name)).is_file()
            self.fs.invalidate_cache()
            return bool(self.fs.isfile(self._path(name)))

    def size(self, name: str) -> int | None:
        """The file's bytes; None if it is not there."""
        if self._folder is None:
            with self.explained(name, "look up"):
                return self._size(name)
        path = self._folder / _checked(name)
        return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        """The files at the top, sorted; no temporaries, no folders. Empty if the folder is not there."""
        return [name for name in self._all() if not name.startswith(_PARTIAL)]

    def open(self, name: str) -> IO[bytes]:
        """The file, to be read and seeked in. AbsentError if it is not there."""
        with self.explained(name, "read"):
            if self._folder is not None:
                return (self._folder / _checked(name)).open("rb")
            stream: IO[bytes] = self.fs.open(self._path(name), "rb")
            return stream

    def read_bytes(self, name: str) -> bytes:
        """The whole file. AbsentError if it is not there."""
        with self.open(name) as stream, self.explained(name, "read"):
            return stream.read()

    def read_json(self, name: str) -> Any:
        """The file parsed as JSON."""
        try:
            return orjson.loads(self.read_bytes(name))
        except orjson.JSONDecodeError as error:
            raise MaskgenError(f"{self.where(name)} is not JSON: {error}. Restore or remove it.") from error

    def local(self, name: str) -> Path | None:
        """The file's path on this machine, whether or not it exists; None if the place is remote."""
        return None if self._folder is None else self._folder / _checked(name)

    def where(self, name: str) -> str:
        """The file's full address, for messages."""
        return f"{self.place.rstrip('/')}/{name}"

    def disk_free(self) -> int | None:
        """Free bytes on the disk that holds the folder; None if the place is remote."""
        if self._folder is None:
            return None
        there = next(path for path in (self._folder, *self._folder.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free

    # Writing

    @contextmanager
    def publish(self, name: str) -> Iterator[Path]:
        """A path to write; on a clean exit the file appears under `name`, whole and on the disk."""
        with self.partial(name) as path:
            yield path
            self.move_in(path, name)

    @contextmanager
    def partial(self, name: str) -> Iterator[Path]:
        """A path to write what `move_in` will publish; whatever is left there afterwards is removed.

        In the same folder, so that publishing is a rename; for a remote place in the temp folder.
        """
        tail = f"{_checked(name)}-{os.getpid()}-{secrets.token_hex(4)}"
        with self.explained(name, "write"):
            self._make_folder()
            path = (self._folder or _temp_folder()) / f"{_PARTIAL}{tail}"
            path.touch(exist_ok=False)
        try:
            with self.explained(name, "write"):
                yield path
        finally:
            path.unlink(missing_ok=True)

    def move_in(self, path: Path, name: str, durable: bool = True) -> None:
        """Publish the finished temporary `path` as `name`, replacing an older file at one stroke.

        Without `durable` it is not forced onto the disk: for notes that a power failure may take.
        """
        with self.explained(name, "write"):
            if self._folder is None:
                self._upload(path, name)
                return
            if durable:
                _sync(path)
            path.replace(self._folder / _checked(name))
            if durable:
                _sync_folder(self._folder)

    def write_bytes(self, name: str, data: bytes, durable: bool = True) -> None:
        """Publish `data`."""
        with self.partial(name) as path:
            path.write_bytes(data)
            self.move_in(path, name, durable)

    def write_json(self, name: str, tree: Any, durable: bool = True) -> None:
        """Publish `tree` as JSON: see `dump_json`."""
        self.write_bytes(name, dump_json(tree), durable)

    def remove(self, name: str) -> None:
        """Remove the file if it is there."""
        with self.explained(name, "remove"):
            if self._folder is None:
                if self.exists(name):
                    self.fs.rm_file(self._path(name))
            else:
                (self._folder / _checked(name)).unlink(missing_ok=True)
                if self._folder.is_dir():
                    _sync_folder(self._folder)

    def leftovers(self) -> list[str]:
        """Temporaries in the place itself, of running or killed processes."""
        return [name for name in self._all() if name.startswith(_PARTIAL)]

    def sweep(self) -> None:
        """Remove temporaries that killed processes left. To be called by the holder of the lease alone:
        in the place itself every temporary goes; in the temp folder, which other runs share, only
        those whose process is gone."""
        if self._folder is not None:
            for name in self.leftovers():
                self.remove(name)
            for folder in self._folder.glob(f"{_PARTIAL}*/"):  # working space beside a temporary
                shutil.rmtree(folder, ignore_errors=True)
            return
        for path in _temp_folder().glob(f"{_PARTIAL}*"):
            if not _alive(path):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def explained(self, name: str, verb: str) -> Iterator[None]:
        """Turn an OSError about the place into a sentence; others pass unchanged."""
        try:
            yield
        except FileNotFoundError as error:
            if verb == "read":
                raise AbsentError(
                    f"{self.where(name)} is not there. Check the place, or finish the run that makes it."
                ) from error
            raise
        except OSError as error:
            denied = errno.EACCES if isinstance(error, PermissionError) else 0
            reason = REMEDIES.get(error.errno or denied)
            if reason is None and self._folder is not None and error.errno != errno.EIO:
                raise
            through = "" if self._folder is not None else f" (by way of {_temp_folder()})"
            reason = reason or f"{error}. Check the place, then run the same command again"
            raise MaskgenError(f"cannot {verb} {self.where(name)}{through}: {reason}.") from error

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{_checked(name)}"

    def _all(self) -> list[str]:
        try:
            if self._folder is not None:
                with os.scandir(self._folder) as entries:
                    return sorted(entry.name for entry in entries if entry.is_file())
            self.fs.invalidate_cache()
            entries = self.fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise MaskgenError(f"cannot list {self.place}: permission denied. Check its rights.") from error
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    def _make_folder(self) -> None:
        if self._folder is None:
            # Object stores have no folders; file systems behind a URL (sftp, hdfs, memory) do.
            self.fs.makedirs(self._root, exist_ok=True)
        elif not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(self._folder.parent)

    def _upload(self, path: Path, name: str) -> None:
        """An upload that fails must not leave half a file: what changed under the name is removed."""
        target, before = self._path(name), self._size(name)
        try:
            self.fs.put_file(str(path), target)
            if self._size(name) != path.stat().st_size:
                raise OSError(errno.EIO, "the upload arrived incomplete")
        except BaseException:
            with suppress(Exception):
                if self._size(name) != before:
                    self.fs.rm_file(target)
            raise

    def _size(self, name: str) -> int | None:
        self.fs.invalidate_cache()
        try:
            return int(self.fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return None


def dump_json(tree: Any) -> bytes:
    """Readable JSON that depends on `tree` alone: sorted keys, two spaces, a newline at the end."""
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _checked(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no file name")
    return name


def _temp_folder() -> Path:
    return Path(tempfile.gettempdir())


def _alive(partial: Path) -> bool:
    """Whether the process that made this temporary still runs (its id is in the name)."""
    try:
        os.kill(int(partial.name.rsplit("-", 2)[1]), 0)
    except (ProcessLookupError, ValueError, IndexError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot sync a folder; their rename is as durable as they make it.
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
