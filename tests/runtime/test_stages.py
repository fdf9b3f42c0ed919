"""Stages in threads: the same items as without, however the timing, and nothing left behind."""

import random
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.runtime.stages import PersistentThreads, StageThreads, StageTime, StageTimes

STAGES = ["one", "two", "three"]


def dawdling(items: Iterator[int], chance: random.Random, longest: float) -> Iterator[int]:
    """Each item, a number later than it came, and sometimes an item more."""
    for item in items:
        time.sleep(chance.uniform(0, longest))
        yield item + 1
        if item % 5 == 0:
            yield -item


def through(count: int, capacities: list[int], longest: float = 0.0, seed: int = 0) -> list[int]:
    items: Iterator[int] = iter(range(count))
    with StageThreads("last") as stages:
        for name, capacity in zip(STAGES, capacities, strict=True):
            items = stages.stage(name, dawdling(items, random.Random(f"{name}{seed}"), longest), capacity)
        return list(items)


OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Of workers in other tests, which may be about to end."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


def threads() -> set[str]:
    mine = set(threading.enumerate()) - OTHERS
    return {thread.name for thread in mine if thread.name.startswith("maskgen-")}


@settings(max_examples=25)
@given(
    count=st.integers(0, 12),
    capacities=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    longest=st.sampled_from([0.0, 0.002]),
    seed=st.integers(0, 99),
)
def test_rooms_and_delays_do_not_change_what_comes_out(count, capacities, longest, seed):
    assert through(count, capacities, longest, seed) == through(count, [0, 0, 0])
    assert threads() == set()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_what_a_stage_raises_reaches_the_taker_after_the_items_before_it(stage, kind):
    def breaking(items, name):
        for item in items:
            if name == stage and item == 4:
                raise kind("broken")
            yield item

    items: Iterator[int] = iter(range(9))
    got = []
    with pytest.raises(kind, match="broken"), StageThreads("last") as stages:
        for name in STAGES:
            items = stages.stage(name, breaking(items, name), 2)
        for item in items:
            got.append(item)
    assert got == [0, 1, 2, 3]
    assert threads() == set()


@pytest.mark.parametrize("capacities", [[1, 1, 1], [3, 1, 2]])
def test_leaving_early_ends_every_thread_and_begins_nothing_more(capacities):
    made = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    with StageThreads("last") as stages:
        items: Iterator[int] = endless()
        for name, capacity in zip(STAGES, capacities, strict=True):
            items = stages.stage(name, items, capacity)
        assert next(items) == 0
    assert threads() == set()
    begun = len(made)
    time.sleep(0.02)
    assert len(made) == begun <= 1 + sum(capacities)


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_no_more_items_are_alive_than_there_is_room_for(capacity):
    alive = 0

    class Thing:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1
            weakref.finalize(self, gone)

    def gone() -> None:
        nonlocal alive
        alive -= 1

    most = 0
    with StageThreads("last") as stages:
        for _thing in stages.stage("making", (Thing() for _ in range(30)), capacity):
            time.sleep(0.002)  # time to make more than it may
            most = max(most, alive)
        del _thing
    assert (most, alive) == (capacity + 1, 0)  # one is the taker's


def test_threads_serve_one_context_after_another_and_keep_nothing_of_it():
    class Thing:
        pass

    def things(count):
        for _ in range(count):
            seen.add(threading.get_ident())
            thing = Thing()
            alive.add(thing)
            yield thing

    seen: set[int] = set()
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    shared = PersistentThreads()
    for taken in (3, 1, 5):
        with StageThreads("last", shared) as stages:
            items = stages.stage("making", things(3), 2)
            for _, thing in zip(range(taken), items, strict=False):
                del thing
        del stages, items
        assert len(alive) == 0
    assert len(seen) == 1
    assert threads() == {"maskgen-making"}
    shared.close()
    assert threads() == set()


def test_threads_end_with_their_owner():
    shared = PersistentThreads()
    with StageThreads("last", shared) as stages:
        assert list(stages.stage("making", iter(range(3)), 1)) == [0, 1, 2]
    mine = [one for one in threading.enumerate() if one not in OTHERS]
    del shared, stages
    for thread in mine:
        thread.join(5)
    assert threads() == set()


def test_levels_say_who_sets_the_pace():
    def slow(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            time.sleep(0.01)
            yield item

    with StageThreads("writing") as stages:
        items = stages.stage("reading", iter(range(12)), 2)
        for _ in stages.stage("proposing", slow(items), 1):
            pass
        times = stages.times()
    reading, proposing, writing = times.stages
    assert (reading.capacity, proposing.capacity, writing.capacity) == (2, 1, 0)
    assert proposing.busy > max(reading.busy, writing.busy)
    assert reading.full > proposing.full, "before the slow stage the queue is full, behind it empty"
    assert all(0 <= one.busy <= times.seconds for one in times.stages)
    assert all(0 <= one.full <= times.seconds for one in times.stages)


def test_times_go_through_json_and_back():
    times = StageTimes(2.5, (StageTime("reading", 0.5, 1.25, 2), StageTime("writing", 0.125, 0.0, 0)))
    assert StageTimes.of(times.to_dict()) == times
    assert StageTimes.of({}) == StageTimes(0.0, ())
