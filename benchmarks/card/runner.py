"""Every part as a process of its own, under one budget of time. Standard library alone.

A part that is killed, raises or runs over its time loses what it has not written yet, and nothing else: its
remaining steps go on in a new process, as long as its time lasts, and then comes the next part.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from card.plan import LEAST, PATIENCE, Part
from card.record import LINES, LOG, STEP, Record, is_broken, read

RESERVE = 4.0  # seconds at the end for the summary


@dataclass(frozen=True)
class Run:
    """`out`: the folder of the two files. `environment`: of the parts, beside this process's own."""

    out: Path
    device: str
    small: bool
    seconds: float
    name: str
    environment: dict[str, str]


def run(parts: Sequence[Part], given: Run) -> bool:
    """Whether all parts were done, and every check holds. Prints as it goes, and a summary."""
    given.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + given.seconds - RESERVE
    states: list[tuple[Part, str, float]] = []
    with (given.out / LOG).open("a") as log:
        screen = Screen(log)
        for part in parts:
            began = time.monotonic()
            screen.say(f"\n{part.title} ({part.name})\n")
            state, detail = _take(part, given, until, screen)
            took = time.monotonic() - began
            Record(part.name, given.out / LINES, run=given.name, shows=False).ended(state, took, detail)
            screen.say(f"  {state}, {took:.0f} s {detail}\n")
            states.append((part, state, took))
        return _summary(states, given, screen)


class Screen:
    """Standard output and the log."""

    def __init__(self, log: IO[str]):
        self._log = log
        self._lock = threading.Lock()

    def say(self, words: str) -> None:
        """Both at once."""
        with self._lock:
            for stream in (sys.stdout, self._log):
                stream.write(words)
                stream.flush()


def _take(part: Part, given: Run, until: float, screen: Screen) -> tuple[str, str]:
    """How the part ended, after as many processes as it needs."""
    until = min(until, time.monotonic() + part.seconds * (PATIENCE if given.small else 1))
    lines = given.out / LINES
    lines.touch()
    while True:
        left = until - time.monotonic()
        steps = _begun(lines, part, given.name)
        if left < min(LEAST, part.seconds / 2):
            return ("no time left", "") if not steps else ("over its time", f"in {steps[-1]}")
        code = _process(part, given, left, screen)
        now = _begun(lines, part, given.name)
        if code is None:
            return "over its time", f"in {now[-1]}" if now else "before its first step"
        if code == 0:
            failed = [line["name"] for line in _own(lines, part, given.name) if line.get("state") == "failed"]
            return ("failed", ", ".join(failed)) if failed else ("done", "")
        where = f"in {now[-1]}" if now else "before its first step"
        screen.say(f"  its process ended with {_named(code)} {where}\n")
        if len(now) == len(steps):  # no step was begun: another process would end the same way
            return "killed" if code < 0 else "failed", f"{_named(code)} {where}"
        Record(part.name, lines, run=given.name, shows=False).step(now[-1], "failed", 0.0, _named(code))


def _process(part: Part, given: Run, seconds: float, screen: Screen) -> int | None:
    """The exit code of one process, negative for a signal; None if its time was over."""
    command = [sys.executable, "-u", "-m", "card.part", part.name, part.module]
    command += ["--out", str(given.out), "--device", given.device, "--seconds", f"{seconds:.1f}"]
    command += ["--run", given.name, *(["--small"] if given.small else [])]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=os.environ | given.environment,
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, screen), daemon=True)
    reader.start()
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
        process.wait()
        reader.join(timeout=2)


def _pass_on(stream: IO[str], screen: Screen) -> None:
    for line in stream:
        screen.say(line)


def _own(lines: Path, part: Part, run: str) -> list[dict[str, Any]]:
    return [line for line in read(lines) if (line["part"], line["run"]) == (part.name, run)]


def _begun(lines: Path, part: Part, run: str) -> list[str]:
    """Steps that have begun, in order."""
    return [
        line["name"] for line in _own(lines, part, run) if line["kind"] == STEP and line["state"] == "begun"
    ]


def _named(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _summary(states: list[tuple[Part, str, float]], given: Run, screen: Screen) -> bool:
    """A line a part, what is not as it should be, and last what to do with the folder."""
    lines = [line for line in read(given.out / LINES) if line["run"] == given.name]
    screen.say(f"\n{'part':<14}{'s':>6}  {'figures':>7}  {'checks':>6}  state\n")
    for part, state, took in states:
        own = [line for line in lines if line["part"] == part.name]
        figures = sum(line["kind"] == "figure" for line in own)
        checks = sum(line["kind"] == "check" for line in own)
        screen.say(f"{part.name:<14}{took:>6.0f}  {figures:>7}  {checks:>6}  {state}\n")
    broken = [line for line in lines if is_broken(line)]
    for line in broken:
        screen.say(f"does not hold: {line['part']}: {line['name']}: {line['detail']}\n")
    screen.say(
        f"\nNext: python benchmarks/card/page.py {given.out} fills docs/performance.md from "
        f"{given.out / LINES}; commit what it writes.\n"
    )
    return not broken and all(state == "done" for _, state, _ in states)
