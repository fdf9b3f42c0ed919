"""How busy the stages inside the workers were, and which of them sets the pace: for status and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskgen.draw import text
from maskgen.runtime.journal import Heartbeat
from maskgen.runtime.stages import StageTimes
from maskgen.views.throughput import Event

HEAD = ("stage", "at work", "its queue, on average")

_DOING = {
    "reading": "reading and decoding images",
    "proposing": "the proposer",
    "refining": "the refiner",
    "encoding": "judging masks and encoding samples",
    "writing": "writing the shard",
}


@dataclass(frozen=True)
class Stage:
    """A stage over all workers. `busy`: the share of the time, 0-1, that it worked. `full`: the mean of its
    queue's fill, 0-1 of its `capacity`; None if it has no queue."""

    name: str
    busy: float
    full: float | None
    capacity: int


def stages(events: Iterable[Event], heartbeats: Iterable[Heartbeat] = ()) -> list[Stage]:
    """The stages of a run's workers in their finished shards, and in the ones in hand; empty if unknown."""
    done = [event for event in events if event["event"] == "shard_done"]
    told: list[dict[str, Any]] = [
        event.get("stage_times") or event.get("flow", {})  # as version 0.1 wrote it
        for event in done
    ]
    told += [heartbeat.stage_times for heartbeat in heartbeats]
    levels = [one for one in map(StageTimes.of, told) if one.stages]
    seconds = sum(one.seconds for one in levels)
    if not seconds:
        return []
    found = []
    for name, capacity in {level.stage: level.capacity for one in levels for level in one.stages}.items():
        mine = [level for one in levels for level in one.stages if level.stage == name]
        full = sum(level.full for level in mine) / seconds if capacity else None
        found.append(Stage(name, sum(level.busy for level in mine) / seconds, full, capacity))
    return found


def rows(found: Sequence[Stage]) -> list[tuple[str, str, str]]:
    """A line for each stage, under `HEAD`."""
    return [
        (
            _DOING.get(stage.name, stage.name),
            text.share(stage.busy, 1),
            "" if stage.full is None else f"{text.share(stage.full, 1)} full (holds {stage.capacity})",
        )
        for stage in found
    ]


def verdict(found: Sequence[Stage]) -> str:
    """Which stage the others wait for."""
    slowest = max(found, key=lambda stage: stage.busy)
    return (
        f"the pace is set by {_DOING.get(slowest.name, slowest.name)}: at work "
        f"{text.share(slowest.busy, 1)} of the time"
    )
