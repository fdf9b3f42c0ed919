"""Writes a worker's heartbeat: at once before new images are touched, else once a second."""

import threading
import time
from collections import Counter
from collections.abc import Iterable

from maskgen.outcome import Outcome
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.stages import StageThreads

SECONDS = 1.0


class HeartbeatWriter:
    """What one worker does to one shard, for its heartbeat. Its threads may all speak at once.

    `stages`: the threads whose times the heartbeat shows, once there are any.
    """

    def __init__(self, journal: Journal, worker: str, shard: int, planned: int):
        self.stages: StageThreads | None = None
        self._journal = journal
        self._worker = worker
        self._shard = shard
        self._planned = planned
        self._outcomes: Counter[str] = Counter()
        self._suspects: dict[str, None] = {}
        self._written = 0.0
        self._lock = threading.Lock()
        self.write()

    def begin(self, keys: Iterable[str]) -> None:
        """The samples are about to be read; returns when the heartbeat names them."""
        keys = dict.fromkeys(keys)
        with self._lock:
            self._suspects |= keys
            self._write(now=bool(keys))

    def finished(self, key: str, outcome: Outcome | None) -> None:
        """The sample is out of hand; `outcome` is None if it was only probed."""
        with self._lock:
            self._suspects.pop(key, None)
            if outcome is not None:
                self._outcomes[outcome.value] += 1
            # What is made alone must not be suspected of what happens to the next.
            self._write(now=not self._suspects)

    def write(self) -> None:
        """Write it now."""
        with self._lock:
            self._write(now=True)

    def _write(self, now: bool) -> None:
        # Under the lock: an older heartbeat must not replace a newer one.
        if not now and time.monotonic() - self._written < SECONDS:
            return
        self._written = time.monotonic()
        self._journal.write_heartbeat(
            Heartbeat(
                worker=self._worker,
                shard=self._shard,
                planned=self._planned,
                done=self._outcomes.total(),
                suspects=tuple(self._suspects),
                outcomes=dict(self._outcomes),
                stage_times=self.stages.times().to_dict() if self.stages else {},
            )
        )
