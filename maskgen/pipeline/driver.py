"""Hands out shards and decides what to do when a worker dies.

It keeps nothing that the files do not: what is left is what has no commit, so killing it anywhere and
starting it again ends in the same bytes.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from maskgen.errors import MaskgenError
from maskgen.pipeline.isolation import ShardFailures
from maskgen.pipeline.worker import Job, Task
from maskgen.pipeline.worker_calls import Call, CallResult, WorkerPool
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.waiting import last_outage
from maskgen.sharding.commit import Commit

POLL_SECONDS = 0.5
LOAD_DEATHS = 5
LOAD_SECONDS = 3600.0
WAIT_SECONDS = 120.0


class Driver:
    """Makes every task's shard on `cluster`. `on_commit` and `on_tick` are for who watches."""

    def __init__(
        self,
        cluster: WorkerPool,
        job: Job,
        journal: Journal,
        tasks: list[Task],
        on_commit: Callable[[Task, Commit], None],
        on_tick: Callable[[dict[str, Heartbeat]], None],
        on_loaded: Callable[[dict[str, object]], None],
        should_stop: Callable[[], bool],
        say: Callable[[str], None],
    ):
        self._cluster = cluster
        self._job = job
        self._journal = journal
        self._todo = deque(tasks)
        self._on_commit = on_commit
        self._on_tick = on_tick
        self._on_loaded = on_loaded
        self._should_stop = should_stop
        self._say = say
        self._failures: dict[int, ShardFailures] = {}
        self._ready: set[str] = set()
        self._load_deaths = 0
        self._waiting_since = time.monotonic()
        self._said_waiting = False
        self._seen: dict[str, tuple[float, float]] = {}
        self._last_check = 0.0
        self.given_up: list[int] = []

    def run(self) -> None:
        """Until nothing is left or `should_stop` says so; what is under way is then dropped."""
        while (self._todo or self._working()) and not self._should_stop():
            self._start_workers()
            self._assign_tasks()
            for result in self._cluster.wait(POLL_SECONDS):
                self._handle_result(result)
            self._check_heartbeats()
        self._on_tick({})

    def _working(self) -> list[Call]:
        return [call for call in self._cluster.calls() if call.kind != "load"]

    def _start_workers(self) -> None:
        """An actor for every place, as long as there is work for it."""
        useful = min(self._cluster.size, len(self._todo) + len(self._working()))
        for _ in range(useful - len(self._cluster.names())):
            self._cluster.start(self._job)

    def _assign_tasks(self) -> None:
        for worker in self._cluster.idle():
            if worker not in self._ready or not self._todo:
                continue
            task = self._todo.popleft()
            failures = self._failures.get(task.shard, ShardFailures())
            if failures.next_step() == "probe":
                self._cluster.probe(worker, task, failures.suspects)
            else:
                self._cluster.make(worker, replace(task, alone=failures.next_step() == "alone"))

    def _handle_result(self, result: CallResult) -> None:
        call = result.call
        if result.died:
            self._worker_died(call, result.died)
        elif isinstance(result.error, MaskgenError):
            raise result.error  # no checkpoint, a full disk: nothing another try would mend
        elif result.error is not None:
            # An exception that no sample explains, such as a broken CUDA context: the process is spent.
            self._cluster.kill(call.worker)
            self._worker_died(call, f"{type(result.error).__name__}: {result.error}")
        elif call.kind == "load":
            self._ready.add(call.worker)
            self._load_deaths = 0
            self._journal.log_event("worker_ready", worker=call.worker)
            self._on_loaded(result.value)
        elif call.kind == "probe":
            self._failures[_shard(call)].clear_suspects()
            self._requeue(call)
        elif call.task is not None:
            self._failures.pop(_shard(call), None)
            seconds = round(time.monotonic() - call.started, 3)
            heartbeat = self._journal.heartbeat(call.worker)
            self._journal.log_event(
                "shard_done",
                shard=_shard(call),
                worker=call.worker,
                seconds=seconds,
                planned=call.task.rows,
                stage_times=heartbeat.stage_times if heartbeat and heartbeat.shard == _shard(call) else {},
            )
            self._on_commit(call.task, result.value)

    def _worker_died(self, call: Call, why: str) -> None:
        """Record a death, and decide what it says about the samples in hand."""
        heartbeat = self._journal.heartbeat(call.worker)
        self._journal.remove_heartbeat(call.worker)
        self._ready.discard(call.worker)
        if call.task is None:
            self._load_deaths += 1
            self._journal.log_event("worker_died", worker=call.worker, shard=-1, why=why)
            self._say(f"worker {call.worker} died while loading the models ({why})")
            if self._load_deaths >= LOAD_DEATHS and not self._ready:
                raise MaskgenError(
                    f"{LOAD_DEATHS} workers died while loading the models ({why}). "
                    "Is memory short? maskgen doctor shows it; resources.actors asks for fewer workers."
                )
            return
        shard = call.task.shard
        suspects = heartbeat.suspects if heartbeat and heartbeat.shard == shard else ()
        self._journal.log_event(
            "worker_died", worker=call.worker, shard=shard, why=why, suspects=list(suspects)
        )
        self._say(f"worker {call.worker} died on shard {shard} ({why}); another takes over")
        failures = self._failures.setdefault(shard, ShardFailures())
        culprit = failures.record_death(suspects, alone=call.kind == "probe" or call.task.alone)
        if culprit:
            reason = "its process died each time it was grounded alone"
            self._journal.quarantine(culprit, reason)
            self._journal.log_event("quarantined", key=culprit, shard=shard)
            self._say(f"sample {culprit} kills the process that grounds it: quarantined")
        if failures.next_step() == "give up":
            self._journal.log_event("gave_up", shard=shard, deaths=failures.deaths)
            self._say(f"shard {shard} lost {failures.deaths} workers: given up in this run")
            self.given_up.append(shard)
        else:
            self._requeue(call)

    def _requeue(self, call: Call) -> None:
        """The shard comes next, with the quarantine as it is now."""
        assert call.task is not None
        self._todo.appendleft(replace(call.task, quarantined=self._journal.quarantined()))

    def _check_startup(self, now: float) -> None:
        """Workers that Ray cannot place yet wait in `load`; that is no fault of theirs, but no run either."""
        if self._ready:
            self._waiting_since = now
        elif now - self._waiting_since > LOAD_SECONDS:
            raise MaskgenError(
                f"no worker was ready within {LOAD_SECONDS / 60:.0f} minutes. "
                "Is every GPU taken? `ray status` shows it."
            )
        elif now - self._waiting_since > WAIT_SECONDS and not self._said_waiting:
            self._said_waiting = True
            self._say("still waiting for the first worker: for a free GPU or CPU core, or for its models")

    def _check_heartbeats(self) -> None:
        """Kill a worker whose heartbeat has not changed for too long; show the others' progress."""
        now = time.monotonic()
        if now - self._last_check < POLL_SECONDS:
            return  # hundreds of heartbeats take longer to read than a shard to settle
        self._last_check = now
        heartbeats = self._journal.heartbeats()
        now = time.monotonic()  # reading them may have taken as long as the storage was away
        self._check_startup(now)
        for call in self._working():
            beat = heartbeats[call.worker].time if call.worker in heartbeats else 0.0
            last, since = self._seen.get(call.worker, (-1.0, now))
            if beat != last:
                self._seen[call.worker] = (beat, now)
            elif now - max(since, call.started, last_outage()) > self._job.config.resources.stall_seconds:
                self._journal.log_event("stalled", worker=call.worker)
                self._cluster.kill(call.worker)
        # A heartbeat may still speak of the shard before: its commit has been counted already.
        current = {call.worker: _shard(call) for call in self._working()}
        self._on_tick({name: beat for name, beat in heartbeats.items() if current.get(name) == beat.shard})


def _shard(call: Call) -> int:
    assert call.task is not None
    return call.task.shard
