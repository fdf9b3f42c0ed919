"""An encoder compiled by PyTorch, for a few sizes of batch."""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from maskgen.runtime import cuda


class Compiled:
    """Calls `encode`, (n, 3, S, S) to (n, ...), compiled for batches of 1, 2, 4, ... images.

    Other batches are filled up, so that an odd last batch compiles nothing new, and halved ones still help.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]):
        self._encode = torch.compile(encode, dynamic=False)
        self._ready: set[int] = set()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        whole = 1 << (count - 1).bit_length()
        filled = torch.cat([pixels, pixels[:1].expand(whole - count, -1, -1, -1)])
        # Compiling tunes kernels, for which it waits for the whole device.
        with nullcontext() if whole in self._ready else cuda.whole_device():
            out: torch.Tensor = self._encode(filled)[:count]
        self._ready.add(whole)
        return out
