"""What a person sees while a run works: a bar with images/s, the time left and outcomes."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from maskgen.runtime.journal import Heartbeat
from maskgen.sharding.commit import Commit

_QUIET_SECONDS = 15.0


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[..., None]]:
    """A bar that is told how many are done and, if it is known, of how many; gone when it is over."""
    with tqdm(desc=what, unit=f" {unit}", leave=False, disable=None) as bar:

        def show(done: int, total: int | None = None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


class Progress:
    """One bar over all planned rows; rows of unfinished shards count as they are grounded."""

    def __init__(self, planned: int, done: int):
        self._bar = tqdm(
            total=planned,
            initial=done,
            unit=" images",
            desc="grounding",
            mininterval=_interval(),
            dynamic_ncols=sys.stderr.isatty(),
            smoothing=0.05,
        )
        self._planned = planned
        self._shown = self._done = done
        self._outcomes: Counter[str] = Counter()

    def committed(self, rows: int, commit: Commit) -> None:
        """A shard landed, `rows` of which were made now."""
        self._done += rows
        self._outcomes.update(commit.outcomes)

    def tick(self, heartbeats: dict[str, Heartbeat]) -> None:
        """Show commits and what the workers have in hand."""
        in_hand = sum(heartbeat.done for heartbeat in heartbeats.values())
        outcomes = sum((Counter(heartbeat.outcomes) for heartbeat in heartbeats.values()), self._outcomes)
        shown = " ".join(f"{name}={count}" for name, count in outcomes.most_common(5))
        self._bar.set_postfix_str(shown, refresh=False)
        # A worker that died takes its unfinished rows back: the bar then waits, it does not run backwards.
        reached = max(self._shown, min(self._done + in_hand, self._planned))
        self._bar.update(reached - self._shown)
        self._shown = reached

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def _interval() -> float:
    """Seconds between two lines: few, where they pile up in a log."""
    return 0.5 if sys.stderr.isatty() else _QUIET_SECONDS
