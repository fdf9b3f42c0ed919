"""The cut and the spill against what sorting everything in memory gives."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.config import Select
from maskgen.sources.conversation import key
from maskgen.sources.selection import EVERYTHING, Chosen, Cut, Spill, spilled

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


@given(RANKS, st.integers(1, 30), st.floats(1, 400))
def test_an_expected_number_of_rows_changes_no_choice_but_one_that_is_called_short(ranks, count, expected):
    with_idea, without = Cut(Select(count=count), 0, 1, expected), Cut(Select(count=count), slack=1)
    for cut in (with_idea, without):
        for rank in map(as_bytes, ranks):
            if rank < cut.bound:
                cut.offer(rank)
        cut.tighten()
    chosen = [{rank for rank in ranks if as_bytes(rank) < cut.bound} for cut in (with_idea, without)]
    assert with_idea.is_short or chosen[0] == chosen[1]
    assert not without.is_short


@given(st.integers(0, 2**64 - 1), st.floats(0, 1, exclude_min=True))
def test_a_fraction_is_its_share_of_all_ranks(rank, fraction):
    assert (as_bytes(rank) < Cut(Select(fraction=fraction)).bound) is (
        rank < fraction * 2**64 or fraction == 1
    )


def test_without_count_or_fraction_all_are_chosen():
    assert as_bytes(2**64 - 1) < Cut(Select()).bound


@settings(deadline=None, max_examples=25)
@given(RANKS, st.integers(0, 2**64), st.integers(1, 3))
def test_spilled_rows_come_back_sorted_and_once(tmp_path_factory, ranks, limit, writers):
    folder = tmp_path_factory.mktemp("spill")
    bound = as_bytes(limit) if limit < 2**64 else EVERYTHING
    for writer in range(writers):
        with Spill(folder, str(writer)) as spill:
            for rank in ranks[writer::writers]:
                spill.add(as_bytes(rank), key(as_bytes(rank)), b'["%d"]' % rank, b"{}")
    below = Counter(rank for rank in ranks if rank < limit)
    assert list(spilled(folder, bound)) == [
        Chosen(key(as_bytes(rank)), b'["%d"]' % rank, b"{}", below[rank] - 1) for rank in sorted(below)
    ]


def test_rows_of_one_rank_are_kept_apart_by_their_keys(tmp_path):
    with Spill(tmp_path) as spill:
        for name in (b"b", b"a", b"b"):
            spill.add(as_bytes(5), key(name), b'["%b"]' % name, b"{}")
    rows = sorted(spilled(tmp_path, as_bytes(6)), key=lambda row: row.content)
    assert [(row.content, row.copies) for row in rows] == [(b'["a"]', 0), (b'["b"]', 1)]


def test_of_copies_with_other_columns_the_first_by_their_bytes_is_kept(tmp_path):
    for place, order in (("one", (b'{"a":2}', b'{"a":1}')), ("two", (b'{"a":1}', b'{"a":2}'))):
        (tmp_path / place).mkdir()
        with Spill(tmp_path / place) as spill:
            for meta in order:
                spill.add(as_bytes(5), key(b"a"), b"[]", meta)
        assert list(spilled(tmp_path / place, EVERYTHING)) == [Chosen(key(b"a"), b"[]", b'{"a":1}', 1)]


@given(RANKS)
def test_without_a_count_offers_change_nothing(ranks):
    cut = Cut(Select())
    cut.offer(b"".join(map(as_bytes, ranks)))
    cut.tighten()
    assert cut.bound == EVERYTHING
