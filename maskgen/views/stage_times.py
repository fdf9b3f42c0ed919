"""How busy the stages inside the workers were, and which of them sets the pace: for status and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskgen.draw import text
from maskgen.runtime.journal import Heartbeat
from maskgen.runtime.stages import StageTimes
from maskgen.views.throughput import Event

HEAD = ("stage", "at work", "its queue, on average")

_DESCRIPTIONS = {
    "reading": "reading and decoding images",
    "proposing": "the proposer",
    "refining": "the refiner",
    "encoding": "judging masks and encoding samples",
    "writing": "writing the shard",
}


@dataclass(frozen=True)
class StageLoad:
    """A stage over all workers. `busy`: the share of the time, 0-1, that it worked. `full`: the mean of its
    queue's fill, 0-1 of its `capacity`; None if it has no queue."""

    name: str
    busy: float
    full: float | None
    capacity: int


def stage_loads(events: Iterable[Event], heartbeats: Iterable[Heartbeat] = ()) -> list[StageLoad]:
    """The stages of a run's workers in their finished shards, and in the ones in hand; empty if unknown."""
    done = [event for event in events if event["event"] == "shard_done"]
    records: list[dict[str, Any]] = [
        event.get("stage_times") or event.get("flow", {})  # as version 0.1 wrote it
        for event in done
    ]
    records += [heartbeat.stage_times for heartbeat in heartbeats]
    shards = [one for one in map(StageTimes.of, records) if one.stages]
    seconds = sum(one.seconds for one in shards)
    if not seconds:
        return []
    found = []
    for name, capacity in {time.stage: time.capacity for one in shards for time in one.stages}.items():
        mine = [time for one in shards for time in one.stages if time.stage == name]
        full = sum(time.full for time in mine) / seconds if capacity else None
        found.append(StageLoad(name, sum(time.busy for time in mine) / seconds, full, capacity))
    return found


def table_rows(found: Sequence[StageLoad]) -> list[tuple[str, str, str]]:
    """A line for each stage, under `HEAD`."""
    return [
        (
            _DESCRIPTIONS.get(stage.name, stage.name),
            text.share(stage.busy, 1),
            "" if stage.full is None else f"{text.share(stage.full, 1)} full (holds {stage.capacity})",
        )
        for stage in found
    ]


def bottleneck(found: Sequence[StageLoad]) -> str:
    """Which stage the others wait for."""
    slowest = max(found, key=lambda stage: stage.busy)
    return (
        f"the pace is set by {_DESCRIPTIONS.get(slowest.name, slowest.name)}: at work "
        f"{text.share(slowest.busy, 1)} of the time"
    )
