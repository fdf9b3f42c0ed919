"""What the card is, and the most that it reaches: matrix products in each dtype, and copies."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from card.part import Setting, Step
from card.record import Record
from maskgen.bench.device_peaks import copy, product

PACKAGES = ("torch", "transformers", "numpy", "segment-anything")


def machine(setting: Setting, record: Record) -> None:
    """Everything that a figure may depend on."""
    on_card = setting.device.type == "cuda"
    properties = torch.cuda.get_device_properties(setting.device) if on_card else None
    record.machine(
        card=properties.name if properties else "no card: a rehearsal on a CPU",
        memory=properties.total_memory if properties else 0,
        capability=f"{properties.major}.{properties.minor}" if properties else "",
        cuda=torch.version.cuda or "",
        cudnn=torch.backends.cudnn.version() or 0,
        cores=os.cpu_count(),
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        rehearsal=setting.small,
    )


def products(setting: Setting, record: Record) -> None:
    """Square matrices of random numbers, the fastest of many products."""
    sides = (64, 128) if setting.small else (4096, 8192)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for side in sides:
            flops = product(side, setting.device, dtype)
            record.figure(f"{_name(dtype)} product, {side} a side", flops / 1e12, "TFLOP/s")


def copies(setting: Setting, record: Record) -> None:
    """From and to the device's own memory, the fastest of many."""
    count = 2**24 if setting.small else 2**30
    record.figure("copy on the device, read and written", copy(count, setting.device) / 1e9, "GB/s")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


STEPS: list[Step] = [machine, products, copies]
