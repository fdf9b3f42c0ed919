"""Numbers to compare."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_full_precision() -> Iterator[None]:
    """Inside, float32 means float32: convolutions, too, keep all of their bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """How far `found` is off: the norm of the difference over the reference's; NaN if anything is NaN."""
    found, reference = found.double(), reference.double().to(found.device)
    return float((found - reference).norm() / reference.norm())
