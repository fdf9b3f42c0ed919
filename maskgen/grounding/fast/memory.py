"""How much fits on a GPU. A CPU takes memory as it is written to, and there the configuration decides."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from maskgen.grounding.adaptive_size import AdaptiveSize
from maskgen.runtime import cuda

SHARE = 0.5  # of what is free, so that everybody who asks gets something
PATIENCE = 16  # calls, each of many batches, before more is tried again


def fitting(device: torch.device, size: int) -> int:
    """How many things of `size` bytes a GPU has room for, at least 1."""
    if not cuda.on(device):
        return 1 << 30
    cuda.empty_cache()
    return max(1, int(SHARE * torch.cuda.mem_get_info(device)[0] / max(size, 1)))


class BatchSize:
    """Entries a forward pass: `most`, on a GPU fewer where they do not fit. There the first pass is of one
    entry, and what it takes is measured.
    """

    def __init__(self, most: int, device: torch.device):
        self._limit = AdaptiveSize(most, PATIENCE)
        self._device = device
        self._measures = cuda.on(device)
        self._fit = 1 if self._measures else most

    @property
    def size(self) -> int:
        """Entries of the next pass."""
        return min(self._limit.size, self._fit)

    def shrink(self) -> bool:
        """Halve it, as memory has run out; False if it is 1 already."""
        return self.size > 1 and self._limit.shrink(self.size // 2)

    def fitted(self) -> None:
        """A call did not run out of memory: after a while the batch grows again."""
        self._limit.fitted()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around a forward pass of `size` entries."""
        if not self._measures:
            yield
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        yield
        taken = torch.cuda.max_memory_allocated(self._device) - before
        self._fit = fitting(self._device, taken)
        self._measures = False
