"""Types `maskgen` lines as a person would: in a pipe or on a pseudo-terminal of some width.

Run as a program it is a process that has imported what the commands import and forks for every line, so
that each costs its own work alone. It reads lines of JSON, {"line", "columns", "folder"}, columns 0 for a
pipe, and answers each with {"code", "out", "err"}; of a terminal, "out" is all that was shown.
"""

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback
from fcntl import ioctl
from pathlib import Path
from typing import Any

_SECONDS = 900


class Typist:
    """A process that types; `environment` on top of this one's."""

    def __init__(self, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def type(self, line: list[str], folder: Path, columns: int = 0) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        assert self._process.stdin and self._process.stdout
        request = {"line": line, "columns": columns, "folder": str(folder)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return told["code"], told["out"], told["err"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _serve() -> None:
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import maskgen.analysis.model_readers
    import maskgen.cli
    import maskgen.training.explain  # noqa: F401

    for request in sys.stdin:
        print(json.dumps(_type(**json.loads(request))), flush=True)


def _type(line: list[str], columns: int, folder: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not columns:
            child = _fork(line, folder, os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno())
            code = _wait(child, None)
        else:
            master, slave = pty.openpty()
            ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
            child = _fork(line, folder, slave, slave, slave)
            os.close(slave)
            code = _wait(child, (master, out.fileno()))
            os.close(master)
        found = []
        for file in (out, err):
            file.seek(0)
            found.append(file.read().decode(errors="replace"))
        return {"code": code, "out": found[0], "err": found[1]}


def _fork(line: list[str], folder: str, *streams: int) -> int:
    child = os.fork()
    if child:
        return child
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    sys.argv = line
    try:
        from maskgen.cli import script

        script()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(70)


def _wait(child: int, copy: tuple[int, int] | None) -> int:
    """The exit code; what a terminal shows is copied meanwhile."""
    end = time.monotonic() + _SECONDS
    ended, status = False, 0
    while True:
        if copy and select.select([copy[0]], [], [], 0.05)[0]:
            try:
                os.write(copy[1], os.read(copy[0], 65536))
                continue
            except OSError:  # the other side is closed
                pass
        if ended:
            return os.waitstatus_to_exitcode(status)
        found, status = os.waitpid(child, os.WNOHANG)
        ended = found != 0
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        if not copy and not ended:
            time.sleep(0.02)


if __name__ == "__main__":
    _serve()
