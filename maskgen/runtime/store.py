"""The output place, a folder or any fsspec URL, where files appear whole or not at all."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import orjson

from maskgen.errors import MaskgenError
from maskgen.runtime.place_errors import REMEDIES
from maskgen.runtime.storage import Files
from maskgen.runtime.waiting import waited_out

_PARTIAL = ".partial-"
_T = TypeVar("_T")
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class AbsentError(MaskgenError):
    """The file that was asked for is not there."""


class Store:
    """One flat folder of files, local or remote; a name never holds a path separator.

    Making a Store touches nothing: the folder comes into being with its first file. Problems of the
    place (full, read-only, forbidden, unreachable) are MaskgenErrors with the place and the remedy.
    """

    def __init__(self, url: str):
        self.url = url
        if not url:
            raise MaskgenError("the output place is empty. Give a folder or a URL.")
        self.files = Files(url)
        self.place = self.files.place
        self._root = self.files.path
        self._folder = Path(self._root) if self.files.is_local else None
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise MaskgenError(f"{self.place} is a file, not a folder. Give another place.")

    def __repr__(self) -> str:
        return f"Store({self.place!r})"

    # Reading

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        with self.explained(name, "look up"):
            return self._size(name) is not None

    def size(self, name: str) -> int | None:
        """The file's bytes; None if it is not there."""
        with self.explained(name, "look up"):
            return self._size(name)

    def names(self) -> list[str]:
        """The files at the top, sorted; no temporaries, no folders. Empty if the folder is not there."""
        return [name for name in self._all() if not name.startswith(_PARTIAL)]

    def open(self, name: str) -> IO[bytes]:
        """The file, to be read and seeked in. AbsentError if it is not there."""
        with self.explained(name, "read"):
            return self.files.open(self._path(name))

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
            self._waiting(lambda: self._replace(path, name, durable))

    def write_bytes(self, name: str, data: bytes, durable: bool = True) -> None:
        """Publish `data`."""

        def written() -> None:
            with self.partial(name) as path:
                path.write_bytes(data)
                self.move_in(path, name, durable)

        self._waiting(written)

    def create_json(self, name: str, tree: Any) -> bool:
        """Publish `tree` if there is no such file yet, and tell whether: of several at once, one wins."""
        data = dump_json(tree)

        def created() -> bool:
            if self._folder is None:
                with self.explained(name, "write"):
                    self._make_folder()
                    return self.files.create(self._path(name), data)
            with self.partial(name) as path:
                path.write_bytes(data)
                return _link(path, self._folder / _checked(name))

        return self._waiting(created)

    def write_json(self, name: str, tree: Any, durable: bool = True) -> None:
        """Publish `tree` as JSON: see `dump_json`."""
        self.write_bytes(name, dump_json(tree), durable)

    def remove(self, name: str) -> None:
        """Remove the file if it is there."""
        with self.explained(name, "remove"):
            if self._folder is not None:
                self._waiting(lambda: self._unlink(name))
            elif self.exists(name):
                with suppress(FileNotFoundError):
                    self.files.remove(self._path(name))

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

    def waited_out(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, begun anew as long as it fails because the place is away for a while."""
        return self._waiting(work)

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
            if self._folder is None:
                raise MaskgenError(
                    f"cannot {verb} {self.where(name)}: {error}. Check the bucket's name: none is made."
                ) from error
            raise
        except OSError as error:
            if said := self._sentence(name, verb, error):
                raise MaskgenError(said) from error
            raise

    def _sentence(self, name: str, verb: str, error: OSError) -> str:
        """Empty for what is no problem of the place."""
        denied = errno.EACCES if isinstance(error, PermissionError) else 0
        if self._folder is None and denied:
            return (
                f"cannot {verb} {self.where(name)}: permission denied ({_told(error)}). Check the keys or "
                "token that this process has for the storage, and what they allow."
            )
        reason = REMEDIES.get(error.errno or denied)
        if reason is None and self._folder is not None and error.errno != errno.EIO:
            return ""
        through = "" if self._folder is not None else f" (by way of {_temp_folder()})"
        reason = reason or f"{error}. Check the place, then run the same command again"
        return f"cannot {verb} {self.where(name)}{through}: {reason}."

    def _waiting(self, work: Callable[[], _T]) -> _T:
        return waited_out(work, self.place, self.files.on_network)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{_checked(name)}"

    def _all(self) -> list[str]:
        try:
            if self._folder is not None:
                return self._waiting(self._scanned)
            entries = self.files.ls(self._root)
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise MaskgenError(
                f"cannot list {self.place}: permission denied ({_told(error)}). Check its rights, and of a "
                "remote place the keys."
            ) from error
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")

    def _scanned(self) -> list[str]:
        assert self._folder is not None
        with os.scandir(self._folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())

    def _make_folder(self) -> None:
        if self._folder is None:
            self.files.make_folder(self._root)
        elif not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(self._folder.parent)

    def _replace(self, path: Path, name: str, durable: bool) -> None:
        assert self._folder is not None
        if durable:
            _sync(path)
        path.replace(self._folder / _checked(name))
        if durable:
            _sync_folder(self._folder)

    def _unlink(self, name: str) -> None:
        assert self._folder is not None
        (self._folder / _checked(name)).unlink(missing_ok=True)
        if self._folder.is_dir():
            _sync_folder(self._folder)

    def _upload(self, path: Path, name: str) -> None:
        """An upload that fails must not leave half a file: what changed under the name is removed."""
        target, before = self._path(name), self._size(name)
        try:
            self.files.put(str(path), target)
            if self._size(name) != path.stat().st_size:
                raise OSError(errno.EIO, "the upload arrived incomplete")
        except BaseException:
            with suppress(Exception):
                if self._size(name) != before:
                    self.files.remove(target)
            raise

    def _size(self, name: str) -> int | None:
        path = self._path(name)
        if self._folder is not None:
            return self._waiting(lambda: _size_of(Path(path)))
        try:
            entry = self.files.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(entry["size"]) if entry["type"] == "file" else None


def dump_json(tree: Any) -> bytes:
    """Readable JSON that depends on `tree` alone: sorted keys, two spaces, a newline at the end."""
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _link(path: Path, target: Path) -> bool:
    """Give a finished file its name unless another has it; whether none had."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with target.open("xb") as file:
                file.write(path.read_bytes())
        except FileExistsError:
            return False
    return True


def _size_of(path: Path) -> int | None:
    # Not by Path.is_file, to which a storage that is away is a "no".
    try:
        told = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return told.st_size if stat.S_ISREG(told.st_mode) else None


def _told(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


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
