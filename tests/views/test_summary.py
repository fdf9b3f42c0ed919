"""What `maskgen plan` says about time."""

import json
import re

from helpers.tiny_sets import CONFIG, FINGERPRINT, make_set, record
from maskgen.estimate.estimate import Estimate
from maskgen.estimate.pilot import Pilot
from maskgen.estimate.scaling import PlannedWork, run_time_on
from maskgen.evaluation import mask_quality
from maskgen.pipeline.run import RunRequest, RunSummary
from maskgen.sharding.index import finish
from maskgen.sources.plan import PlanSummary
from maskgen.views.summary import render_estimate, summarise_run

PLAN = PlanSummary(["rows.jsonl"], 300_000, 0, [], 0, 227_000, 227_000, {}, 227, [])
PILOT = Pilot(rows=550, seconds=10, shard_bytes=1, loading_seconds=60, device="H100")


def estimate(ceiling: float, *gpus: int) -> Estimate:
    work = PlannedWork(PLAN.planned, 1000, PILOT.rate, PILOT.loading_seconds, ceiling)
    return Estimate(PLAN, 1, PILOT, work, tuple(run_time_on(count, work) for count in gpus))


def test_the_time_on_each_number_of_gpus_and_what_holds_it_up():
    shown = render_estimate(estimate(1_000_000, 1, 8, 512)).splitlines()
    one, eight, many = (
        next(line for line in shown if f"on {count} of them" in line) for count in (1, 8, 512)
    )
    assert one.startswith("time") and "1 h 9 min" in one and one.endswith("1.16 device-hours")
    assert "227 shards" not in eight
    assert "227 shards of 1,000 rows do not share out evenly: --set shards.size=100" in many
    assert any("1,000,000  shards an hour that one driver can hand out" in line for line in shown)


def test_a_slow_driver_is_named():
    shown = render_estimate(estimate(3600, 64))
    assert "the driver hands out no faster: larger shards, or several runs" in shown


def test_without_a_pilot_the_time_is_unknown():
    shown = render_estimate(Estimate(PLAN, 1))
    assert "unknown" in shown and "--pilot 512" in shown


def test_what_auto_becomes_here_is_said():
    assert "settings" not in render_estimate(Estimate(PLAN, 1))
    shown = render_estimate(Estimate(PLAN, 1, resolved="proposer float32"))
    assert re.search(r"settings +auto +proposer float32", shown)


def test_an_estimate_is_json():
    tree = json.loads(json.dumps(estimate(3600, 1, 64).to_dict()))
    assert [(time["gpus"], time["limit"]) for time in tree["times"]] == [(1, "nothing"), (64, "driver")]
    assert tree["driver_shards_an_hour"] == 3600


def test_a_finished_set_gets_the_last_files_that_a_killed_driver_left_unwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_quality, "score", lambda *_: {"samples": 1})
    monkeypatch.setattr(mask_quality, "render", lambda _: ["scored"])
    source = CONFIG.source.model_copy(update={"truth": "truth.parquet"})
    store = make_set(tmp_path, [[record(0)]])
    request = RunRequest(CONFIG.model_copy(update={"source": source}), "data", str(tmp_path))
    nothing_made = RunSummary(1, {"ok": 1}, 0, 0, [], [], False, 1.0, 0, False)
    assert "scored" in summarise_run(request, nothing_made)
    assert store.exists("quality.json") and store.exists("report.html")
    written = (tmp_path / "report.html").stat().st_mtime_ns
    again = summarise_run(request, nothing_made)
    assert "scored" not in again, "what is there is left alone"
    assert f"report:  {tmp_path}/report.html" in again and "next:    maskgen" in again
    assert (tmp_path / "report.html").stat().st_mtime_ns == written
    store.remove("index.parquet")  # as when shards were made anew, and the driver died before the index
    finish(store, FINGERPRINT)
    assert not store.exists("quality.json") and not store.exists("report.html"), (
        "they speak of an older index"
    )


def test_an_empty_set_is_not_called_finished_already(tmp_path):
    store = make_set(tmp_path, [])
    source = CONFIG.source.model_copy(update={"truth": "truth.parquet"})
    request = RunRequest(CONFIG.model_copy(update={"source": source}), "data", str(tmp_path))
    told = summarise_run(request, RunSummary(0, {}, 0, 0, [], [], False, 1.0, 0, False))
    assert "finished already" not in told and "of 5 rows none was selected" in told, "and nothing is scored"
    assert not store.exists("quality.json")
