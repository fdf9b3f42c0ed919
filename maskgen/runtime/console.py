"""What a command says on standard error, and how much of it: quiet, normal or verbose."""

import logging
import sys
import time
from typing import Literal

from maskgen.runtime import terminal

Level = Literal["quiet", "normal", "verbose"]
_level: Level = "normal"
_last = 0.0


def set_level(level: Level) -> None:
    """quiet: warnings and errors alone. verbose: what the run notes down of workers and shards, too."""
    global _level
    _level = level


def shows_progress() -> bool:
    """Whether bars and lines of progress are wanted."""
    return _level != "quiet"


def heard() -> None:
    """Something was shown just now."""
    global _last
    _last = time.monotonic()


def silent_seconds(since: float) -> float:
    """How long nothing was shown, at most from `since` on (of `time.monotonic`)."""
    return time.monotonic() - max(_last, since)


def say(line: str) -> None:
    """A line for the person who waits."""
    if _level != "quiet":
        write(line)


def detail(line: str) -> None:
    """What few want to know, with its time."""
    if _level == "verbose":
        write(f"{time.strftime('%H:%M:%S')} {line}")


def write(line: str) -> None:
    """Whatever the level: folded to a terminal's width, above the bars that are drawn, if there are any."""
    heard()
    line = terminal.fold(line, terminal.columns(sys.stderr))
    bars = sys.modules.get("tqdm")
    if bars is not None:
        bars.tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
    else:
        print(line, file=sys.stderr, flush=True)


class WarningsHandler(logging.Handler):
    """The package's warnings (a storage that is away, a lease that is watched), as lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        write(record.getMessage())
