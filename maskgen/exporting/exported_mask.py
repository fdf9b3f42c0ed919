"""One mask on its way into another tool's format."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from maskgen.config import Limits
from maskgen.grounding.recorded import outlines
from maskgen.pixels import exif_orientation
from maskgen.sharding.format import ShardSample

LABEL = "object"
"""The one class of an export: what a mask is of stands in its query."""


@dataclass(frozen=True)
class ExportedMask:
    """A sample, its mask, bool (height, width), and its image: `name` in the folder of images, and bytes."""

    sample: ShardSample
    mask: np.ndarray
    name: str
    image: bytes

    @classmethod
    def of(cls, sample: ShardSample, limits: Limits) -> "ExportedMask":
        """The image is the source's own file; one that EXIF would turn is written upright, as PNG, since only
        some tools turn it. SampleError if it does not decode then.
        """
        name, image = f"{sample.key}.{sample.extension}", sample.image
        if exif_orientation(image) > 1:
            upright = io.BytesIO()
            Image.fromarray(sample.picture(limits).pixels).save(upright, "PNG")
            name, image = f"{sample.key}.png", upright.getvalue()
        return cls(sample, sample.mask_pixels(), name, image)

    @property
    def key(self) -> str:
        """Of the sample."""
        return self.sample.key

    def relative_outlines(self) -> list[np.ndarray]:
        """Polygons, float64 (n, 2), 0-1 of width and height, that cover exactly the mask's pixels."""
        height, width = self.mask.shape
        return [polygon / (width, height) for polygon in outlines(self.mask)]


class ExportFormat(Protocol):
    """A format's files in `folder`, beside the images. `images`: the folder of the images, in it. `recorded`:
    what `proposer.file` is to say to read the masks back.
    """

    images: str
    recorded: str

    def __init__(self, folder: Path): ...

    def add(self, exported: ExportedMask) -> None:
        """Take a mask in; its image is written already."""

    def close(self) -> None:
        """Write what has to come last."""
