"""The parts of a run, in order of worth, and how long each may take. Standard library alone."""

from dataclasses import dataclass

SECONDS = 9 * 60.0  # a run, whatever happens
REHEARSAL_SECONDS = 30 * 60.0  # it takes three on two idle cores, but a busy machine is no reason to fail
PATIENCE = 4  # times as long a part may take there
LEAST = 8.0  # no process is begun with less time left


@dataclass(frozen=True)
class Part:
    """One process. `module` holds its `STEPS`; `seconds`: at most."""

    name: str
    module: str
    title: str
    seconds: float


PARTS = (
    Part("ceilings", "card.ceilings", "What the card reaches", 45),
    Part("checks", "card.checks", "Right answers, small models", 100),
    Part("checks-large", "card.checks_large", "Right answers, full size", 110),
    Part("sam", "card.sam", "SAM's image encoder", 60),
    Part("florence2", "card.florence2", "Florence-2's encoders and decoding steps", 70),
    Part("worker", "card.worker", "A worker, from plan to committed shard", 100),
    Part("scripts", "card.scripts", "Scripts on the same weights", 70),
    Part("trainer", "card.trainer", "The trainer's stages", 110),
    Part("options", "card.options", "Options: 8-bit floats, compiled encoders", 120),
)
