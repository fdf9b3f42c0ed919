"""Where a Ray address leads, and whether anything answers there: without Ray, which waits for minutes."""

import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from maskgen.errors import MaskgenError

CONNECT_SECONDS = 3.0
ASK_SECONDS = 5.0
SILENT_SECONDS = 30.0
_PORT = 6379
_RECORD = Path("/tmp/ray/ray_current_cluster")  # where Ray itself notes the cluster "auto" means


class RayDiedError(MaskgenError):
    """Ray's own processes are gone; what is finished stays, and the same line goes on."""

    exit_code = 3


def check(address: str) -> str:
    """The host:port that `address` ("auto", "host:port", "ray://host:port") leads to.

    Raises MaskgenError if there is no such cluster or nothing answers within `CONNECT_SECONDS`.
    """
    place = _place(address)
    if place is None:
        raise MaskgenError(
            "--address auto: no Ray cluster is running on this machine. "
            "Start one with `ray start --head`, or leave --address out."
        )
    shown = f"{place[0]}:{place[1]}"
    if problem := unreachable(*place):
        raise MaskgenError(
            f"Ray at {shown} cannot be reached ({problem}). Check it there with `ray status`, "
            "or leave --address out to run on this machine alone."
        )
    return shown


def unreachable(host: str, port: int) -> str:
    """Why nothing there takes a connection within seconds; empty if something does."""
    told = ["it takes too long"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
            told[0] = ""
        except (OSError, OverflowError) as error:  # OverflowError: no such port number
            told[0] = getattr(error, "strerror", None) or str(error)

    # In a thread, because looking up a name heeds no timeout.
    trial = threading.Thread(target=connect, daemon=True)
    trial.start()
    trial.join(CONNECT_SECONDS)
    return told[0]


class HeadWatch:
    """Whether the head of a cluster at `place` (host:port) still answers, asked by a thread of its own.

    Ray may never say that it does not, or end the process without a word after a minute.
    """

    def __init__(self, place: str):
        self._place = place
        self._stop = threading.Event()
        self._since: float | None = None
        self._problem = ""
        threading.Thread(target=self._ask, daemon=True).start()

    def check(self) -> None:
        """RayDiedError if it has been silent for `SILENT_SECONDS`."""
        since = self._since
        if since is not None and time.monotonic() - since > SILENT_SECONDS:
            raise RayDiedError(
                f"the head of the Ray cluster at {self._place} has not answered for {SILENT_SECONDS:.0f} s "
                f"({self._problem}). What is finished stays; when there is a head again, run the same line "
                "again to go on."
            )

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _ask(self) -> None:
        host, _, port = self._place.rpartition(":")
        while not self._stop.wait(ASK_SECONDS):
            self._problem = unreachable(host, int(port))
            self._since = (self._since or time.monotonic()) if self._problem else None


def _place(address: str) -> tuple[str, int] | None:
    """Host and port; None if `auto` finds no cluster on this machine."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address and _RECORD.is_file():
            address = _RECORD.read_text().strip()
        if not address:
            return None
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        return parts.hostname or "localhost", parts.port or _PORT
    except ValueError as error:
        raise MaskgenError(f"--address {address}: {error}. Write HOST:PORT, or auto.") from error
