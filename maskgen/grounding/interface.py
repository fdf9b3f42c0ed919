"""What a proposer (text and pixels to polygons) and a refiner (polygons to a mask) look like.

A third of either is one file with one class of this shape.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from shapely import MultiPolygon

from maskgen.sample import Picture, Proposal, Sample


@dataclass(frozen=True)
class Refinement:
    """A refiner's answer for one region.

    `mask`: bool (height, width) in the oriented image. `sam_iou`: the model's own estimate of its
    mask's IoU, 0-1. `box`: x0, y0, x1, y1 in pixels, the box that the model was prompted with. `grid`: what
    `Frame.grid` makes of the mask, from a refiner that has it already. `stability`: 0-1 where it is measured,
    see `Signals`.
    """

    mask: np.ndarray
    sam_iou: float
    box: tuple[float, float, float, float]
    grid: np.ndarray | None = None
    stability: float | None = None


class Proposer(Protocol):
    """Says where in the image the query's words are."""

    def propose(self, pictures: list[Picture], samples: list[Sample]) -> list[Proposal]:
        """One answer a sample, in order; `pictures[i]` belongs to `samples[i]`.

        A batch of any length, empty too. An answer depends on its own picture and sample alone.
        Finding nothing is an empty Proposal, not an error.
        """

    def describe(self) -> dict[str, object]:
        """What `run.json` records and the fingerprint covers: kind, model or file hash, settings.

        JSON values only; equal for two runs that would give equal answers.
        """


class Refiner(Protocol):
    """Turns a cleaned region into a mask of the object's pixels."""

    def refine(self, pictures: list[Picture], regions: list[MultiPolygon]) -> list[Refinement]:
        """One mask a region, in order; `regions[i]`, never empty, lies in `pictures[i]`, in its pixels."""

    def describe(self) -> dict[str, object]:
        """As `Proposer.describe`."""
