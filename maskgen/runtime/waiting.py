"""Waiting for a storage that is away: one rule for reads, writes and listings, of URLs and network mounts.

The pauses grow, the waiting has a limit, and it is said once. The loop is fifteen lines of our own: what the
storages' libraries repeat lasts seconds, and no package for repeating is among our dependencies.
"""

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import psutil

from maskgen.errors import MaskgenError, first_line

LIMIT_SECONDS = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds
LIMIT_VARIABLE = "MASKGEN_STORAGE_SECONDS"

_T = TypeVar("_T")
_log = logging.getLogger("maskgen.storage")

_PASSING_NUMBERS = {
    errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENETRESET,
}  # fmt: skip
_AMBIGUOUS_NUMBERS = {errno.EIO, errno.EREMOTEIO, errno.EBUSY}  # on a disk they last
# By name, since none of the storages' packages need be installed.
_PASSING_KINDS = {
    "HTTPClientError", "EndpointConnectionError", "ConnectionClosedError", "IncompleteReadError",  # botocore
    "ClientConnectionError", "ClientPayloadError", "IncompleteRead",  # aiohttp, http.client
    "FSTimeoutError", "gaierror", "ServiceRequestError", "ServiceResponseError", "TransportError",
}  # fmt: skip
_LASTING_KINDS = {"SSLError", "ClientSSLError", "FileNotFoundError", "FileExistsError", "PermissionError"}
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_NETWORK_TYPES = (
    "nfs", "cifs", "smb", "fuse.", "lustre", "ceph", "gpfs", "beegfs", "9p", "afs", "orangefs", "wekafs",
    "panfs", "glusterfs",
)  # fmt: skip


class StorageAwayError(MaskgenError):
    """A storage did not answer for as long as it is waited for; what is finished stays."""

    exit_code = 3


def waited_out(work: Callable[[], _T], place: str, on_network: bool = True) -> _T:
    """What `work` returns, called again as long as `place` is away.

    `on_network`: whether a plain input/output error may be the network's, see `is_on_network`.
    StorageAwayError once `limit_seconds` are over; other errors as they are.
    """
    began, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            result = work()
        except Exception as error:
            if not is_passing(error, on_network):
                raise
            spent = time.monotonic() - began
            if spent + pause > limit_seconds():
                raise StorageAwayError(
                    f"{place} has not answered for {spent:.0f} s ({_short(error)}). What is finished stays; "
                    "check address and network, then run the same command again "
                    f"({LIMIT_VARIABLE} sets how long it is waited for)."
                ) from error
            _outages.begins(place, error)
            time.sleep(pause * random.uniform(0.5, 1.0))  # many workers must not all come back at once
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            _outages.ends(place)
            return result


def limit_seconds() -> float:
    """How long an outage is waited for: MASKGEN_STORAGE_SECONDS, or five minutes. 0: not at all."""
    told = os.environ.get(LIMIT_VARIABLE, "")
    try:
        return float(told) if told else LIMIT_SECONDS
    except ValueError:
        raise MaskgenError(f"{LIMIT_VARIABLE} is {told!r}, which is no number of seconds.") from None


def is_passing(error: BaseException, on_network: bool = True) -> bool:
    """Whether the same call may succeed later: nothing answered, or the storage said that it is too busy."""
    for each in _with_causes(error):
        kinds = {kind.__name__ for kind in type(each).__mro__}
        if isinstance(each, StorageAwayError) or kinds & _LASTING_KINDS:
            return False
        if isinstance(each, ConnectionError | TimeoutError) or kinds & _PASSING_KINDS:
            return True
        if isinstance(each, OSError) and each.errno in _PASSING_NUMBERS:
            return True
        ambiguous = isinstance(each, OSError) and each.errno in _AMBIGUOUS_NUMBERS
        if ambiguous and on_network and each.__cause__ is None:
            return True
        if _status(each) in _PASSING_STATUS:
            return True
    return False


def last_outage() -> float:
    """When, by time.monotonic, an outage was last seen to end in this process: until then nobody else could
    write a sign of life either."""
    return _outages.ended


@lru_cache(maxsize=64)
def is_on_network(folder: str) -> bool:
    """Whether a local folder, there or to be made, lies on a mounted network file system."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    path = Path(os.path.realpath(folder))
    kind = next((mounts[str(place)] for place in (path, *path.parents) if str(place) in mounts), "")
    return kind.startswith(_NETWORK_TYPES)


class _Outages:
    """Which places are away, in this process; each is said when it begins and when it ends."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()
        self.ended = float("-inf")

    def begins(self, place: str, error: BaseException) -> None:
        with self._lock:
            if place in self._since:
                return
            self._since[place] = time.monotonic()
        _log.warning(
            "%s does not answer (%s): waiting for it, %.0f s at most", place, _short(error), limit_seconds()
        )

    def ends(self, place: str) -> None:
        if not self._since:
            return  # as nearly always, without a lock
        with self._lock:
            since = self._since.pop(place, None)
            self.ended = time.monotonic()
        if since is not None:
            _log.warning("%s answers again, after %.0f s", place, time.monotonic() - since)


_outages = _Outages()


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that a storage's exception carries, under any of the names in use."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def _short(error: BaseException) -> str:
    told = error.__cause__ or error  # a storage's own words, rather than what we made of them
    return f"{type(told).__name__}: {first_line(told)}"[:200]
