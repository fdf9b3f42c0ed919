"""Images a second, from the run's events: for status and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskgen.runtime.journal import Heartbeat

Event = dict[str, Any]


RECENT_SECONDS = 300.0


@dataclass(frozen=True)
class Pace:
    """Images a second over the `seconds` of grounding in a run, and over its last five minutes at most.

    They begin when the first worker has loaded its models, and end with the last finished shard or now:
    neither loading nor the final index is in them.
    """

    run: float
    recent: float
    seconds: float


@dataclass(frozen=True)
class Span:
    """`images` that were worked on from `begin` to `end`, in seconds since the epoch."""

    begin: float
    end: float
    images: int


def runs(events: Sequence[Event]) -> list[list[Event]]:
    """The events cut at every `run_started`; what stands before the first is left out."""
    found: list[list[Event]] = []
    for event in events:
        if event["event"] == "run_started":
            found.append([])
        if found:
            found[-1].append(event)
    return found


def spans(events: Iterable[Event]) -> list[Span]:
    """One for each finished shard; its images count as spread evenly over the time it took."""
    return [
        Span(event["time"] - event["seconds"], event["time"], event["planned"])
        for event in events
        if event["event"] == "shard_done"
    ]


def unfinished_spans(events: Sequence[Event], heartbeats: Iterable[Heartbeat]) -> list[Span]:
    """What the workers did of unfinished shards; each began when the worker was ready for it."""
    found = []
    for heartbeat in heartbeats:
        finished = [e for e in events if e["event"] == "shard_done" and e["worker"] == heartbeat.worker]
        if not events or any(event["shard"] == heartbeat.shard for event in finished):
            continue  # the heartbeat still speaks of a shard that is finished
        begin = finished[-1]["time"] if finished else _ready_time(events, heartbeat.worker)
        found.append(Span(begin, max(begin, heartbeat.time), heartbeat.done))
    return found


def pace(work: Sequence[Span], now: float | None) -> Pace | None:
    """The pace of one run's `work`, until `now` or the end of it; None before the first image."""
    if not any(span.images for span in work):
        return None
    begin = min(span.begin for span in work)
    end = now or max(span.end for span in work)
    return Pace(rate(work, begin, end), rate(work, max(begin, end - RECENT_SECONDS), end), end - begin)


def rate(work: Iterable[Span], begin: float, end: float) -> float:
    """Images a second between `begin` and `end`; 0 for an empty interval."""
    if end <= begin:
        return 0.0
    return sum(_images_within(span, begin, end) for span in work) / (end - begin)


def _images_within(span: Span, begin: float, end: float) -> float:
    if span.end <= span.begin:
        return float(span.images if begin <= span.end <= end else 0)
    overlap = max(0.0, min(end, span.end) - max(begin, span.begin))
    return span.images * overlap / (span.end - span.begin)


def _ready_time(events: Sequence[Event], worker: str) -> float:
    """When the worker had loaded its models; in journals that do not say so, when workers were asked for."""
    loaded = (e["time"] for e in events if e["event"] == "worker_ready" and e["worker"] == worker)
    asked = (e["time"] for e in events if e["event"] == "cluster")
    return float(next(loaded, next(asked, events[0]["time"])))
