"""A part of `benchmarks/card` whose second step ends in the way that the part is named for."""

import os
import signal
import subprocess
import sys
import time

from card.part import Setting, Step
from card.record import Record


def before(setting: Setting, record: Record) -> None:
    record.figure("before", 1.5, "ms")


def faulty(setting: Setting, record: Record) -> None:
    record.figure("half-way", 2.5, "ms")
    match record.part:
        case "raises":
            raise RuntimeError("no kernel image is available")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exits":
            os._exit(7)
        case "hangs":
            time.sleep(600)
        case "leaves a child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # it holds the pipe
        case "does not hold":
            record.check("is right", False, "it is not")


def after(setting: Setting, record: Record) -> None:
    record.figure("after", 3.5, "ms")


STEPS: list[Step] = [before, faulty, after]
