"""OUT/.maskgen/log: what a run said, its warnings and its events, with times, for who looks later."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from maskgen.errors import MaskgenError
from maskgen.runtime.journal import FOLDER
from maskgen.runtime.store import Store

NAME = "log"
_REMOTE_SECONDS = 15.0  # an object store cannot append: the file is written anew, but not at each line
_REMOTE_BYTES = 4 << 20  # of what earlier runs wrote


class RunLog(logging.Handler):
    """Appends to the log; a context manager, for the holder of the lease. Trouble with it ends no run."""

    def __init__(self, out: str):
        super().__init__(logging.WARNING)
        self._store = Store(f"{out.rstrip('/')}/{FOLDER}")
        self._path = self._store.local(NAME)
        self._text = ""
        self._written = 0.0

    def __enter__(self) -> "RunLog":
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
        else:
            with suppress(MaskgenError):
                self._text = self._store.read_bytes(NAME)[-_REMOTE_BYTES:].decode("utf-8", "replace")
        logging.getLogger("maskgen").addHandler(self)
        self.line(f"process {os.getpid()} begins")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        logging.getLogger("maskgen").removeHandler(self)
        self.line(f"ends: {error or kind.__name__}" if kind else "ends")
        self._upload()

    def line(self, text: str) -> None:
        """Write one down, with the time in UTC."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"{now} {text.replace(chr(10), chr(10) + '  ')}\n"
        if self._path is None:
            self._text += line
            return
        with suppress(OSError), self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line)

    def saying(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` that writes down what it is told."""

        def both(text: str) -> None:
            say(text)
            self.line(text)
            self.tick()

        return both

    def event(self, event: str, facts: dict[str, Any]) -> None:
        """One of the journal's."""
        self.line(described(event, facts))

    def emit(self, record: logging.LogRecord) -> None:
        # Not further: what is warned of may be the very storage.
        self.line(f"warning: {record.getMessage()}")

    def tick(self) -> None:
        """To be called now and then: a remote log goes out."""
        if self._path is None and time.monotonic() - self._written > _REMOTE_SECONDS:
            self._upload()

    def _upload(self) -> None:
        if self._path is None:
            self._written = time.monotonic()
            with suppress(MaskgenError, OSError):
                self._store.write_bytes(NAME, self._text.encode("utf-8", "backslashreplace"), durable=False)


def described(event: str, facts: dict[str, Any]) -> str:
    """An event in one line: its plain facts."""
    plain = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
    return " ".join([event, *(f"{name}={value}" for name, value in plain.items())])
