"""The run's notebook in OUT/.maskgen: a trace of events, the workers' heartbeats, the quarantine.

None of it is part of the finished set: times, hosts and process numbers live here and nowhere else.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from maskgen.errors import MaskgenError
from maskgen.runtime.store import Store

FOLDER = ".maskgen"
EVENTS_A_FILE = 200  # each event writes its file anew, since an object store cannot append


@dataclass(frozen=True)
class Heartbeat:
    """What one worker is doing: its heartbeat, its progress, and the trace it leaves if it dies.

    `suspects` are the keys whose images it is reading or has on the device, written down before it
    touches them. `done` counts the samples of `shard` that are finished. `stage_times`: how busy the
    worker's stages have been in this shard, as `StageTimes.to_dict`; empty where they run nested.
    """

    worker: str
    shard: int = -1
    planned: int = 0
    done: int = 0
    suspects: tuple[str, ...] = ()
    outcomes: dict[str, int] = field(default_factory=dict)
    stage_times: dict[str, Any] = field(default_factory=dict)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    time: float = field(default_factory=time.time)


class Journal:
    """Reads and writes the notebook of one output place. `listeners` are told each event that is logged."""

    def __init__(self, out: str, listeners: Sequence[Callable[[str, dict[str, Any]], None]] = ()):
        self.listeners = list(listeners)
        self._store = Store(f"{out.rstrip('/')}/{FOLDER}")
        self._events = _new_events_file()
        self._lines: list[str] = []

    # Heartbeats: one small file a worker, replaced whole, so a reader never sees half of one.

    def write_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._store.write_json(f"worker-{heartbeat.worker}.json", asdict(heartbeat), durable=False)

    def heartbeats(self) -> dict[str, Heartbeat]:
        """The latest heartbeat of every worker that has not been put out."""
        found = {}
        for name in self._store.names():
            if name.startswith("worker-"):
                heartbeat = self._read_heartbeat(name)
                if heartbeat:
                    found[heartbeat.worker] = heartbeat
        return found

    def heartbeat(self, worker: str) -> Heartbeat | None:
        return self._read_heartbeat(f"worker-{worker}.json")

    def remove_heartbeat(self, worker: str) -> None:
        self._store.remove(f"worker-{worker}.json")

    def _read_heartbeat(self, name: str) -> Heartbeat | None:
        try:
            tree = self._store.read_json(name)
            return Heartbeat(**{**tree, "suspects": tuple(tree["suspects"])})
        except (MaskgenError, TypeError, KeyError):
            return None  # never written, just removed, or written by another version

    # Events: what happened and when, for people, the report and the throughput figures.

    def log_event(self, event: str, **facts: Any) -> None:
        """Append one event; facts must be JSON values."""
        if len(self._lines) >= EVENTS_A_FILE:
            self._events, self._lines = _new_events_file(), []
        self._lines.append(json.dumps({"time": time.time(), "event": event, **facts}, sort_keys=True))
        self._store.write_bytes(self._events, ("\n".join(self._lines) + "\n").encode(), durable=False)
        for listener in self.listeners:
            listener(event, facts)

    def events(self) -> list[dict[str, Any]]:
        """Every event of every run into this place, oldest first."""
        found = []
        for name in sorted(self._store.names()):
            if name.startswith("events-"):
                for line in self._store.read_bytes(name).splitlines():
                    with suppress(ValueError):  # torn by a power failure
                        found.append(json.loads(line))
        return found

    # Quarantine: keys that killed their process. A decision, so it outlives the driver.

    def quarantined(self) -> dict[str, str]:
        """Reason by key."""
        if not self._store.exists("quarantine.json"):
            return {}
        return dict(self._store.read_json("quarantine.json"))

    def quarantine(self, key: str, reason: str) -> None:
        self._store.write_json("quarantine.json", {**self.quarantined(), key: reason})

    def release(self) -> None:
        """Give quarantined samples another chance."""
        self._store.remove("quarantine.json")


def _new_events_file() -> str:
    return f"events-{time.time_ns()}.jsonl"
