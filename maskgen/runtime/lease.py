"""One driver an output place: a lease file that names its holder.

A holder on this host is alive if its process is; one on another host, whose clock may be any, if its
heartbeat changes while it is watched, so a killed driver never blocks the next one for longer
than `STALE_SECONDS`.

Of several that come at once one wins, on a disk as on an object store: the file is created where there is
none (a hard link, a conditional put). Who takes over from a dead holder first creates a file named after that
holder's token, which only one can; should the taker die before the lease is its own, the file speaks for it.
"""

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from maskgen.errors import MaskgenError
from maskgen.runtime.journal import FOLDER
from maskgen.runtime.store import AbsentError, Store
from maskgen.runtime.waiting import last_outage

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_HALF_SECONDS = 0.5
_NAME = "lease.json"
_MARK = "lease-after-"
_log = logging.getLogger("maskgen.lease")


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
        while not self._create(_NAME):
            holder = _last_holder(self._store)
            if holder is None:
                continue  # given back this moment
            if self._lives(holder):
                raise self._in_use(_last_holder(self._store) or holder)
            if self._take_over(holder):
                break
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        if self._is_mine():
            self._store.remove(_NAME)

    def _take_over(self, holder: dict[str, Any]) -> bool:
        """Become the holder in place of a dead one; False if it is no longer the holder."""
        mark = _successor(holder)
        if not self._create(mark):
            return False  # somebody else is about to: look anew who holds it
        try:
            now = _last_holder(self._store, before=mark)
            if now is None or now["token"] != holder["token"]:
                return False  # somebody else has been through with it
            self._store.write_json(_NAME, self._claim())
            for name in self._store.names():
                if name.startswith(_MARK) and name != mark:
                    self._store.remove(name)  # of takers that died
            return True
        finally:
            self._store.remove(mark)

    def _create(self, name: str) -> bool:
        """Put our claim there if nothing is; also true if it lies there since an answer that got lost."""
        if self._store.create_json(name, self._claim()):
            return True
        there = _read(self._store, name)
        return there is not None and there["token"] == self._token

    def _in_use(self, holder: dict[str, Any]) -> MaskgenError:
        return MaskgenError(
            f"{self._out} is in use by process {holder['pid']} on {holder['host']}. "
            "Wait for it or stop it; maskgen status shows what it is doing."
        )

    def _lives(self, holder: dict[str, Any]) -> bool:
        """Whether the holder works: for one elsewhere, if its heartbeat changes within `STALE_SECONDS` in
        which the storage answers."""
        if not holder["host"]:  # garbage, or on a file system without hard links half of a lease
            time.sleep(_HALF_SECONDS)
            return _last_holder(self._store) != holder
        if _is_here(holder):
            return _runs(holder)
        _log.warning(
            "%s was held by process %d on %s: watching for up to %.0f s whether it still works",
            self._out, holder["pid"], holder["host"], STALE_SECONDS,
        )  # fmt: skip
        began = time.monotonic()
        while time.monotonic() < max(began, last_outage()) + STALE_SECONDS:
            time.sleep(min(2.0, STALE_SECONDS / 5))
            now = _last_holder(self._store)
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
    holder = _last_holder(Store(f"{out.rstrip('/')}/{FOLDER}"))
    return holder if holder and holder["host"] else None


def _last_holder(store: Store, before: str = "") -> dict[str, Any] | None:
    """Who holds the lease, or is about to, in place of one that died; `before`: look no further than this
    mark. Of garbage, the host is empty. None if there is no lease."""
    holder = _read(store, _NAME)
    while holder is not None and _successor(holder) != before:
        after = _read(store, _successor(holder))
        if after is None:
            break
        holder = after
    return holder


def _read(store: Store, name: str) -> dict[str, Any] | None:
    try:
        data = store.read_bytes(name)
    except AbsentError:
        return None
    try:
        holder = dict(json.loads(data))
        for key, kind in (("host", str), ("pid", int), ("started", float), ("time", float)):
            holder[key] = kind(holder[key])
        return {"token": "", **holder}
    except (ValueError, TypeError, KeyError):
        token = hashlib.sha256(data).hexdigest()[:16]
        return {"token": token, "host": "", "pid": 0, "started": 0.0, "time": 0.0}


def _successor(holder: dict[str, Any]) -> str:
    """The file of who takes over from a holder."""
    return f"{_MARK}{hashlib.sha256(str(holder['token']).encode()).hexdigest()[:16]}.json"


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
