"""The cut and the spill against what sorting everything in memory gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.config import Select
from maskgen.sources.conversation import key
from maskgen.sources.selection import Cut, Spill

RANKS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20), max_size=200)


def as_bytes(number: int) -> bytes:
    return number.to_bytes(8)


@given(RANKS, st.integers(1, 30))
def test_a_count_ends_above_its_nth_smallest_rank(ranks, count):
    cut = Cut(Select(count=count), slack=1)
    for rank in map(as_bytes, ranks):
        if rank < cut.bound:  # as in planning: what is refused is never offered
            cut.offer(rank)
    cut.tighten()
    chosen = sorted(set(ranks))[:count]
    assert {rank for rank in ranks if as_bytes(rank) < cut.bound} == (
        set(chosen) if len(chosen) == count else set(ranks)
    )


@given(st.integers(0, 2**64 - 1), st.floats(0, 1, exclude_min=True))
def test_a_fraction_is_its_share_of_all_ranks(rank, fraction):
    assert (as_bytes(rank) < Cut(Select(fraction=fraction)).bound) is (
        rank < fraction * 2**64 or fraction == 1
    )


def test_without_count_or_fraction_all_are_chosen():
    assert as_bytes(2**64 - 1) < Cut(Select()).bound


@settings(deadline=None, max_examples=25)
@given(RANKS, st.integers(0, 2**64))
def test_spilled_rows_come_back_sorted_and_once(tmp_path_factory, ranks, limit):
    bound = as_bytes(limit) if limit < 2**64 else b"\xff" * 9
    with Spill(tmp_path_factory.mktemp("spill")) as spill:
        for rank in ranks:
            spill.add(as_bytes(rank), key(as_bytes(rank)), b'["%d"]' % rank)
        rows = list(spill.rows(bound))
    below = [rank for rank in ranks if rank < limit]
    assert rows == [(key(as_bytes(rank)), b'["%d"]\n' % rank) for rank in sorted(set(below))]
    assert spill.duplicates == len(below) - len(set(below))


def test_rows_of_one_rank_are_kept_apart_by_their_keys(tmp_path):
    with Spill(tmp_path) as spill:
        for name in (b"b", b"a", b"b"):
            spill.add(as_bytes(5), key(name), b'["%b"]' % name)
        rows = list(spill.rows(as_bytes(6)))
    assert sorted(content for _, content in rows) == [b'["a"]\n', b'["b"]\n']
    assert spill.duplicates == 1


@pytest.mark.parametrize("select", [Select(count=3), Select(fraction=0.5), Select()])
def test_only_a_count_counts(select):
    assert Cut(select).counts is (select.count is not None)
