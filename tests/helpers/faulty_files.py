"""File operations below a folder, counted, and one of them made to fail.

What Python itself does: `os`'s functions on paths, opening, and each read, write and flush of an open file.
Arrow and safetensors write from C++ and Rust: their writing calls count as one operation each.
"""

import builtins
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch
from safetensors import SafetensorError

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)

_ON_PATHS = (
    "chmod", "listdir", "lstat", "mkdir", "open", "remove", "rename", "replace", "rmdir", "scandir", "stat",
    "truncate", "unlink", "utime",
)  # fmt: skip
_ON_DESCRIPTORS = ("fsync", "ftruncate")


class FaultyFiles:
    """`operations`: what was done so far, in order, as (operation, path). The one with the number `failing`
    raises `OSError(number)` instead, in whatever thread it happens."""

    def __init__(self, root: Path):
        self._root = os.path.realpath(root)
        self._lock = threading.Lock()
        self.operations: list[tuple[str, str]] = []
        self.failing = -1
        self.error = 0
        self.failed = ""

    def arm(self, failing: int, error: int) -> None:
        """Count from 0 again, and let that operation fail; -1: none."""
        self.operations, self.failing, self.error, self.failed = [], failing, error, ""

    def check(self, operation: str, path: Any) -> None:
        """Count it, or raise; what lies elsewhere is nobody's business here."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115  # pathlib is what is watched
        name = os.fsdecode(path)
        if not self.watches(name):
            return
        with self._lock:
            number = len(self.operations)
            self.operations.append((operation, name))
        if number == self.failing:
            self.failed = f"{operation} {name}"
            raise OSError(self.error, os.strerror(self.error), name)

    def watches(self, path: Any) -> bool:
        """Whether what is done to this path counts."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # Path.resolve would count itself
        return name.startswith(self._root + os.sep)


@contextmanager
def faulty_files(root: Path) -> Iterator[FaultyFiles]:
    """Patches this process while the context is open."""
    files = FaultyFiles(root)
    with pytest.MonkeyPatch.context() as patch:
        for name in _ON_PATHS + _ON_DESCRIPTORS:
            patch.setattr(os, name, _checked(files, name, getattr(os, name)))
        opened = _opener(files, builtins.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        _watch_libraries(files, patch)
        yield files


def _checked(files: FaultyFiles, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*arguments: Any, **options: Any) -> Any:
        if arguments and isinstance(arguments[0], int | str | bytes | os.PathLike):
            relative = options.get("dir_fd")
            if relative is None:
                files.check(name, arguments[0])
        return call(*arguments, **options)

    return checked


def _opener(files: FaultyFiles, plain: Callable[..., Any]) -> Callable[..., Any]:
    class Raw(io.FileIO):
        """An open file each of whose reads and writes counts."""

        def readinto(self, buffer: Any) -> Any:
            files.check("read", self.name)
            return super().readinto(buffer)

        def readall(self) -> Any:
            files.check("read", self.name)
            return super().readall()

        def write(self, data: Any) -> Any:
            files.check("write", self.name)
            return super().write(data)

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        if not files.watches(file) or opener is not None:
            return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
        files.check("open", file)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        if "+" in mode:
            binary: Any = io.BufferedRandom(raw)
        else:
            binary = io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return binary
        text = io.TextIOWrapper(binary, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    return opened


def _watch_libraries(files: FaultyFiles, patch: pytest.MonkeyPatch) -> None:
    def watch(owner: Any, name: str, path: Callable[..., Any], fault: Callable[[OSError], Exception]) -> None:
        call = getattr(owner, name)

        def checked(*arguments: Any, **options: Any) -> Any:
            try:
                files.check(name, path(*arguments, **options))
            except OSError as error:
                raise fault(error) from None
            return call(*arguments, **options)

        patch.setattr(owner, name, checked)

    def of_arrow(error: OSError) -> Exception:
        return OSError(error.errno, f"[Errno {error.errno}] Error writing bytes to file")

    def of_safetensors(error: OSError) -> Exception:
        said = f"{os.strerror(error.errno or 0)} (os error {error.errno})"
        return SafetensorError(f"Error while serializing: I/O error: {said}")

    watch(pq, "write_table", lambda _, where, **__: where, of_arrow)
    for name in ("write_table", "write_batch", "close"):
        watch(pq.ParquetWriter, name, lambda self, *_, **__: self.where, of_arrow)
    watch(safetensors.torch, "serialize_file", lambda _, path, **__: path, of_safetensors)
