"""Where a Ray address leads, and whether anything answers there: without Ray, which waits for minutes."""

import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from maskgen.errors import MaskgenError

CONNECT_SECONDS = 3.0
_PORT = 6379
_RECORD = Path("/tmp/ray/ray_current_cluster")  # where Ray itself notes the cluster "auto" means


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
