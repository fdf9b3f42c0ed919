"""One driver an output place: a lease file that names its holder.

A holder on this host is alive if its process is; one on another host if its heartbeat is fresh, so a
killed driver never blocks the next one for longer than `STALE_SECONDS`.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import psutil

from maskgen.errors import MaskgenError
from maskgen.running.journal import FOLDER
from maskgen.store import Store

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_NAME = "lease.json"


class Lease:
    """Hold `out` for this process; a context manager. Raises MaskgenError if another driver holds it."""

    def __init__(self, out: str):
        self._out = out
        self._store = Store(f"{out.rstrip('/')}/{FOLDER}")
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        with self._one_at_a_time():
            holder = read_holder(self._out)
            if holder and is_alive(holder):
                raise MaskgenError(
                    f"{self._out} is in use by process {holder['pid']} on {holder['host']}. "
                    "Wait for it or stop it; maskgen status shows what it is doing."
                )
            self._store.write_json(_NAME, _claim())
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        self._store.remove(_NAME)

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
            self._store.write_json(_NAME, _claim(), durable=False)


def read_holder(out: str) -> dict[str, Any] | None:
    """The lease as written by its holder, or None."""
    try:
        return dict(Store(f"{out.rstrip('/')}/{FOLDER}").read_json(_NAME))
    except MaskgenError:
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return time.time() - float(holder["time"]) < STALE_SECONDS
    try:
        return abs(psutil.Process(int(holder["pid"])).create_time() - float(holder["started"])) < 2
    except psutil.NoSuchProcess:
        return False


def _claim() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "time": time.time(),
    }
