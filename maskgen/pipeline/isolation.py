"""Poison: find the sample that kills its process, without blaming an innocent one.

A shard that lost its worker twice has the suspects of its last heartbeat probed one by one, their results
thrown away; a sample that is alone under suspicion when its process dies, twice, is quarantined. Probing
clears the rest, so the shard is then made in its usual batches and its bytes do not depend on who died when.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

DEATHS_BEFORE_PROBE = 2
DEATHS_ALONE = 2
DEATHS_BEFORE_ALONE = 6
DEATHS_BEFORE_GIVING_UP = 12

Step = Literal["make", "probe", "alone", "give up"]


@dataclass
class ShardFailures:
    """What is known about the deaths on one shard; lives as long as the driver."""

    deaths: int = 0
    unexplained: int = 0
    suspects: tuple[str, ...] = ()
    strikes: Counter[str] = field(default_factory=Counter)

    def record_death(self, suspects: tuple[str, ...], alone: bool) -> str | None:
        """A worker died with these samples in hand; returns the key to quarantine, if it is now sure.

        `alone`: it was grounding one sample at a time, so that a single suspect is not one by chance.
        """
        self.deaths += 1
        if not (alone and len(suspects) == 1):
            self.unexplained += 1
            self.suspects = suspects
            return None
        (culprit,) = suspects
        self.strikes[culprit] += 1
        if self.strikes[culprit] < DEATHS_ALONE:
            self.unexplained = max(self.unexplained, DEATHS_BEFORE_PROBE)
            self.suspects = self.suspects or suspects
            return None
        self.deaths = 0
        self.suspects = tuple(key for key in self.suspects if key != culprit)
        return culprit

    def clear_suspects(self) -> None:
        """Every suspect was probed and survived."""
        self.unexplained = 0
        self.suspects = ()

    def next_step(self) -> Step:
        """What to try next."""
        if self.deaths >= DEATHS_BEFORE_GIVING_UP:
            return "give up"
        if self.unexplained >= DEATHS_BEFORE_PROBE and self.suspects:
            return "probe"
        return "alone" if self.deaths >= DEATHS_BEFORE_ALONE else "make"
