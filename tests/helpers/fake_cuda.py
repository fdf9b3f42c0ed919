"""A CUDA device that is none: streams, graphs and events as fakes over tensors of the CPU.

What a graph captures is recorded operation by operation and undone, and a replay repeats it on the very same
tensors. So a captured step that asked the host for a value, or read memory of another call, would be found.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from maskgen.runtime import cuda

BROKEN = "CUDA error: operation failed due to a previous error during capture"


def storages(values: Any) -> list[int]:
    return [one.untyped_storage().data_ptr() for one in tree_iter(values) if isinstance(one, torch.Tensor)]


class Tape(TorchDispatchMode):
    """Records operations; `undo` gives tensors that were there before their values back."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__.startswith(("_local_scalar_dense", "nonzero")):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(value)
        out = func(*args, **kwargs)
        given = set(storages((args, kwargs)))
        made = [one for one in tree_iter(out) if isinstance(one, torch.Tensor)]
        fresh = [one for one in made if one.untyped_storage().data_ptr() not in given]
        self._own.update(storages(fresh))
        if fresh or func._schema.is_mutable:
            self._steps.append((func, args, kwargs, fresh))
        return out

    def _keep(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def undo(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self) -> None:
        for func, args, kwargs, fresh in self._steps:
            again = func(*args, **kwargs)
            made = [one for one in tree_iter(again) if isinstance(one, torch.Tensor)]
            for old, new in zip(fresh, made, strict=False):
                old.copy_(new)


class FakeStream:
    def __init__(self, card: "FakeCuda", name: str = "default"):
        self.card, self.name = card, name
        self.device = torch.device("cpu")

    def wait_stream(self, other: "FakeStream") -> None:
        pass

    def synchronize(self) -> None:
        pass


class FakeEvent:
    """Records a time of the fake card's clock, which moves only when `FakeCuda.spend` says so."""

    def __init__(self, card: "FakeCuda"):
        self.card = card
        self.at: float | None = None

    def record(self, stream: Any = None) -> None:
        if self.card.capturing:
            raise RuntimeError("an event was recorded inside a capture")
        self.at = self.card.clock

    def query(self) -> bool:
        return self.at is not None

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: "FakeEvent") -> float:
        assert self.at is not None and other.at is not None
        return 1000 * (other.at - self.at)


class FakeGraph:
    def __init__(self, card: "FakeCuda"):
        self.card = card
        self.tape: Tape | None = None

    def replay(self) -> None:
        if self.tape is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        self.card.replays += 1
        self.card.clock += self.card.replay_seconds
        self.tape.replay()


class FakeCuda:
    """What has been made and done so far, and what shall go wrong.

    `failures`: so many of the next captures fail. `free`: bytes that the device has free. `clock`: seconds on
    the device.
    """

    def __init__(self) -> None:
        self.streams: list[str] = []
        self.captures = 0
        self.replays = 0
        self.pools: list[str] = []
        self.failures = 0
        self.free = 1 << 40
        self.clock = 0.0
        self.replay_seconds = 0.0
        self.capturing = False
        self._broken = False
        self._current = threading.local()
        self._default = FakeStream(self)

    def stream(self, device: Any = None, priority: int = 0) -> FakeStream:
        self.streams.append(threading.current_thread().name)
        return FakeStream(self, f"stream {len(self.streams)}")

    def current(self, device: Any = None) -> FakeStream:
        return getattr(self._current, "stream", self._default)

    @contextmanager
    def using(self, stream: FakeStream | None) -> Iterator[None]:
        before = self.current()
        self._current.stream = stream or before
        try:
            yield
        finally:
            self._current.stream = before

    @contextmanager
    def graph(self, graph: FakeGraph, pool: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        assert not self.capturing, "two captures at once"
        self._current.stream = FakeStream(self, "capture")
        self.capturing, self._broken = True, False
        self.pools.append("begun")
        tape = Tape()
        try:
            with tape:
                yield
                if self.failures:
                    self.failures -= 1
                    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        finally:
            self.capturing = False
            tape.undo()
        if self._broken:
            raise RuntimeError(BROKEN)  # and, as the real one, leaves its stream as the current one
        self._current.stream = self._default
        self.pools[-1] = "in use"
        graph.tape = tape
        self.captures += 1

    def whole_device(self, *_: Any) -> None:
        """A synchronisation of the device, by any thread, breaks a capture."""
        self._broken = self._broken or self.capturing

    def end_pool(self, device: int, pool: Any) -> None:
        if self.pools[-1:] != ["begun"]:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools[-1] = "ended"

    def release_pool(self, device: int, pool: Any) -> None:
        assert self.pools.pop() == "ended"

    def spend(self, seconds: float) -> None:
        """The device works for so long; not while a graph is captured, when nothing runs."""
        if not self.capturing:
            self.clock += seconds


def install(monkeypatch: Any) -> FakeCuda:
    """Put a fake card in place of `torch.cuda`, and let the engine take tensors of the CPU for its own."""
    card = FakeCuda()
    fakes = {
        "Stream": card.stream,
        "stream": card.using,
        "current_stream": card.current,
        "current_device": lambda: 0,
        "Event": lambda **_: FakeEvent(card),
        "CUDAGraph": lambda: FakeGraph(card),
        "graph": card.graph,
        "graph_pool_handle": lambda: (0, 1),
        "is_current_stream_capturing": lambda: card.capturing,
        "synchronize": card.whole_device,
        "empty_cache": card.whole_device,
        "is_available": lambda: True,
        "mem_get_info": lambda device=None: (card.free, card.free),
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", card.end_pool)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", card.release_pool)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(cuda, "on", lambda device: True)
    return card
