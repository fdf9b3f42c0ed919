"""How much fits on a GPU. A CPU takes memory as it is written to, and there the configuration decides."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SHARE = 0.5  # of what is free, so that everybody who asks gets something


def room(device: torch.device, size: int) -> int:
    """How many things of `size` bytes a GPU has room for, at least 1."""
    if device.type != "cuda":
        return 1 << 30
    torch.cuda.empty_cache()
    return max(1, int(SHARE * torch.cuda.mem_get_info(device)[0] / max(size, 1)))


class Batch:
    """Entries a forward pass: `most`, on a GPU fewer where they do not fit. There the first pass is of one
    entry, and what it takes is measured.
    """

    def __init__(self, most: int, device: torch.device):
        self._most = most
        self._device = device
        self._measures = device.type == "cuda"
        self.size = 1 if self._measures else most

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
        self.size = min(self._most, room(self._device, taken))
        self._measures = False
