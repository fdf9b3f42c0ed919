"""Hours on N GPUs: the arithmetic against a simulated driver that hands out shard after shard."""

import heapq
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.estimate import driver_ceiling
from maskgen.estimate.scaling import PlannedWork, parse_gpu_counts, run_time_on, smaller_shards
from maskgen.pipeline.worker import Job
from maskgen.runtime.journal import EVENTS_A_FILE, Journal


def simulated(gpus: int, work: PlannedWork) -> float:
    """Seconds until the last shard is done: a driver, which hands out one at a time, and its workers."""
    free = [0.0] * gpus  # when each worker can take a shard
    driver = done = 0.0
    for shard in range(work.shards):
        rows = min(work.shard_rows, work.rows - shard * work.shard_rows)
        driver = max(driver, heapq.heappop(free)) + 3600 / work.ceiling
        heapq.heappush(free, driver + rows / work.rate)
        done = max(done, driver + rows / work.rate)
    return work.loading + done


@given(
    gpus=st.integers(1, 40),
    rows=st.integers(1, 3000),
    shard_rows=st.integers(1, 400),
    rate=st.floats(0.5, 50),
    hand_out=st.one_of(st.just(1e-9), st.floats(1e-4, 3)),
)
def test_the_arithmetic_is_what_a_simulation_gives(gpus, rows, shard_rows, rate, hand_out):
    work = PlannedWork(rows, shard_rows, rate, 12.0, 3600 / hand_out)
    found = run_time_on(gpus, work)
    assert found.seconds == pytest.approx(simulated(gpus, work), rel=1e-6)
    assert 0 < found.busy <= 1 + 1e-9


PRETRAIN = PlannedWork(227_000, 1000, 55.0, 60.0, 1_000_000)


def test_what_limits_is_named():
    assert run_time_on(1, PRETRAIN).limit == "nothing"
    many = run_time_on(512, PRETRAIN)
    assert (many.limit, many.busy < 0.5) == ("shards", True)
    shard = 60 + 1000 / 55
    assert many.seconds == pytest.approx(shard, abs=1), "every GPU makes one shard, or none"
    slow = PlannedWork(227_000, 1000, 55.0, 60.0, 3600)
    assert run_time_on(64, slow).limit == "driver"
    assert run_time_on(64, slow).seconds == pytest.approx(227 + shard, rel=0.01)


def test_smaller_shards_keep_many_gpus_busy():
    smaller = replace(PRETRAIN, shard_rows=smaller_shards(64, PRETRAIN))
    assert run_time_on(64, smaller).busy > 0.95
    assert run_time_on(64, smaller).seconds < run_time_on(64, PRETRAIN).seconds
    assert smaller_shards(100_000, PRETRAIN) == 100


def test_nothing_to_do_takes_the_loading():
    assert run_time_on(8, replace(PRETRAIN, rows=0)).seconds == 60


@pytest.mark.parametrize("given", ["", "1,,2", "0", "-1", "two", "1 2", "1.5"])
def test_gpus_that_are_no_numbers_are_a_sentence(given):
    with pytest.raises(MaskgenError, match="--gpus"):
        parse_gpu_counts(given)


def test_gpus_are_read():
    assert parse_gpu_counts("1, 8,64") == [1, 8, 64]


def test_the_driver_hands_out_every_shard_once(tmp_path):
    settings, out = config.load("demo"), str(tmp_path)
    journal = Journal(out)
    workers = Counted(5, journal)
    driver_ceiling.drive(workers, Job(settings, out, out, "0" * 16), journal, shards=EVENTS_A_FILE + 30)
    assert sorted(workers.made) == list(range(EVENTS_A_FILE + 30))
    assert len(workers.names()) == 5
    done = [event["shard"] for event in Journal(out).events() if event["event"] == "shard_done"]
    assert done == workers.made, "a notebook of several files is read in order"


class Counted(driver_ceiling.NoOpWorkerPool):
    """Notes down what is made."""

    def __init__(self, size, journal):
        super().__init__(size, journal)
        self.made = []

    def make(self, worker, task):
        self.made.append(task.shard)
        super().make(worker, task)


def test_the_ceiling_counts_rays_share():
    found = driver_ceiling.measure(config.load("demo"), workers=4, shards=20)
    assert 0 < found < 3600 / driver_ceiling.RAY_SECONDS
