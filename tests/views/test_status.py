import json
import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from helpers import tiny_sets
from helpers.tiny_sets import note, record
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.stages import StageTime, StageTimes
from maskgen.runtime.store import Store
from maskgen.views import throughput
from maskgen.views.report import write_report
from maskgen.views.status import render, status
from maskgen.views.throughput import Span

BAD = record(3, Outcome.IMAGE_MISSING, "no such file")


def hold(store, pid=None):
    """A lease as this process (or the given one) would write it."""
    process = psutil.Process(pid or os.getpid())
    facts = {
        "host": os.uname().nodename,
        "pid": process.pid,
        "started": process.create_time(),
        "time": time.time(),
    }
    Store(f"{store.url}/.maskgen").write_json("lease.json", facts)


@pytest.mark.parametrize("make", [True, False])
def test_nothing_there_is_a_sentence(tmp_path, make):
    out = tmp_path / "none"
    if make:
        out.mkdir()
    with pytest.raises(MaskgenError, match="no run was begun in"):
        status(str(out))
    assert out.exists() == make, "looking must not create the folder"


def test_finished_set(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1), record(2)], [BAD, record(4)]])
    found = status(store.url)
    assert (found.shards_done, found.shards, found.samples) == (2, 2, 4)
    assert found.outcomes == {"ok": 3, "image_missing": 1}
    assert found.skipped == {"broken": 1, "duplicate": 2, "not selected": 2}
    assert (found.failed, found.over_budget, found.running) == (1, True, False)
    assert "--retry-failed" in found.advice and "maskgen verify" in found.advice
    shown = render(found)
    assert "not running" in shown and "over the budget" in shown and "75.0 %" in shown
    json.dumps(found.to_dict())


def test_unfinished_set_says_how_to_go_on(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], None])
    found = status(store.url)
    assert (found.shards_done, found.running, found.eta) == (1, False, None)
    assert "same maskgen run line" in found.advice and "1 shard left" in found.advice


def test_a_missing_index_is_unfinished(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)]])
    assert status(store.url).advice.startswith("finished")
    store.remove("index.parquet")
    assert "index is missing" in status(store.url).advice


def test_a_run_at_work(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1), record(2)], None, None])
    hold(store)
    now = time.time()
    note(store, now - 500, "run_started", shards=9)  # an earlier run counts no more
    note(store, now - 490, "worker_died", worker="000", shard=1, why="x")
    note(store, now - 20, "run_started", shards=3)
    note(store, now - 10, "cluster", actors=1)
    note(store, now - 5, "shard_done", shard=0, worker="000", seconds=5, planned=2)
    Journal(store.url).write_heartbeat(
        Heartbeat("000", shard=1, planned=4, done=3, suspects=("a", "b"), host="h", pid=7, time=now)
    )
    found = status(store.url)
    assert found.running and found.workers[0].done == 3 and found.incidents.deaths == 0
    assert found.pace is not None and found.pace.run == pytest.approx(5 / 10, rel=0.2)
    assert found.eta == pytest.approx(5 / 0.5, rel=0.3)
    shown = render(found)
    assert f"process {os.getpid()}" in shown and "3/4" in shown and "2 in hand" in shown and "left" in shown


def levels(reading: float, proposing: float, full: float) -> dict:
    """Ten seconds of a worker's stages."""
    stages = (
        StageTime("reading", reading, full, 2),
        StageTime("proposing", proposing, 0, 1),
        StageTime("writing", 0, 0, 0),
    )
    return StageTimes(10, stages).to_dict()


def test_the_stages_are_shown_while_it_runs_and_afterwards(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], None])
    note(store, 10, "run_started", shards=2)
    note(store, 15, "shard_done", shard=0, worker="000", seconds=5, planned=1, stage_times=levels(2, 9, 10))
    journal = Journal(store.url)
    journal.write_heartbeat(
        Heartbeat("000", shard=0, stage_times=levels(2, 9, 10))
    )  # still of the finished shard
    journal.write_heartbeat(Heartbeat("001", shard=1, stage_times=levels(1, 10, 5)))
    for running, busy, full in ((False, "20.0 %", "100.0 %"), (True, "15.0 %", "75.0 %")):
        if running:
            hold(store)
        shown = render(status(store.url))
        assert f"{busy}  {full} full (holds 2)" in shown
        assert "the pace is set by the proposer" in shown
    assert "the pace is set by the proposer" in Path(write_report(store)).read_text()


