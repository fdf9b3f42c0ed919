"""Where the time goes: named spans around parts of the work, which cost next to nothing while nobody listens.

    with span("sam.encode"):
        ...
    with Recorder("cuda") as recorder:
        grounder.ground(pictures, samples)
    recorder.seconds["sam.encode"]

The innermost span counts: what a span takes is without the spans inside it. Each thread has its own; what
threads do at the same time adds up to more than the clock. The spans there are:

- `read`: a file to pixels;
- `florence2.preprocess`: pixels to Florence-2's tensor; `florence2.encode`: its image and text encoders;
  `florence2.decode`: its decoder, and all of a step that is replayed as a graph; `florence2.search`: the
  rest of writing an answer, and its parsing;
- `sam.encode`: SAM's image encoder; `sam.decode`: its prompt encoder and mask decoder; `sam.pixels`:
  resizing, normalising and thresholding;
- `geometry`: outlines, agreement and grids; `shard.encode`, `shard.write`: a sample's members, the shard.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_Part = tuple[str, bool]  # a span's name, and whether it is the host's alone

_SILENT: AbstractContextManager[None] = nullcontext()
_FOLDED = 1024  # intervals of a GPU that wait to be added up, at most, before the finished ones are

active: "Recorder | None" = None


def span(name: str, host: bool = False) -> AbstractContextManager[None]:
    """What goes on inside is `name`'s, but for spans further inside.

    `host`: it is the host's work alone, also where the recorder is a GPU's.
    """
    return _SILENT if active is None else active.within(name, host)


def trace(module: "torch.nn.Module", name: str) -> None:
    """From now on every forward pass of `module` is a span."""
    local = threading.local()

    def enter(*_: Any) -> None:
        opened: list[AbstractContextManager[None]] = local.__dict__.setdefault("opened", [])
        opened.append(span(name))
        opened[-1].__enter__()

    def leave(*_: Any) -> None:
        local.opened.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)


class Recorder:
    """What the spans took while it listens, as a context manager; one at a time in a process.

    On a CPU by the clock. On a GPU by events in the streams that the spans run in, so that a part's work
    counts where it was asked for and nothing waits: the time from one border to the next, idle time included.
    Inside the capture of a graph nothing runs and nothing is counted; replays count for the span around them.

    `seconds`: by name. `processor`: seconds of processor time of all threads meanwhile, of use where one
    thread works alone. `calls`: how often a span was entered. They are complete once the recorder has ended.
    """

    def __init__(self, device: "str | torch.device" = "cpu"):
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.processor: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._device = device
        self._on_gpu = str(device).startswith("cuda")
        self._lock = threading.Lock()
        self._local = threading.local()
        self.pending: deque[tuple[str, Any, Any]] = deque()

    def __enter__(self) -> "Recorder":
        global active
        if active is not None:
            raise RuntimeError("another recorder is listening")
        active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global active
        active = None
        if self._on_gpu and kind is None:
            from maskgen.runtime import cuda

            cuda.synchronize(self._device)
            with self._lock:
                self._fold(len(self.pending))

    @contextmanager
    def within(self, name: str, host: bool) -> Iterator[None]:
        """See `span`."""
        if self._captures():
            yield
            return
        stack: list[_Part | None] = self._local.__dict__.setdefault("stack", [None])
        self._turn(stack[-1], (name, host))
        stack.append((name, host))
        with self._lock:
            self.calls[name] += 1
        try:
            yield
        finally:
            stack.pop()
            self._turn((name, host), stack[-1])

    def _captures(self) -> bool:
        if not self._on_gpu:
            return False
        import torch

        return torch.cuda.is_current_stream_capturing()

    def _turn(self, until: _Part | None, since: _Part | None) -> None:
        """A border: what went on until now was one part's, what goes on from now on is another's."""
        queued = self._on_gpu and any(part and not part[1] for part in (until, since))
        now = time.perf_counter(), time.process_time(), self._event() if queued else None
        if until:
            name, host = until
            began, used, event = self._local.since
            with self._lock:
                self.processor[name] += now[1] - used
                if host or not self._on_gpu:
                    self.seconds[name] += now[0] - began
                else:
                    self.pending.append((name, event, now[2]))
                    if len(self.pending) > _FOLDED:
                        self._fold(_FOLDED // 2)
        self._local.since = now

    def _event(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _fold(self, most: int) -> None:
        """Add up to `most` intervals that have ended, oldest first, and forget them."""
        for _ in range(most):
            name, began, ended = self.pending[0]
            if not ended.query():
                return
            self.seconds[name] += began.elapsed_time(ended) / 1000
            self.pending.popleft()
