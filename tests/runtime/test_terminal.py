import io
import threading

from hypothesis import example, given
from hypothesis import strategies as st

from maskgen.runtime import silence, terminal
from maskgen.runtime.progress_reporter import ProgressReporter
from maskgen.runtime.terminal import fold, shown_width

WORDS = st.lists(
    st.tuples(st.sampled_from([" ", "  ", "     "]), st.text("ab中é", min_size=1, max_size=30)), max_size=20
)


@given(WORDS, st.integers(20, 120))
@example([("", "ca-baseline,"), (" ", "slot"), ("      ", "11.5"), (" ", "(10"), ("   ", "40.6")], 20)
def test_nothing_is_wider_than_the_terminal_but_a_word_that_is_itself(words, width):
    line = "".join(gap + word for gap, word in words)
    folded = fold(line, width).split("\n")
    assert " ".join(folded).split() == line.split(), "no word is broken, lost or moved"
    for each in folded:
        assert shown_width(each) <= width or len(each.split()) == 1, each


def test_a_table_is_broken_between_its_cells():
    cells = [
        "  ca-baseline, slot 1".ljust(42),
        "11.5 (10.5 to 12.7)",
        "40.6 (33.5 to 48.2)",
        "30.3 (26.0 to 34.7)",
    ]
    row = "   ".join(cells)
    assert fold(row, 60).split("\n") == [
        "  ca-baseline, slot 1",
        "  11.5 (10.5 to 12.7)   40.6 (33.5 to 48.2)",
        "  30.3 (26.0 to 34.7)",
    ]
    finding = "problem  checkpoint  there is no file for the refiner and that is a long story to tell"
    assert fold(finding, 60).split("\n") == [
        "problem  checkpoint  there is no file for the refiner and",
        "                     that is a long story to tell",
    ]
    assert (
        fold("a path/that/is/longer/than/twenty/columns", 20)
        == "a\n  path/that/is/longer/than/twenty/columns"
    )
    assert fold(row, None) == row, "a pipe gets whole lines"


def test_a_pipe_has_no_width_and_is_told_in_lines(capsys, monkeypatch):
    assert terminal.columns(io.StringIO()) is None and not terminal.can_rewrite(io.StringIO())
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    reporter = ProgressReporter("verifying", "shards", 40, leave=False)
    for done in range(1, 31):
        now[0] += 1
        reporter.update(done)
    reporter.close()
    assert capsys.readouterr().err.splitlines() == [
        "verifying: 10 of 40 shards (25 %), 1.0/s, 00:30 left",
        "verifying: 20 of 40 shards (50 %), 1.0/s, 00:20 left",
        "verifying: 30 of 40 shards (75 %), 1.0/s, 00:10 left",
    ]


def test_silence_is_broken_and_short_commands_say_nothing(capsys, monkeypatch):
    with silence.watched_silence():
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(silence, "_PATIENCE", 0.0)
    monkeypatch.setattr(silence, "_EVERY", 60.0)
    told = threading.Event()
    monkeypatch.setattr(silence.console, "say", lambda line: told.set())
    with silence.watched_silence():
        assert told.wait(60), "after so long a silence"
    monkeypatch.setenv("RANK", "1")
    told.clear()
    with silence.watched_silence():
        assert not told.wait(0.3), "of several processes one speaks"
