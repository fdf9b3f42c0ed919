"""The refiner `none`: the proposed region is the mask."""

from shapely import MultiPolygon

from maskgen.grounding import polygon
from maskgen.grounding.interface import Refinement
from maskgen.sample import Picture


class OutlineRefiner:
    """A `Refiner` without a model: the pixels whose centres lie in the region."""

    def refine(self, pictures: list[Picture], regions: list[MultiPolygon]) -> list[Refinement]:
        """One mask a region; no model estimates it, so `sam_iou` is 0. See `Refiner.refine`."""
        return [
            Refinement(polygon.rasterise(region, picture.width, picture.height), 0.0, polygon.box(region))
            for picture, region in zip(pictures, regions, strict=True)
        ]

    def describe(self) -> dict[str, object]:
        """See `Refiner.describe`."""
        return {"kind": "none"}
