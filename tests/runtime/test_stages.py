"""Stages in threads: the same items as without, however the timing, and nothing left behind."""

import random
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.runtime.stages import Flow, Level, Levels

STAGES = ["one", "two", "three"]


def dawdling(items: Iterator[int], chance: random.Random, longest: float) -> Iterator[int]:
    """Each item, a number later than it came, and sometimes an item more."""
    for item in items:
        time.sleep(chance.uniform(0, longest))
        yield item + 1
        if item % 5 == 0:
            yield -item


def through(count: int, rooms: list[int], longest: float = 0.0, seed: int = 0) -> list[int]:
    items: Iterator[int] = iter(range(count))
    with Flow("last") as flow:
        for name, room in zip(STAGES, rooms, strict=True):
            items = flow.stage(name, dawdling(items, random.Random(f"{name}{seed}"), longest), room)
        return list(items)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("maskgen-")}


@settings(max_examples=25)
@given(
    count=st.integers(0, 12),
    rooms=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    longest=st.sampled_from([0.0, 0.002]),
    seed=st.integers(0, 99),
)
def test_rooms_and_delays_do_not_change_what_comes_out(count, rooms, longest, seed):
    assert through(count, rooms, longest, seed) == through(count, [0, 0, 0])
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
    with pytest.raises(kind, match="broken"), Flow("last") as flow:
        for name in STAGES:
            items = flow.stage(name, breaking(items, name), 2)
        for item in items:
            got.append(item)
    assert got == [0, 1, 2, 3]
    assert threads() == set()


@pytest.mark.parametrize("rooms", [[1, 1, 1], [3, 1, 2]])
def test_leaving_early_ends_every_thread_and_begins_nothing_more(rooms):
    made = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    with Flow("last") as flow:
        items: Iterator[int] = endless()
        for name, room in zip(STAGES, rooms, strict=True):
            items = flow.stage(name, items, room)
        assert next(items) == 0
    assert threads() == set()
    begun = len(made)
    time.sleep(0.02)
    assert len(made) == begun <= 1 + sum(rooms)


@pytest.mark.parametrize("room", [1, 2, 5])
def test_no_more_items_are_alive_than_there_is_room_for(room):
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
    with Flow("last") as flow:
        for _thing in flow.stage("making", (Thing() for _ in range(30)), room):
            time.sleep(0.002)  # time to make more than it may
            most = max(most, alive)
        del _thing
    assert (most, alive) == (room + 1, 0)  # one is the taker's


def test_levels_say_who_sets_the_pace():
    def slow(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            time.sleep(0.01)
            yield item

    with Flow("writing") as flow:
        items = flow.stage("reading", iter(range(12)), 2)
        for _ in flow.stage("proposing", slow(items), 1):
            pass
        levels = flow.levels()
    reading, proposing, writing = levels.stages
    assert (reading.room, proposing.room, writing.room) == (2, 1, 0)
    assert proposing.busy > max(reading.busy, writing.busy)
    assert reading.full > proposing.full, "before the slow stage the queue is full, behind it empty"
    assert all(0 <= level.busy <= levels.seconds for level in levels.stages)
    assert all(0 <= level.full <= levels.seconds for level in levels.stages)


def test_levels_go_through_json_and_back():
    levels = Levels(2.5, (Level("reading", 0.5, 1.25, 2), Level("writing", 0.125, 0.0, 0)))
    assert Levels.of(levels.to_dict()) == levels
    assert Levels.of({}) == Levels(0.0, ())
