"""How much a command says, and what a run leaves written down."""

import logging
import re
import uuid

import pytest

from maskgen.runtime import console
from maskgen.runtime.journal import Journal
from maskgen.runtime.progress_reporter import ProgressReporter
from maskgen.runtime.run_log import RunLog
from maskgen.runtime.store import Store


@pytest.fixture(autouse=True)
def normal_level():
    yield
    console.set_level("normal")


@pytest.mark.parametrize(
    ("level", "said"),
    [("quiet", ["away"]), ("normal", ["line", "away"]), ("verbose", ["line", "12:00:00 detail", "away"])],
)
def test_levels(capsys, monkeypatch, level, said):
    monkeypatch.setattr(console.time, "strftime", lambda _: "12:00:00")
    console.set_level(level)
    console.say("line")
    console.detail("detail")
    record = logging.LogRecord("maskgen.storage", logging.WARNING, "", 0, "%s", ("away",), None)
    console.WarningsHandler().handle(record)
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize(("level", "lines"), [("quiet", 0), ("normal", 1)])
def test_progress_goes_with_the_level(capsys, level, lines):
    console.set_level(level)
    reporter = ProgressReporter("grounding", "images", total=40)
    reporter.update(15)
    reporter.close()
    said = capsys.readouterr().err
    assert said.count("grounding: 15 of 40 images") == lines and "\r" not in said


@pytest.mark.parametrize("remote", [False, True])
def test_the_log_has_lines_warnings_and_events_of_every_run(tmp_path, remote):
    out = f"memory://{uuid.uuid4()}" if remote else str(tmp_path)
    said: list[str] = []
    for number in (1, 2):
        with RunLog(out) as log:
            log.saying(said.append)(f"planned {number}\nrows")
            Journal(out, [log.event]).log_event("shard_done", shard=number, stage_times={"not": "shown"})
            logging.getLogger("maskgen.storage").warning("%s is away", out)
    with pytest.raises(ValueError), RunLog(out):
        raise ValueError("broken")
    assert said == ["planned 1\nrows", "planned 2\nrows"]
    text = Store(f"{out}/.maskgen").read_bytes("log").decode()
    times = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", re.MULTILINE)
    lines = times.sub("", text).splitlines()
    assert len(times.findall(text)) == len(lines) - 2  # two lines go on
    assert lines[1:5] == ["planned 1", "  rows", "shard_done shard=1", f"warning: {out} is away"]
    assert lines[-1] == "ends: broken" and "shard_done shard=2" in lines


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path):
    with RunLog(str(tmp_path)) as log:
        (tmp_path / ".maskgen" / "log").unlink()
        (tmp_path / ".maskgen" / "log").mkdir()
        log.line("lost")
