"""The schedule: every sample once, the same whoever asks, masked ones evenly spread, few shards at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.training import sampler
from maskgen.training.sampler import Schedule


def world(n, share=0.3, shard=10, seed=0):
    random = np.random.default_rng(seed)
    return random.random(n) < share, np.arange(n) // shard


def steps(found, world_size, gradient_accumulation_steps):
    """The global batch of each step."""
    return [
        [
            row
            for micro in range(gradient_accumulation_steps)
            for rank in range(world_size)
            for row in found.batch(step, rank, micro)
        ]
        for step in range(found.steps)
    ]


@given(
    st.integers(1, 200),
    st.sampled_from([(1, 1), (1, 4), (2, 2), (4, 1)]),
    st.sampled_from(["stratified", "random"]),
)
def test_every_sample_once_and_the_rest_is_filled_up(n, shape, order):
    has_mask, shards = world(n)
    ranks, micros = shape
    found = steps(Schedule(n, has_mask, shards, 8, ranks, micros, 0, 1, order), ranks, micros)
    rows = [row for batch in found for row in batch]
    assert sorted(row for row in rows if row >= 0) == list(range(n))
    assert all(len(batch) == 8 for batch in found) and rows.count(-1) == -n % 8
    assert all(row >= 0 for batch in found[:-1] for row in batch)


@given(st.integers(1, 200), st.integers(0, 9))
def test_processes_share_the_same_global_batch(n, seed):
    has_mask, shards = world(n)
    shapes = [(1, 1), (1, 4), (2, 2), (4, 1)]
    found = [
        steps(Schedule(n, has_mask, shards, 8, ranks, micros, seed, 2, "stratified"), ranks, micros)
        for ranks, micros in shapes
    ]
    assert all(each == found[0] for each in found)


def test_seed_and_stage_decide():
    has_mask, shards = world(100)
    drawn = [
        Schedule(100, has_mask, shards, 8, 1, 1, *which, "random").batch(0, 0, 0)
        for which in ((0, 1), (0, 1))
    ]
    assert drawn[0] == drawn[1]
    for which in ((1, 1), (0, 2)):
        assert Schedule(100, has_mask, shards, 8, 1, 1, *which, "random").batch(0, 0, 0) != drawn[0]


@given(st.integers(40, 400), st.floats(0, 1))
def test_stratified_steps_hold_their_share_to_one(n, share):
    has_mask, shards = world(n, share)
    found = steps(Schedule(n, has_mask, shards, 16, 1, 1, 0, 3, "stratified"), 1, 1)
    counts = [int(has_mask[batch].sum()) for batch in found if -1 not in batch]
    assert max(counts, default=0) - min(counts, default=0) <= 2
    assert all(abs(count - 16 * has_mask.mean()) < 1.01 for count in counts)


@pytest.mark.parametrize("order", ["stratified", "random"])
def test_few_shards_are_in_use_at_a_time(monkeypatch, order):
    monkeypatch.setattr(sampler, "WINDOW", 4)
    has_mask, shards = world(4000, shard=20)
    found = Schedule(4000, has_mask, shards, 40, 1, 1, 0, 1, order)
    used = [len(set(shards[found.batch(step, 0, 0)])) for step in range(found.steps)]
    assert max(used) <= (16 if order == "stratified" else 8)
    order_of_shards = [shards[found.batch(step, 0, 0)[0]] for step in range(found.steps)]
    assert order_of_shards != sorted(order_of_shards)


def test_a_million_samples_are_planned_at_once():
    has_mask, shards = world(1_000_000, 0.1, shard=1000)
    found = Schedule(1_000_000, has_mask, shards, 128, 8, 1, 0, 1, "stratified")
    assert found.steps == 7813 and len(found.batch(7812, 7, 0)) == 16
