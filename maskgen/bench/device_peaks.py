"""What a device reaches: the best that any program there can hope for."""

from dataclasses import dataclass

import torch

from maskgen.runtime.clock import seconds


@dataclass(frozen=True)
class Machine:
    """`flops`: of matrix products in the models' dtype, a second. `bandwidth`: bytes that a copy reads and
    writes, together, a second."""

    flops: float
    bandwidth: float


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The best of many products of square matrices, and of copies too large to be cached."""
    large = device.type == "cuda"
    sides = (4096, 8192) if large else (512, 1024, 2048)
    flops = max(product(side, device, dtype) for side in sides)
    return Machine(flops, copy(2**30 if large else 2**27, device))


def product(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of two square matrices of random numbers; zeros would be faster."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return float(2 * side**3 / min(seconds(lambda: left @ right, device)))


def copy(count: int, device: torch.device) -> float:
    """Bytes a second, read and written, of copies of `count` bytes."""
    source = torch.randint(256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / min(seconds(lambda: target.copy_(source), device))
