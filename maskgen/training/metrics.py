"""What a run writes while it trains: metrics.jsonl, the progress bar, TensorBoard, the ledger of keys."""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from maskgen.errors import MaskgenError
from maskgen.runtime.progress_reporter import ProgressReporter

# Dense bf16, as the makers state it, in FLOP/s.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12, "4090": 165e12}


def peak_flops(device: torch.device) -> float | None:
    """The device's bf16 peak in FLOP/s; None if it is not known, and then nothing is called MFU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for part, value in PEAK_FLOPS.items() if part in name), None)


def truncate_lines(path: Path, stage: int, step: int) -> None:
    """Drop every line at or after `step` of `stage`, and a last one that was not written whole."""
    if not path.is_file():
        return
    kept = [line for line in read_lines(path) if (line["stage"], line["step"]) < (stage, step)]
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    partial.replace(path)


class JsonLines:
    """A JSON-lines file to which every step adds one."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a")

    def add(self, line: dict[str, Any]) -> None:
        """Append one step."""
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Force what was added onto the disk: a checkpoint must not be ahead of the file."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The file's lines; none if it is not there. What a crash cut or left as zeros is no line."""
    found = []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        with suppress(ValueError):
            held = json.loads(line) if line.endswith(b"\n") else None
            if isinstance(held, dict):
                found.append(held)
    return found


class TensorBoardWriter:
    """TensorBoard events, if asked for."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MaskgenError(
                "resources.tensorboard is on, but the package is not installed: pip install tensorboard, "
                "or leave it off; metrics.jsonl is always written."
            ) from error
        self._writer = SummaryWriter(str(folder))

    def add(self, line: dict[str, Any], step: int) -> None:
        """Every number of a metrics line; `step` counts over all stages."""
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("stage", "step"):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class ProgressBar:
    """One reporter a stage."""

    def __init__(self, stage: int, steps: int, done: int):
        self._reporter = ProgressReporter(f"stage {stage}", "steps", steps, done)
        self._done = done

    def update(self, line: dict[str, Any]) -> None:
        """Advance by one step and show its metrics."""
        shown = [f"loss {line['lm']:.3f}"]
        if line["guidance"] is not None:
            shown += [f"guidance {line['guidance_above_floor']:.3f}", f"in mask {mean(line['mass']):.0%}"]
        shown.append(f"{line['tokens_per_second']:,.0f} tok/s")
        shown.append(
            f"MFU {line['mfu']:.0%}"
            if line["mfu"] is not None
            else f"{line['flops_per_second'] / 1e9:,.0f} GFLOP/s"
        )
        shown.append(f"data {line['data_wait']:.0%}")
        self._done += 1
        self._reporter.update(self._done, note=" ".join(shown))

    def close(self) -> None:
        self._reporter.close()


class StepTimer:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return max(passed, 1e-9)


def mean(values: Iterable[float]) -> float:
    """The mean of at least one value."""
    values = list(values)
    return sum(values) / len(values)
