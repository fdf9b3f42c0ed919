"""Stages that work at the same time: each in a thread of its own, joined to the next by a short queue.

A stage is an iterator over the stage before it. What it yields follows from what it takes, in order, never
from when: the threads give the very items that the iterators give nested in one another.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class StageTime:
    """What one stage has done so far, in seconds.

    `busy`: it worked. `full`: its queue was full, a queue half full counting half. `capacity`: the
    items that it may be ahead of the next stage; 0 for the last one, which has no queue.
    """

    stage: str
    busy: float
    full: float
    capacity: int


@dataclass(frozen=True)
class StageTimes:
    """The stages, in order, and the seconds since they began. No stages: there are no threads."""

    seconds: float
    stages: tuple[StageTime, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, in milliseconds' precision."""
        stages = [
            {**asdict(one), "busy": round(one.busy, 3), "full": round(one.full, 3)} for one in self.stages
        ]
        return {"seconds": round(self.seconds, 3), "stages": stages}

    @classmethod
    def of(cls, tree: dict[str, Any]) -> "StageTimes":
        """From what `to_dict` gave; of an empty dict, no stages. Version 0.1 wrote `room` for `capacity`."""
        stages = (
            StageTime(one["stage"], one["busy"], one["full"], one.get("capacity", one.get("room", 0)))
            for one in tree.get("stages", ())
        )
        return cls(tree.get("seconds", 0.0), tuple(stages))


class PersistentThreads:
    """Threads for the stages of one StageThreads after another, each for the stage that has its name.

    For libraries that keep what they have prepared by thread, as cuDNN does. They end with this object.
    """

    def __init__(self) -> None:
        self._calls: dict[str, SimpleQueue[_Call | None]] = {}
        self._threads: list[threading.Thread] = []
        self._dismissed = weakref.finalize(self, _dismiss, self._calls)

    def run(self, name: str, work: Callable[[], None]) -> threading.Event:
        """Do `work`, which raises nothing, in the thread of this name; the event is set when it is done."""
        if name not in self._calls:
            calls: SimpleQueue[_Call | None] = SimpleQueue()
            thread = threading.Thread(target=_serve, args=(calls,), name=f"maskgen-{name}", daemon=True)
            thread.start()
            self._calls[name] = calls
            self._threads.append(thread)
        done = threading.Event()
        self._calls[name].put((work, done))
        return done

    def close(self) -> None:
        """End the threads, once they have done their work."""
        self._dismissed()
        for thread in self._threads:
            thread.join()


_Call = tuple[Callable[[], None], threading.Event]


def _serve(calls: "SimpleQueue[_Call | None]") -> None:
    while call := calls.get():
        work, done = call
        try:
            work()
        finally:
            del call, work  # or the last stage's items would live until the next
            done.set()


def _dismiss(calls: "dict[str, SimpleQueue[_Call | None]]") -> None:
    for each in calls.values():
        each.put(None)


class StageThreads:
    """Stages in threads. A context manager: leaving it stops every stage and waits for its thread."""

    def __init__(self, last: str, threads: PersistentThreads | None = None):
        """`last` names what is done with the items that the last stage gives, for `times`. `threads`: they
        do the work, and go on afterwards; by default there are own ones, which end.
        """
        self._last = last
        self._threads = threads or PersistentThreads()
        self._own = None if threads else self._threads
        self._changed = threading.Condition()
        self._queues: list[_Queue] = []
        self._stopped = threading.Event()
        self._began = time.monotonic()

    def __enter__(self) -> "StageThreads":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
        for queue in self._queues:
            queue.done.wait()
        if self._own:
            self._own.close()

    def stage(self, name: str, items: Iterator[Item], capacity: int) -> Iterator[Item]:
        """`items`, made in a thread of their own, while what was made before is worked on.

        At most `capacity` of them are under way or wait to be taken; with a capacity of 0 there is no
        thread, and each is made when it is asked for. What `items` raises is raised to the
        taker, in its turn.
        """
        if capacity < 1:
            return items
        queue = _Queue(name, items, capacity, self._changed, self._stopped)
        self._queues.append(queue)
        queue.done = self._threads.run(name, queue.work)
        return queue

    def times(self) -> StageTimes:
        """What the stages have done until now; the last one is what the taker does between two items."""
        with self._changed:
            seconds = time.monotonic() - self._began
            waited = 0.0
            found = []
            for queue in self._queues:
                queue.tally()
                busy = max(0.0, queue.making - waited)
                found.append(StageTime(queue.name, busy, queue.full, queue.capacity))
                waited = queue.waited
            if found:
                found.append(StageTime(self._last, max(0.0, seconds - waited), 0.0, 0))
            return StageTimes(seconds, tuple(found))


class _Stopped(Exception):
    """The context was left; unwinds a stage that waits for the one before it."""


class _Queue(Iterator[Any]):
    """A stage at work and what it has made. All that is written here is written under `changed`."""

    def __init__(
        self,
        name: str,
        items: Iterator[Any],
        capacity: int,
        changed: threading.Condition,
        stopped: threading.Event,
    ):
        self.name = name
        self.capacity = capacity
        self.making = 0.0  # seconds in `items`, which includes waiting for the stage before
        self.waited = 0.0  # seconds that the taker waited for an item
        self.full = 0.0
        self.done = threading.Event()  # the thread has done with it
        self._items = items
        self._changed = changed
        self._stopped = stopped
        self._ready: deque[Any] = deque()
        self._over = False
        self._error: BaseException | None = None
        self._tallied = time.monotonic()

    def tally(self) -> None:
        """Add the time since the last change to `full`."""
        now = time.monotonic()
        self.full += (now - self._tallied) * len(self._ready) / self.capacity
        self._tallied = now

    def __next__(self) -> Any:
        with self._changed:
            began = time.monotonic()
            self._changed.wait_for(lambda: self._ready or self._over or self._stopped.is_set())
            self.waited += time.monotonic() - began
            if self._stopped.is_set():
                raise _Stopped
            if self._ready:
                self.tally()
                self._changed.notify_all()
                return self._ready.popleft()
            if self._error is not None:
                raise self._error
            raise StopIteration

    def work(self) -> None:
        """What the thread does: make items until there are no more, or the context is left."""
        try:
            while self._has_capacity():
                began = time.monotonic()
                item = next(self._items)
                with self._changed:
                    self.making += time.monotonic() - began
                    self.tally()
                    self._ready.append(item)
                    self._changed.notify_all()
                del item  # or the last one would live until there is capacity for the next
        except StopIteration:
            self._end(None)
        except BaseException as error:  # also SystemExit: a stage must not end without a word
            self._end(error)

    def _has_capacity(self) -> bool:
        """Wait until the next item may be begun; False if the context was left."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self.capacity or self._stopped.is_set())
            return not self._stopped.is_set()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._over, self._error = True, error
            self._changed.notify_all()
