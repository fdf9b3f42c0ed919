"""How long each part of the work takes: what the engine's spans say, under the names of the tables."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from maskgen.runtime.spans import Recorder

PART_OF_SPAN = {
    "read": "read",
    "florence2.preprocess": "preprocess",
    "florence2.encode": "Florence encode",
    "florence2.decode": "decoder",
    "florence2.search": "search",
    "sam.encode": "SAM encode",
    "sam.decode": "SAM decode",
    "sam.pixels": "SAM pixels",
    "geometry": "geometry",
}
"""See `maskgen.runtime.spans`. Where graphs replay, the decoder's part holds the choice of tokens too."""

PARTS = tuple(PART_OF_SPAN.values())

FORWARDS = ("Florence encode", "decoder", "SAM encode", "SAM decode")
"""The parts that are a model's forward pass and nothing else."""


@dataclass(frozen=True)
class PartTimes:
    """Seconds of each part, by the clock (on a GPU by its own) and of processor time (all threads)."""

    seconds: dict[str, float]
    processor: dict[str, float]


def part_times(work: Callable[[], None], device: torch.device) -> PartTimes:
    """Of the work, done in one thread."""
    with Recorder(device) as recorder:
        work()
    return PartTimes(
        {part: recorder.seconds[name] for name, part in PART_OF_SPAN.items()},
        {part: recorder.processor[name] for name, part in PART_OF_SPAN.items()},
    )
