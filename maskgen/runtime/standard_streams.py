"""Standard input, output and error of a command: always there, and work outlives whoever reads them."""

import errno
import io
import os
import sys
from typing import Any


class _Output(io.FileIO):
    """A stream whose reader may go away (`maskgen run | head`, a closed terminal): the rest is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(data).nbytes


def secure_standard_streams() -> None:
    """To be called before any file is opened.

    A descriptor that the parent closed is opened on nothing, or the next file would get its number, and what
    libraries print would go into it. What a terminal's encoding lacks is written as an escape.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = _output(1, sys.stdout), _output(2, sys.stderr)


def _output(descriptor: int, before: Any) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
    )
