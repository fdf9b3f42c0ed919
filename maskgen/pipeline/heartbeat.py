"""Keeps a worker's beacon lit: at once before new images are touched, else once a second."""

import threading
import time
from collections import Counter
from collections.abc import Iterable

from maskgen.outcome import Outcome
from maskgen.runtime.journal import Beacon, Journal
from maskgen.runtime.stages import Flow

SECONDS = 1.0


class Lantern:
    """What one worker does to one shard, for its beacon. Its threads may all speak at once.

    `flow`: the flow whose levels the beacon shows, once there is one.
    """

    def __init__(self, journal: Journal, worker: str, shard: int, planned: int):
        self.flow: Flow | None = None
        self._journal = journal
        self._worker = worker
        self._shard = shard
        self._planned = planned
        self._outcomes: Counter[str] = Counter()
        self._suspects: dict[str, None] = {}
        self._lit = 0.0
        self._lock = threading.Lock()
        self.light()

    def begin(self, keys: Iterable[str]) -> None:
        """The samples are about to be read; returns when the beacon names them."""
        keys = dict.fromkeys(keys)
        with self._lock:
            self._suspects |= keys
            self._light(now=bool(keys))

    def finished(self, key: str, outcome: Outcome | None) -> None:
        """The sample is out of hand; `outcome` is None if it was only probed."""
        with self._lock:
            self._suspects.pop(key, None)
            if outcome is not None:
                self._outcomes[outcome.value] += 1
            # What is made alone must not be suspected of what happens to the next.
            self._light(now=not self._suspects)

    def light(self) -> None:
        """Show how it stands."""
        with self._lock:
            self._light(now=True)

    def _light(self, now: bool) -> None:
        # Under the lock: an older beacon must not replace a newer one.
        if not now and time.monotonic() - self._lit < SECONDS:
            return
        self._lit = time.monotonic()
        self._journal.light(
            Beacon(
                worker=self._worker,
                shard=self._shard,
                planned=self._planned,
                done=self._outcomes.total(),
                suspects=tuple(self._suspects),
                outcomes=dict(self._outcomes),
                flow=self.flow.levels().to_dict() if self.flow else {},
            )
        )
