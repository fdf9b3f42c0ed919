"""The folder of a Ray of our own: short enough for its sockets, for this user alone, gone when the run is."""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from maskgen.errors import MaskgenError
from maskgen.runtime.ray_address import RayDiedError

_PREFIX = "mg-"
_SOCKET_BYTES = 103  # what the path of a socket may have everywhere; Linux allows 107
_TAIL = len("/mg-12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_YOUNG_SECONDS = 600.0
_END_SECONDS = 10.0
_PARTS = ("raylet", "gcs_server")


class RaySession:
    """A new folder for Ray's files; `close` removes it.

    In RAY_TMPDIR, TMPDIR or /tmp, the first that is writable and short enough: a batch system's TMPDIR is
    often too long. Folders of runs that were killed are removed on the way. MaskgenError if there is no
    such place.
    """

    def __init__(self) -> None:
        parent = _parent()
        _sweep(parent)
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True)
        self.path = (
            Path(self._folder.name) / "r"
        )  # Ray opens its folder to everybody; the one above stays ours
        self._lock: IO[str] = (Path(self._folder.name) / "lock").open("w")
        with suppress(OSError):  # a file system without locks: then nobody sweeps
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

        self._parts: list[psutil.Process] = []

    def watch(self) -> None:
        """Remember the processes that Ray has started in this session, for `check`."""
        self._parts = [child for child in psutil.Process().children() if child.name() in _PARTS]

    def check(self) -> None:
        """RayDiedError if one of them has died: then Ray may never say that a worker died with it."""
        for part in self._parts:
            if not part.is_running() or part.status() == psutil.STATUS_ZOMBIE:
                raise RayDiedError(
                    f"Ray's process {part.pid} on this machine has died (was memory short? dmesg shows it). "
                    "What is finished stays; run the same line again to go on."
                )

    def close(self) -> None:
        """End what Ray has left running in this session, and remove its folder."""
        left = self._processes()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, _END_SECONDS)
        self._folder.cleanup()
        self._lock.close()

    def _processes(self) -> list[psutil.Process]:
        """Ray's own in this session, as their command lines say; workers end with their raylet."""
        found = []
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it ends just now
                if any(str(self.path) in part for part in child.cmdline()):
                    found.append(child)
        return found


def _parent() -> Path:
    asked = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), tempfile.gettempdir(), "/tmp"]
    for place in filter(None, asked):
        short = len(os.fsencode(place)) + _TAIL <= _SOCKET_BYTES
        if short and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    raise MaskgenError(
        f"Ray needs a writable folder whose path has at most {_SOCKET_BYTES - _TAIL} bytes, and none of "
        "RAY_TMPDIR, TMPDIR and /tmp is one. Set RAY_TMPDIR to one."
    )


def _sweep(parent: Path) -> None:
    """Remove this user's folders that no process holds."""
    for folder in parent.glob(f"{_PREFIX}????????"):
        with suppress(OSError):
            told = folder.lstat()
            if told.st_uid != os.getuid() or time.time() - told.st_mtime < _YOUNG_SECONDS:
                continue
            with (folder / "lock").open("r+") as lock:  # a folder of somebody else's making has none
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
