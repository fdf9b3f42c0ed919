"""A call on a worker, how it ended, and what the driver asks of whoever holds the workers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from maskgen.pipeline.worker import Job, Task


@dataclass
class Call:
    """A call under way on a worker."""

    worker: str
    kind: str  # "load", "make" or "probe"
    task: Task | None = None
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class CallResult:
    """How a call ended: with a value, with an exception of the worker's, or with the worker's death."""

    call: Call
    value: Any = None
    error: Exception | None = None
    died: str = ""


class WorkerPool(Protocol):
    """`cluster.RayCluster`, or what stands in for it: `size` places for workers, each with a name."""

    size: int

    def start(self, job: Job) -> str:
        """Start one worker, begin loading its models, and return its name."""

    def names(self) -> list[str]:
        """Every worker that was started and not killed."""

    def idle(self) -> list[str]:
        """Those of them without a call."""

    def calls(self) -> list[Call]:
        """What is under way."""

    def make(self, worker: str, task: Task) -> None:
        """Have an idle worker make a shard."""

    def probe(self, worker: str, task: Task, keys: Sequence[str]) -> None:
        """Have an idle worker ground samples and throw the results away."""

    def wait(self, seconds: float) -> list[CallResult]:
        """Calls that ended, as soon as there are any; none after `seconds`."""

    def kill(self, worker: str) -> None:
        """End the worker's process; its call, if any, then ends as died."""
