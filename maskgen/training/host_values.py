"""Numbers of a device on their way to the host, while the device goes on."""

import torch


class HostValues:
    """The values of a tensor on a device, to be looked at later.

    Of a GPU they are copied into pinned memory behind the work that makes them: to look at them, the host
    waits for that work and not for what was asked for afterwards.
    """

    def __init__(self, values: torch.Tensor):
        """`values`: (n,)."""
        self._event = None
        self._values = values.detach()
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values.detach(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def tolist(self) -> list[float]:
        """The values, as soon as they are there."""
        if self._event is not None:
            self._event.synchronize()
        return list(self._values.tolist())
