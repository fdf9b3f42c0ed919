"""What a part finds: a JSON line and a readable one, each the moment it is known. Standard library alone."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINES, LOG = "card.jsonl", "card.log"
"""The two files of a run: every line with its part, and what was on the screen."""

STEP, FIGURE, CHECK, TABLE, PART, MACHINE = "step", "figure", "check", "table", "part", "machine"
"""The kinds of line."""


@dataclass
class Record:
    """The lines of one part, `lines` being all of them so far.

    `file`: where they are appended, or nowhere. `run`: when it began. `shows`: whether they are also printed.
    """

    part: str
    file: Path | None = None
    run: str = ""
    shows: bool = True
    lines: list[dict[str, Any]] = field(default_factory=list)

    def figure(self, name: str, value: float, unit: str, note: str = "") -> None:
        """A measurement; `name` is unique within the part."""
        self._add(FIGURE, name=name, value=value, unit=unit, note=note)
        self._say(f"  {name:<52} {number(value):>10} {unit:<10} {note}")

    def check(self, name: str, holds: bool, detail: str = "") -> None:
        """Whether something is as it has to be."""
        self._add(CHECK, name=name, holds=bool(holds), detail=detail)
        self._say(f"  {'holds' if holds else 'DOES NOT HOLD':<14} {name}{f': {detail}' if detail else ''}")

    def table(self, name: str, lines: list[str]) -> None:
        """Text that a person reads, a profiler's for example."""
        self._add(TABLE, name=name, lines=lines)
        self._say("\n".join([f"  {name}", *(f"    {line}" for line in lines)]))

    def machine(self, **facts: Any) -> None:
        """What the figures were measured on."""
        self._add(MACHINE, **facts)
        self._say("\n".join(f"  {name}: {value}" for name, value in facts.items()))

    def step(self, name: str, state: str, seconds: float, detail: str = "") -> None:
        """A step of the part has `begun`, is `done` or `failed`."""
        self._add(STEP, name=name, state=state, seconds=round(seconds, 3), detail=detail)
        if state == "failed":
            self._say(f"  FAILED {name}: {detail}")

    def ended(self, state: str, seconds: float, detail: str = "") -> None:
        """The part as a whole: `done`, `failed`, `killed`, `over its time` or `no time left`."""
        self._add(PART, state=state, seconds=round(seconds, 1), detail=detail)

    def failed(self) -> list[str]:
        """Steps that failed and checks that do not hold."""
        return [line["name"] for line in self.lines if line.get("state") == "failed" or is_broken(line)]

    def _say(self, text: str) -> None:
        if self.shows:
            print(text, flush=True)

    def _add(self, kind: str, **values: Any) -> None:
        line = {"run": self.run, "part": self.part, "kind": kind, "time": round(time.time(), 3), **values}
        self.lines.append(line)
        if self.file:
            with self.file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")


def is_broken(line: dict[str, Any]) -> bool:
    """Whether the line is a check that does not hold."""
    return line["kind"] == CHECK and not line["holds"]


def read(file: Path) -> list[dict[str, Any]]:
    """All lines; one that was cut off in the middle is left out."""
    found = []
    for text in file.read_text().splitlines():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return found


def number(value: float) -> str:
    """At least three digits that matter, and no more than are read."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{int(value):,}"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"
