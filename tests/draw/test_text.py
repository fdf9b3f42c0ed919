import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.draw import lettering, text
from maskgen.outcome import Outcome


def test_every_outcome_has_a_meaning():
    assert set(text.MEANINGS) == set(Outcome)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (86400, "1 d"), (-3, "0 s")],
)
def test_duration(seconds, words):
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (0, 7, "0.0 %"),
        (1, 1_000_000, "< 0.1 %"),
        (999_999, 1_000_000, "> 99.9 %"),
        (3, 3, "100.0 %"),
        (0, 0, "-"),
    ],
)
def test_share_does_not_round_a_few_to_none(part, whole, words):
    assert text.share(part, whole) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (2_564_550_879, "2.6 GB"), (3e15, "3000 TB")],
)
def test_size(count, words):
    assert text.size(count) == words


@given(st.text(st.characters()))
def test_plain_is_one_printable_line(words):
    shown = text.plain(words + "\x1b[31m\u202e\ud800\n")
    assert shown.isprintable() and shown == shown.strip()
    shown.encode()


def test_table_aligns():
    assert text.table([("a", "1"), ("bbb", "22")], right=frozenset({1})) == ["a     1", "bbb  22"]
    assert text.table([]) == []


@given(st.text(max_size=300), st.integers(20, 400), st.integers(1, 4))
def test_wrapped_lines_fit_and_lose_nothing_unless_cut(words, width, lines):
    letters = lettering.font(12)
    found = lettering.wrap_text(words, letters, width, lines)
    assert len(found) <= lines
    assert all(letters.getlength(line) <= width or len(line) <= 3 for line in found)
    if not any(line.endswith("...") for line in found):
        assert "".join(found).replace(" ", "") == lettering.renderable_text(words).replace(" ", "")


def test_without_a_wide_font_letters_lose_their_accents(monkeypatch):
    monkeypatch.setattr(lettering, "FONT_FILES", ())
    lettering.font.cache_clear()
    lettering.ascii_only.cache_clear()
    try:
        assert lettering.renderable_text("café, 中 “x”") == "cafe, ? ?x?"
        assert lettering.wrap_text("a b", lettering.font(12), 200, 1) == ["a b"]
    finally:
        monkeypatch.undo()
        lettering.font.cache_clear()
        lettering.ascii_only.cache_clear()
