"""`maskgen status`: what is done, under way and left, from files alone, also while a run works."""

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from maskgen.draw import text
from maskgen.errors import MaskgenError
from maskgen.outcome import failures
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.lease import is_alive, read_holder
from maskgen.runtime.store import Store
from maskgen.sharding.commit import committed, shard_name
from maskgen.sources.plan import passed_over
from maskgen.views import stage_times, throughput
from maskgen.views.stage_times import StageLoad
from maskgen.views.throughput import RECENT_SECONDS, Event, Pace, Span

_BAR_WIDTH = 24


@dataclass(frozen=True)
class LeaseHolder:
    """The process that holds the lease, or that held it when it was killed."""

    host: str
    pid: int
    alive: bool


@dataclass(frozen=True)
class WorkerStatus:
    """One worker's heartbeat; `age` is in seconds."""

    name: str
    host: str
    pid: int
    shard: int
    done: int
    planned: int
    in_hand: int
    age: float


@dataclass(frozen=True)
class RunIncidents:
    """What went wrong: deaths and stalls in the latest run; keys and shards that are still left out."""

    deaths: int
    stalls: int
    quarantined: int
    given_up: list[int]


@dataclass(frozen=True)
class Status:
    """One set. `outcomes` counts the `samples` of finished shards, by the names of `Outcome`;
    `skipped` says how many rows were read and not planned; `eta` is in seconds, None if unknown; `stages` are
    those inside the latest run's workers."""

    out: str
    split: str
    fingerprint: str
    version: str
    read: int
    planned: int
    groundable: int
    skipped: dict[str, int]
    shards: int
    shards_done: int
    samples: int
    outcomes: dict[str, int]
    failed: int
    budget: float
    indexed: bool
    holder: LeaseHolder | None
    workers: list[WorkerStatus]
    pace: Pace | None
    eta: float | None
    stages: list[StageLoad]
    incidents: RunIncidents

    @property
    def running(self) -> bool:
        return self.holder is not None and self.holder.alive

    @property
    def over_budget(self) -> bool:
        return self.failed > self.budget * max(1, self.planned)

    @property
    def advice(self) -> str:
        """What to do next, in one line."""
        left = self.shards - self.shards_done
        if self.running and self.holder:
            place = f"process {self.holder.pid} on {self.holder.host}"
            return f"nothing to do: it works. To pause, stop {place} with Ctrl-C or SIGTERM."
        if self.incidents.given_up and left:
            return (
                f"run the same maskgen run line again for the {text.plural(left, 'shard')} left; those given "
                "up lost their worker many times: fewer actors or a smaller batch may help."
            )
        if left or not self.indexed:
            what = f"{text.plural(left, 'shard')} left" if left else "the final index is missing"
            return f"run the same maskgen run line to finish ({what})."
        if self.failed:
            failures = text.plural(self.failed, "failure")
            return (
                f"finished: maskgen verify {self.out}. Once the cause of the {failures} is mended: "
                "the same maskgen run line with --retry-failed."
            )
        return f"finished: maskgen verify {self.out}, maskgen report {self.out}."

    def render(self) -> str:
        """For a person."""
        return render(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        derived = {"running": self.running, "over_budget": self.over_budget, "advice": self.advice}
        return {**asdict(self), **derived}


def status(out: str) -> Status:
    """The status of the set in `out`; MaskgenError if no run was begun there."""
    store, journal = Store(out), Journal(out)
    holder = _holder(out)
    running = holder is not None and holder.alive
    record = _record(store, running)
    plan, commits = record["plan"], committed(store)
    events = (throughput.runs(journal.events()) or [[]])[-1]
    heartbeats = list(journal.heartbeats().values()) if running else []
    outcomes: Counter[str] = Counter()
    for commit in commits.values():
        outcomes.update({outcome.value: count for outcome, count in commit.outcomes.items()})
    work = throughput.spans(events) + throughput.unfinished_spans(events, heartbeats)
    pace = throughput.pace(work, time.time() if running else None)
    return Status(
        out=store.place,
        split=record["config"]["split"],
        fingerprint=record["fingerprint"],
        version=record["maskgen"],
        read=plan["read"],
        planned=plan["planned"],
        groundable=plan["groundable"],
        skipped=_skipped(plan),
        shards=plan["shards"],
        shards_done=len(commits),
        samples=sum(commit.planned for commit in commits.values()),
        outcomes=dict(outcomes.most_common()),
        failed=failures(outcomes, passed_over(record)),
        budget=record["config"]["resources"]["failure_budget"],
        indexed=store.exists("index.parquet"),
        holder=holder,
        workers=[_worker(heartbeat) for heartbeat in heartbeats],
        pace=pace,
        eta=_eta(plan, events, work, pace) if running and pace else None,
        stages=stage_times.stage_loads(events, _unfinished(events, heartbeats)),
        incidents=_incidents(events, journal, set(commits)),
    )


def _record(store: Store, running: bool) -> dict[str, Any]:
    if store.exists("run.json"):
        return dict(store.read_json("run.json"))
    if running:
        raise MaskgenError(f"the run into {store.place} is still planning. Look again once it has planned.")
    raise MaskgenError(f"no run was begun in {store.place}. Begin one: maskgen run --out {store.place} ...")


def _holder(out: str) -> LeaseHolder | None:
    holder = read_holder(out)
    return LeaseHolder(str(holder["host"]), int(holder["pid"]), is_alive(holder)) if holder else None


def _unfinished(events: list[Event], heartbeats: list[Heartbeat]) -> list[Heartbeat]:
    """The heartbeats of shards that no event reports as done."""
    done = {event["shard"] for event in events if event["event"] == "shard_done"}
    return [heartbeat for heartbeat in heartbeats if heartbeat.shard not in done]


def _skipped(plan: dict[str, Any]) -> dict[str, int]:
    """Rows read and not planned, by reason."""
    skipped = {"broken": plan.get("broken", 0), "duplicate": plan.get("duplicates", 0)}
    rest = plan["read"] - plan["planned"] - sum(skipped.values())
    return {reason: count for reason, count in {**skipped, "not selected": rest}.items() if count > 0}


def _worker(heartbeat: Heartbeat) -> WorkerStatus:
    return WorkerStatus(
        name=heartbeat.worker,
        host=heartbeat.host,
        pid=heartbeat.pid,
        shard=heartbeat.shard,
        done=heartbeat.done,
        planned=heartbeat.planned,
        in_hand=len(heartbeat.suspects),
        age=max(0.0, time.time() - heartbeat.time),
    )


def _eta(plan: dict[str, Any], events: list[Event], work: list[Span], pace: Pace) -> float | None:
    """Seconds until this run's shards are made, at the recent pace; a retried shard counts whole."""
    rows = events[0]["shards"] * plan["planned"] / max(1, plan["shards"]) - sum(span.images for span in work)
    images_per_second = pace.recent or pace.run
    return max(0.0, rows) / images_per_second if images_per_second else None


def _incidents(events: list[Event], journal: Journal, done: set[int]) -> RunIncidents:
    count = Counter(event["event"] for event in events)
    given_up = sorted({event["shard"] for event in events if event["event"] == "gave_up"} - done)
    return RunIncidents(count["worker_died"], count["stalled"], len(journal.quarantined()), given_up)


def render(found: Status) -> str:
    """The status as lines for a terminal."""
    rows = [
        ("set", [f"{found.split} in {found.out} (fingerprint {found.fingerprint}, maskgen {found.version})"]),
        ("plan", [_plan_line(found)]),
        ("state", [_state_line(found)]),
        ("shards", [_shards_line(found)]),
        ("outcomes", _outcome_lines(found)),
        ("failures", [_failure_line(found)]),
        ("speed", _speed_lines(found)),
        ("stages", _stage_lines(found.stages)),
        ("workers", _worker_lines(found)),
        ("incidents", _incident_lines(found.incidents)),
        ("next", [found.advice]),
    ]
    return "\n".join(
        text.printable(f"{label if first else '':<10}{line}")
        for label, lines in rows
        for first, line in zip([True] + [False] * len(lines), lines, strict=False)
    )


def _plan_line(found: Status) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.skipped.items())
    line = f"{found.planned:,} of {text.plural(found.read, 'row')} in {text.plural(found.shards, 'shard')}"
    if found.groundable < found.planned:
        line += f", {found.groundable:,} can be grounded"
    return f"{line}; skipped: {reasons}" if reasons else line


