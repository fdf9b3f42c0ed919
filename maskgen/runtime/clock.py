"""Time on a device that works while the host goes on."""

import time
from collections.abc import Callable
from statistics import median

import torch

from maskgen.runtime import cuda


def clocks() -> tuple[float, float]:
    """Seconds by the clock, and of processor time: on a busy machine, the second is the steadier."""
    return time.perf_counter(), time.process_time()


def waiter(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done what it was asked to."""
    if device.type == "cuda":
        return lambda: cuda.synchronize(device)
    return lambda: None


def seconds(
    work: Callable[[], object], device: torch.device, spent: float = 0.3, warm: int = 2, least: int = 3
) -> list[float]:
    """Of each call: as many as fit into `spent` seconds, but `least`, after `warm` that do not count."""
    wait = waiter(device)
    for _ in range(warm):
        work()
    wait()
    found: list[float] = []
    until = time.perf_counter() + spent
    while len(found) < least or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - began)
    return found


def typical(work: Callable[[], object], device: torch.device, spent: float = 0.3) -> float:
    """Seconds of a call: the median of several."""
    return median(seconds(work, device, spent))
