"""A run's figures as Prometheus text, in a file: for node_exporter's textfile collector, or any scraper.

A file rather than a port: a run comes and goes, several may share a machine, nothing has to be opened or
found, and a pushgateway takes the same text (`curl --data-binary @FILE`).
"""

import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from maskgen import __version__
from maskgen.errors import MaskgenError
from maskgen.runtime.journal import Heartbeat
from maskgen.sharding.commit import Commit

SECONDS = 15.0


class MetricsFile:
    """Rewrites `path` every `SECONDS` while the run goes on, and when it ends; an empty path: nothing.

    MaskgenError if its folder is not there. A disk that is full later ends no run.
    """

    def __init__(self, path: str, labels: dict[str, str], rows: int, rows_done: int, shards: int, left: int):
        if path and not Path(path).absolute().parent.is_dir():
            raise MaskgenError(
                f"resources.metrics_file: the folder of {path} is not there. Make it, or give another path."
            )
        self._path = path
        self._labels = labels
        self._rows, self._rows_done, self._in_hand = rows, rows_done, 0
        self._shards, self._shards_done = shards, shards - left
        self._outcomes: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._workers = 0
        self._started = self._progressed = time.time()
        self._written = float("-inf")

    def event(self, event: str, facts: dict[str, Any]) -> None:
        """One of the journal's."""
        self._events[event] += 1

    def committed(self, rows: int, commit: Commit) -> None:
        """A shard landed, `rows` of which were made now."""
        self._rows_done += rows
        self._shards_done += 1
        self._outcomes.update({outcome.value: count for outcome, count in commit.outcomes.items()})
        self._progressed = time.time()

    def tick(self, heartbeats: dict[str, Heartbeat]) -> None:
        """What the workers have in hand; writes the file if it is time."""
        self._workers = len(heartbeats)
        self._in_hand = sum(heartbeat.done for heartbeat in heartbeats.values())
        if time.monotonic() - self._written >= SECONDS:
            self._write(running=True)

    def close(self) -> None:
        """The run has ended."""
        self._workers = self._in_hand = 0
        self._write(running=False)

    def _write(self, running: bool) -> None:
        self._written = time.monotonic()
        if not self._path:
            return
        path = Path(self._path)
        partial = path.with_name(f".{path.name}-{os.getpid()}")  # a collector takes *.prom alone
        with suppress(OSError):
            partial.write_text(self.text(running))
            partial.replace(path)

    def text(self, running: bool) -> str:
        """The exposition format, which OpenMetrics' readers take too."""
        process = psutil.Process()
        times = process.cpu_times()
        figures: list[tuple[str, str, str, float]] = [
            ("run_running", "gauge", "1 while the driver works", float(running)),
            ("run_started_timestamp_seconds", "gauge", "when the driver began", self._started),
            ("progress_timestamp_seconds", "gauge", "when the last shard landed", self._progressed),
            ("rows_planned", "gauge", "rows of the set", self._rows),
            (
                "rows_done",
                "gauge",
                "rows in finished shards or grounded",
                min(self._rows, self._rows_done + self._in_hand),
            ),
            ("shards_planned", "gauge", "shards of the set", self._shards),
            ("shards_done", "gauge", "shards that are finished", self._shards_done),
            ("shards_given_up_total", "counter", "shards given up in this run", self._events["gave_up"]),
            ("workers", "gauge", "workers that have a shard in hand", self._workers),
            ("worker_deaths_total", "counter", "workers that died", self._events["worker_died"]),
            ("worker_stalls_total", "counter", "workers killed without progress", self._events["stalled"]),
            ("quarantined_total", "counter", "samples quarantined", self._events["quarantined"]),
            (
                "driver_cpu_seconds_total",
                "counter",
                "the driver's processor time",
                times.user + times.system,
            ),
            ("driver_resident_bytes", "gauge", "the driver's memory", process.memory_info().rss),
        ]
        lines = _family("run_info", "gauge", "what is made, by which maskgen")
        lines.append(_sample("run_info", {**self._labels, "version": __version__}, 1))
        for name, kind, told, value in figures:
            lines += [*_family(name, kind, told), _sample(name, self._labels, value)]
        lines += _family("samples_total", "counter", "samples of shards finished in this run, by outcome")
        for outcome, count in sorted(self._outcomes.items()):
            lines.append(_sample("samples_total", {**self._labels, "outcome": outcome}, count))
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, told: str) -> list[str]:
    return [f"# HELP maskgen_{name} {told}", f"# TYPE maskgen_{name} {kind}"]


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"maskgen_{name}{{{shown}}} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