def _state_line(found: Status) -> str:
    if found.holder is None:
        return "not running"
    place = f"process {found.holder.pid} on {found.holder.host}"
    return f"running: {place}" if found.running else f"not running; {place} ended without a word"


def _shards_line(found: Status) -> str:
    part = found.shards_done / found.shards if found.shards else 1.0
    bar = "█" * int(part * _BAR_WIDTH)
    share = text.share(found.shards_done, found.shards)
    return (
        f"{bar:░<{_BAR_WIDTH}} {found.shards_done:,} of {found.shards:,} ({share}), "
        f"{text.plural(found.samples, 'sample')}"
    )


def _outcome_lines(found: Status) -> list[str]:
    rows = [(name, f"{n:,}", text.share(n, found.samples)) for name, n in found.outcomes.items()]
    return text.table(rows, right=frozenset({1, 2})) or ["none yet"]


def _failure_line(found: Status) -> str:
    allowed = f"{int(found.budget * found.planned):,} allowed ({text.share(found.budget, 1)} of the plan)"
    return f"{found.failed:,}, {'over the budget: ' if found.over_budget else ''}{allowed}"


def _speed_lines(found: Status) -> list[str]:
    if found.pace is None:
        return []
    line = f"{text.rate(found.pace.run)} over {text.duration(found.pace.seconds)}"
    if found.pace.seconds > RECENT_SECONDS:
        line += f", {text.rate(found.pace.recent)} in the last {text.duration(RECENT_SECONDS)}"
    return [line if found.eta is None else f"{line}; about {text.duration(found.eta)} left"]


def _stage_lines(stages: list[StageLoad]) -> list[str]:
    if not stages:
        return []
    return [
        *text.table([stage_times.HEAD, *stage_times.table_rows(stages)], right=frozenset({1})),
        stage_times.bottleneck(stages),
    ]


def _worker_lines(found: Status) -> list[str]:
    rows = [
        (
            worker.name,
            f"shard {shard_name(worker.shard)}" if worker.shard >= 0 else "loading",
            f"{worker.done:,}/{worker.planned:,}",
            f"{worker.in_hand:,} in hand",
            f"seen {text.duration(worker.age)} ago",
            f"process {worker.pid} on {worker.host}",
        )
        for worker in found.workers
    ]
    return text.table(rows, right=frozenset({2, 3}))


def _incident_lines(incidents: RunIncidents) -> list[str]:
    parts = []
    if incidents.deaths:
        parts.append(f"{text.plural(incidents.deaths, 'worker death')} in this run")
    if incidents.stalls:
        parts.append(f"{text.plural(incidents.stalls, 'stall')}")
    if incidents.quarantined:
        parts.append(f"{text.plural(incidents.quarantined, 'sample')} quarantined")
    if incidents.given_up:
        parts.append(f"given up on shard {text.listed([shard_name(shard) for shard in incidents.given_up])}")
    return ["; ".join(parts)] if parts else []
