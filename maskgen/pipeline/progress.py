"""What a person sees while a run works: images/s, the time left and outcomes."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from maskgen.runtime.journal import Heartbeat
from maskgen.runtime.progress_reporter import ProgressReporter
from maskgen.sharding.commit import Commit


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[..., None]]:
    """A reporter that is told how many are done and, if it is known, of how many; gone when it is over."""
    reporter = ProgressReporter(what, unit, leave=False)
    try:
        yield reporter.update
    finally:
        reporter.close()


class Progress:
    """One reporter over all planned rows; rows of unfinished shards count as they are grounded."""

    def __init__(self, planned: int, done: int):
        self._reporter = ProgressReporter("grounding", "images", planned, done)
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
        # A worker that died takes its unfinished rows back: the bar then waits, it does not run backwards.
        self._shown = max(self._shown, min(self._done + in_hand, self._planned))
        self._reporter.update(self._shown, note=shown)

    def close(self) -> None:
        self._reporter.close()