def test_a_run_without_threads_has_no_stages(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)]])
    note(store, 10, "run_started", shards=1)
    note(store, 15, "shard_done", shard=0, worker="000", seconds=5, planned=1, stage_times={})
    assert status(store.url).stages == []
    assert "stages" not in render(status(store.url))


def test_a_heartbeat_of_a_finished_shard_is_not_counted_twice():
    events = [
        {"event": "run_started", "time": 0.0, "shards": 2},
        {"event": "shard_done", "time": 10.0, "shard": 0, "worker": "a", "seconds": 5.0, "planned": 4},
    ]
    assert throughput.unfinished_spans(events, [Heartbeat("a", shard=0, done=4, time=10.0)]) == []
    assert throughput.unfinished_spans(events, [Heartbeat("a", shard=1, done=2, time=12.0)]) == [
        Span(10.0, 12.0, 2)
    ]


def test_neither_loading_nor_the_index_is_in_the_pace(tmp_path):
    """100 images in 10 seconds, after 30 of loading and before 20 of indexing, wherever the pace is shown."""
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)]])
    note(store, 0, "run_started", shards=1)
    note(store, 1, "cluster", actors=1)
    note(store, 31, "worker_ready", worker="000")
    note(store, 41, "shard_done", shard=0, worker="000", seconds=10, planned=100)
    note(store, 61, "run_finished", shards=1)
    pace = status(store.url).pace
    assert pace is not None and (pace.run, pace.recent, pace.seconds) == (10, 10, 10)
    assert "10.0 images/s over 10 s" in render(status(store.url))
    page = Path(write_report(store)).read_text()
    assert "<b>10</b><span>images a second, over 10 s of work" in page and "10.0 images/s" in page


def test_an_unfinished_first_shard_begins_when_its_worker_was_ready():
    events = [
        {"event": "run_started", "time": 0.0, "shards": 2},
        {"event": "cluster", "time": 1.0},
        {"event": "worker_ready", "time": 31.0, "worker": "b"},
    ]
    assert throughput.unfinished_spans(events, [Heartbeat("b", shard=0, done=4, time=41.0)]) == [
        Span(31.0, 41.0, 4)
    ]
    before = [event for event in events if event["event"] != "worker_ready"]  # of an earlier version
    assert throughput.unfinished_spans(before, [Heartbeat("b", shard=0, done=4, time=41.0)]) == [
        Span(1.0, 41.0, 4)
    ]


def test_rate_counts_only_what_lies_in_the_window():
    work = [Span(0, 10, 100), Span(10, 20, 300)]
    assert throughput.rate(work, 0, 20) == 20
    assert throughput.rate(work, 5, 15) == pytest.approx(20)
    assert throughput.rate(work, 10, 20) == 30
    assert throughput.rate(work, 20, 20) == 0


def test_a_killed_driver_leaves_its_lease_and_is_not_running(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], None])
    hold(store)
    lease = Store(f"{store.url}/.maskgen")
    lease.write_json("lease.json", {**lease.read_json("lease.json"), "started": 1.0})
    Journal(store.url).write_heartbeat(Heartbeat("000", shard=1, planned=4, done=3))
    found = status(store.url)
    assert not found.running and found.workers == []
    assert "ended without a word" in render(found) and "same maskgen run line" in found.advice


def test_planning_is_said(tmp_path):
    store = Store(str(tmp_path / "set"))
    hold(store)
    with pytest.raises(MaskgenError, match="still planning"):
        status(store.url)


def test_incidents_are_reported(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], None])
    note(store, 1.0, "run_started", shards=2)
    for _ in range(12):
        note(store, 2.0, "worker_died", worker="000", shard=1, why="killed")
    note(store, 3.0, "gave_up", shard=1, deaths=12)
    Journal(store.url).quarantine("k1", "its process died")
    found = status(store.url)
    assert (found.incidents.deaths, found.incidents.quarantined, found.incidents.given_up) == (12, 1, [1])
    assert "12 worker deaths" in render(found) and "000001" in render(found)
    assert "lost their worker" in found.advice


def test_render_tells_no_control_characters(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)]])
    found = replace(status(store.url), out="set\x1b[2J")
    assert "\x1b" not in render(found)
