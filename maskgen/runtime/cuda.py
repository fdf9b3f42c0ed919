"""What concerns a whole CUDA device. While one thread captures a graph, no other may wait for all of it.

A capture is broken by any thread that synchronises the device, frees cached memory or tunes kernels
meanwhile. So these wait until a capture is over, and none begins while they go on.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch


def on(device: torch.device) -> bool:
    """Whether there are streams, graphs and memory to be managed."""
    return device.type == "cuda"


class _Captures:
    """Who captures a graph, and how many threads wait for a whole device."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._capturing = False
        self._waiting = 0

    @contextmanager
    def none(self) -> Iterator[None]:
        """Inside, nothing is captured."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._waiting += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Inside, a graph may be captured; False if somebody else is in the way."""
        with self._changed:
            free = not self._capturing and not self._waiting
            self._capturing = self._capturing or free
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._capturing = False
                    self._changed.notify_all()


_captures = _Captures()


def whole_device() -> AbstractContextManager[None]:
    """Around what waits for a whole device: no graph is captured meanwhile. Not to be used in a capture."""
    return _captures.none()


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done all that it was asked to."""
    with whole_device():
        torch.cuda.synchronize(device)


def empty_cache() -> None:
    """Give the device the memory back that PyTorch keeps for later."""
    with whole_device():
        torch.cuda.empty_cache()


def capture(work: Callable[[], None], pool: Any) -> Any:
    """The kernels of `work` as a CUDAGraph, in the memory `pool`; nothing has run yet.

    None if another thread captures or waits for a whole device just now. Raises what the capture raises; then
    the thread is on the stream that it was on, and the allocator recycles memory as before.
    """
    with _captures.one() as free:
        if not free:
            return None
        graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its own stream behind as the current one.
        with torch.cuda.stream(torch.cuda.current_stream()):
            try:
                # Only this thread's calls are captured: others may be copying pictures.
                with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                    work()
            except BaseException:
                _end_pool(pool)
                raise
        return graph


def _end_pool(pool: Any) -> None:
    """Tell the allocator that the capture is over and uses the pool no more, which a failed one does not.

    Until then it would keep every block that another stream has used, for ever.
    """
    device = torch.cuda.current_device()
    with suppress(RuntimeError):  # it had been told
        torch._C._cuda_endAllocateToPool(device, pool)  # noqa: SLF001
        torch._C._cuda_releasePool(device, pool)  # noqa: SLF001
