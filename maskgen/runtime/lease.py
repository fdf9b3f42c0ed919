"""One driver an output place: a lease file that names its holder.

A holder on this host is alive if its process is; one on another host if its heartbeat is fresh, so a
killed driver never blocks the next one for longer than `STALE_SECONDS`.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
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


class Lease:
    """Hold `out` for this process; a context manager. Raises MaskgenError if another driver holds it."""

    def __init__(self, out: str):
        self._out = out
        self._store = Store(f"{out.rstrip('/')}/{FOLDER}")
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self.lost = False

    def __enter__(self) -> "Lease":
        with self._one_at_a_time():
            holder = read_holder(self._out)
            if holder and is_alive(holder):
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

    def check(self) -> None:
        """Raise MaskgenError if another driver has taken the place meanwhile."""
        if self.lost:
            raise MaskgenError(
                f"{self._out} was taken over by another driver while this one gave no sign of life. "
                "maskgen status shows it; nothing that was finished is lost."
            )

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Two drivers starting at once look one after the other; object stores know no such lock."""
        path = self._store.local("lock")
        if path is None:
            yield
            return
        with self._store.explained("lock", "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
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
    """The lease as written by its holder; None if there is none, or if it is garbage."""
    try:
        data = Store(f"{out.rstrip('/')}/{FOLDER}").read_bytes(_NAME)
    except AbsentError:
        return None
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError):
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the holder still works, as far as can be seen from here."""
    here = _process_space()
    if (holder["host"], holder.get("space", here)) != (socket.gethostname(), here):
        return time.time() - float(holder["time"]) < STALE_SECONDS
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
