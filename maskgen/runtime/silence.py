"""Nobody sits before a silent command: after two seconds it says that it works, and then every ten."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from maskgen.runtime import console

_PATIENCE, _EVERY = 2.0, 10.0  # seconds of silence before the first such line, and before any further

_over = threading.Event()


@contextmanager
def watched_silence() -> Iterator[None]:
    """For a whole command. Of torchrun's processes the first alone speaks."""
    _over.clear()
    watch = threading.Thread(target=_watch, daemon=True)
    if os.environ.get("RANK", "0") == "0":
        watch.start()
    try:
        yield
    finally:
        _over.set()


def end_watch() -> None:
    """From here on silence is in order: the command waits for the person."""
    _over.set()


def _watch() -> None:
    began, patience = time.monotonic(), _PATIENCE
    while not _over.wait(max(0.1, patience - console.silent_seconds(began))):
        if console.silent_seconds(began) >= patience and console.shows_progress():
            console.say(f"working, {time.monotonic() - began:.0f} s so far")
            patience = _EVERY
