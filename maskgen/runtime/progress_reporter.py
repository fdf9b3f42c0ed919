"""How far something is, on stderr: a bar where a line can be rewritten, else a line every ten seconds."""

import sys
import time

from tqdm import tqdm

from maskgen.runtime import console, terminal

_EVERY = 10.0  # seconds between two lines in a pipe


class ProgressReporter:
    """One thing that is counted. `done` is what was there before; `unit` is a plural noun."""

    def __init__(self, what: str, unit: str, total: int | None = None, done: int = 0, leave: bool = True):
        self._what, self._unit, self._first, self._leave = what, unit, done, leave
        self._done, self._total, self._note = done, total, ""
        self._began = self._told = time.monotonic()
        self._bar = None
        if terminal.can_rewrite(sys.stderr) and console.shows_progress():
            self._bar = tqdm(
                desc=what,
                unit=f" {unit}",
                total=total,
                initial=done,
                leave=leave,
                dynamic_ncols=True,
                smoothing=0.05,
                mininterval=0.5,
            )

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """So many are done, of `total` if that is known by now; `note` is shown behind."""
        self._done, self._total, self._note = done, total or self._total, note
        if self._bar is None:
            if time.monotonic() - self._told >= _EVERY:
                self._tell()
            return
        console.heard()
        self._bar.total = self._total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """The end: what stays is the last state, if it is to stay."""
        if self._bar is not None:
            self._bar.close()
        elif self._leave and self._done != self._first:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        seconds = self._told - self._began
        pace = (self._done - self._first) / seconds if seconds else 0.0
        parts = [f"{self._done:,} {self._unit}"]
        if self._total:
            parts = [f"{self._done:,} of {self._total:,} {self._unit} ({100 * self._done // self._total} %)"]
        if pace:
            parts.append(f"{pace:,.1f}/s" if pace >= 1 else f"{1 / pace:,.1f} s each")
        if self._total and pace and self._done < self._total:
            parts.append(f"{tqdm.format_interval((self._total - self._done) / pace)} left")
        console.say(f"{self._what}: {', '.join([*parts, *([self._note] if self._note else [])])}")
