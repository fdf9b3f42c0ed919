"""Stages that work at the same time: each in a thread of its own, joined to the next by a short queue.

A stage is an iterator over the stage before it. What it yields follows from what it takes, in order, never
from when: a flow gives the very items that its stages give nested in one another without any thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Level:
    """What one stage has done so far, in seconds.

    `busy`: it worked. `full`: its queue was full, a queue half full counting half. `room`: the items that it
    may be ahead of the next stage; 0 for the last one, which has no queue.
    """

    stage: str
    busy: float
    full: float
    room: int


@dataclass(frozen=True)
class Levels:
    """A flow's stages, in order, and the seconds since it began. No stages: it has no threads."""

    seconds: float
    stages: tuple[Level, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, in milliseconds' precision."""
        stages = [
            {**asdict(one), "busy": round(one.busy, 3), "full": round(one.full, 3)} for one in self.stages
        ]
        return {"seconds": round(self.seconds, 3), "stages": stages}

    @classmethod
    def of(cls, tree: dict[str, Any]) -> "Levels":
        """From what `to_dict` gave; of an empty dict, a flow that has not begun."""
        return cls(tree.get("seconds", 0.0), tuple(Level(**one) for one in tree.get("stages", ())))


class Flow:
    """A context manager: leaving it stops every stage and waits for the threads to end."""

    def __init__(self, last: str):
        """`last` names what is done with the items that the flow gives, for `levels`."""
        self._last = last
        self._changed = threading.Condition()
        self._queues: list[_Queue] = []
        self._stopped = False
        self._began = time.monotonic()

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for queue in self._queues:
            queue.thread.join()

    def stage(self, name: str, items: Iterator[Item], room: int) -> Iterator[Item]:
        """`items`, made in a thread of their own, while what was made before is worked on.

        At most `room` of them are under way or wait to be taken; with a room of 0 there is no thread, and
        each is made when it is asked for. What `items` raises is raised to the taker, in its turn.
        """
        if room < 1:
            return items
        queue = _Queue(name, items, room, self._changed, lambda: self._stopped)
        self._queues.append(queue)
        queue.thread.start()
        return queue

    def levels(self) -> Levels:
        """What the stages have done until now; the last one is what the taker does between two items."""
        with self._changed:
            seconds = time.monotonic() - self._began
            waited = 0.0
            found = []
            for queue in self._queues:
                queue.tally()
                found.append(Level(queue.name, max(0.0, queue.making - waited), queue.full, queue.room))
                waited = queue.waited
            if found:
                found.append(Level(self._last, max(0.0, seconds - waited), 0.0, 0))
            return Levels(seconds, tuple(found))


class _Stopped(Exception):
    """The flow was left; unwinds a stage that waits for the one before it."""


class _Queue(Iterator[Any]):
    """A stage's thread and what it has made. All that is written here is written under `changed`."""

    def __init__(
        self,
        name: str,
        items: Iterator[Any],
        room: int,
        changed: threading.Condition,
        stopped: Callable[[], bool],
    ):
        self.name = name
        self.room = room
        self.making = 0.0  # seconds in `items`, which includes waiting for the stage before
        self.waited = 0.0  # seconds that the taker waited for an item
        self.full = 0.0
        self.thread = threading.Thread(target=self._run, name=f"maskgen-{name}", daemon=True)
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
        self.full += (now - self._tallied) * len(self._ready) / self.room
        self._tallied = now

    def __next__(self) -> Any:
        with self._changed:
            began = time.monotonic()
            self._changed.wait_for(lambda: self._ready or self._over or self._stopped())
            self.waited += time.monotonic() - began
            if self._stopped():
                raise _Stopped
            if self._ready:
                self.tally()
                self._changed.notify_all()
                return self._ready.popleft()
            if self._error is not None:
                raise self._error
            raise StopIteration

    def _run(self) -> None:
        try:
            while self._has_room():
                began = time.monotonic()
                item = next(self._items)
                with self._changed:
                    self.making += time.monotonic() - began
                    self.tally()
                    self._ready.append(item)
                    self._changed.notify_all()
                del item  # or the last one would live until there is room for the next
        except StopIteration:
            self._end(None)
        except BaseException as error:  # also SystemExit: a stage must not end without a word
            self._end(error)

    def _has_room(self) -> bool:
        """Wait until the next item may be begun; False if the flow was left."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self.room or self._stopped())
            return not self._stopped()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._over, self._error = True, error
            self._changed.notify_all()
