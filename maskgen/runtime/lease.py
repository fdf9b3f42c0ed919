"""One driver an output place: a lease file that names its holder.

A holder on this host is alive if its process is; one on another host, whose clock may be any, if its
heartbeat changes while it is watched, so a killed driver never blocks the next one for longer
than `STALE_SECONDS`.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from maskgen.errors import MaskgenError
from maskgen.runtime.journal import FOLDER
from maskgen.runtime.store import AbsentError, Store

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_NAME = "lease.json"
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


class Lease:
    """Hold `out` for this process; a context manager. Raises MaskgenError if another driver holds it.

    `say` takes a line for a person if the holder on another host has to be watched.
    """

    def __init__(self, out: str, say: Callable[[str], None] = lambda _: None):
        self._out = out
        self._say = say
        self._store = Store(f"{out.rstrip('/')}/{FOLDER}")
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self.lost = False

    def __enter__(self) -> "Lease":
        with self._one_at_a_time():
            holder = read_holder(self._out)
            if holder and self._lives(holder):
                raise MaskgenError(
                    f"{self._out} is in use by process {holder['pid']} on {holder['host']}. "
                    "Wait for it or stop it; maskgen status shows what it is doing."
                )
            self._store.write_json(_NAME, self._claim())
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        if self._is_mine():
            self._store.remove(_NAME)

    def _lives(self, holder: dict[str, Any]) -> bool:
        """Whether the holder works: for one elsewhere, if its heartbeat changes within `STALE_SECONDS`."""
        if _is_here(holder):
            return _runs(holder)
        self._say(
            f"{self._out} was held by process {holder['pid']} on {holder['host']}: watching for up to "
            f"{STALE_SECONDS:.0f} s whether it still works"
        )
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end:
            time.sleep(min(2.0, STALE_SECONDS / 5))
            now = read_holder(self._out)
            if now != holder:
                return now is not None
        return False

    def check(self) -> None:
        """Raise MaskgenError if another driver has taken the place meanwhile."""
        if self.lost:
            raise MaskgenError(
                f"{self._out} was taken over by another driver while this one gave no sign of life. "
                "maskgen status shows it; nothing that was finished is lost."
            )

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Two drivers starting at once look one after the other.

        Object stores know no such lock, nor do some network file systems: there the lease alone has to do.
        """
        path = self._store.local("lock")
        if path is None:
            yield
            return
        with self._store.explained("lock", "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            yield

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # A full disk or a storage that is away for a moment: the next beat may get through.
            with suppress(MaskgenError, OSError):
                if not self._is_mine():
                    self.lost = True
                    return
                self._store.write_json(_NAME, self._claim(), durable=False)

    def _is_mine(self) -> bool:
        holder = read_holder(self._out)
        return holder is not None and holder.get("token") == self._token

    def _claim(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "space": _process_space(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "time": time.time(),
        }


def read_holder(out: str) -> dict[str, Any] | None:
    """The lease as written by its holder; None if there is none, or if it is garbage or half of one."""
    try:
        data = Store(f"{out.rstrip('/')}/{FOLDER}").read_bytes(_NAME)
    except AbsentError:
        return None
    try:
        holder = dict(json.loads(data))
        for name, kind in (("host", str), ("pid", int), ("started", float), ("time", float)):
            holder[name] = kind(holder[name])
        return holder
    except (ValueError, TypeError, KeyError):
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the holder seems to work, at a glance: for one elsewhere, if both hosts' clocks agree."""
    return _runs(holder) if _is_here(holder) else abs(time.time() - float(holder["time"])) < STALE_SECONDS


def _is_here(holder: dict[str, Any]) -> bool:
    here = _process_space()
    return (holder["host"], holder.get("space", here)) == (socket.gethostname(), here)


def _runs(holder: dict[str, Any]) -> bool:
    """Whether the holder's process on this host is there, and is the same."""
    try:
        process = psutil.Process(int(holder["pid"]))
        same = abs(process.create_time() - float(holder["started"])) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _process_space() -> str:
    """Names what process numbers mean here: two containers on one host each have a process 1."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
