"""One part, in a process of its own: its steps, each of which can fail alone."""

import argparse
import gc
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from card.record import LINES, STEP, Record, read

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Setting:
    """`where`: the device's name. `small`: a rehearsal, with tiny models. `until`: by `time.monotonic`, when
    the part must have ended.
    """

    where: str
    small: bool = False
    until: float = float("inf")

    @property
    def device(self) -> "torch.device":
        """Where models compute."""
        import torch  # a part that needs none starts at once

        return torch.device(self.where)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


Step = Callable[[Setting, Record], None]


def take(steps: list[Step], setting: Setting, record: Record, without: set[str]) -> bool:
    """The steps but for those named `without`; whether the device is still of use."""
    for step in steps:
        name = step.__name__
        if name in without:
            continue
        began = time.monotonic()
        record.step(name, "begun", 0.0)
        try:
            step(setting, record)
            state, detail = "done", ""
        except Exception as error:  # the other steps' results are worth as much
            state, detail = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        record.step(name, state, time.monotonic() - began, detail)
        if not _alive(setting):
            return False
    return True


def _alive(setting: Setting) -> bool:
    """Free what a step left, and see whether the device still answers."""
    if not setting.where.startswith("cuda"):
        return True
    import torch

    gc.collect()
    try:
        torch.cuda.synchronize(setting.device)
        torch.cuda.empty_cache()
        return True
    except RuntimeError:
        return False


def main() -> int:
    """Run one part; 3 if the device was lost on the way, so that the rest needs a new process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("module")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--run", default="")
    options = parser.parse_args()
    setting = Setting(options.device, options.small, time.monotonic() + options.seconds)
    file = options.out / LINES
    record = Record(options.name, file, run=options.run)
    begun = {
        line["name"]
        for line in read(file)
        if (line["part"], line["run"], line["kind"]) == (options.name, options.run, STEP)
    }
    steps = importlib.import_module(options.module).STEPS
    return 0 if take(steps, setting, record, begun) else 3


if __name__ == "__main__":
    raise SystemExit(main())
