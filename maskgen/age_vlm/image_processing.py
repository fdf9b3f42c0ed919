"""From pictures to `pixel_values`, by the same geometry as the grid (Appendix C)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin
from transformers.image_processing_utils import BaseImageProcessor

from maskgen.geometry import HALF, Frame
from maskgen.pixels import upright_rgb

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's."""


class AgeVlmImageProcessor(BaseImageProcessor):
    """Places images in the trainer's frame and normalises them.

    `size`: pixels a side. `cells`: image tokens a side. `fit`: "squash", "pad" or "crop".
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        size: int = 768,
        cells: int = 24,
        fit: str = "squash",
        image_mean: Sequence[float] = MEAN,
        image_std: Sequence[float] = STD,
        **options: Any,
    ):
        ImageProcessingMixin.__init__(self, **options)  # the base's own knows other geometries
        self.size, self.cells, self.fit = size, cells, fit
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    @property
    def frame(self) -> Frame:
        """The geometry, shared with the masks."""
        return Frame(self.fit, self.size, self.cells)  # type: ignore[arg-type]

    def __call__(self, images: Any, return_tensors: str | None = "pt", **_: Any) -> BatchFeature:
        """One image or a list, PIL or uint8 (height, width, 3), to `pixel_values`, float32 (N, 3, size,
        size). PIL images become pixels by the rules of `maskgen.pixels`, as in training.

        With `fit` "pad" also `image_cells`, bool (N, cells^2): the cells at least half of which is image.
        """
        pixels = [_rgb(image) for image in (images if isinstance(images, list | tuple) else [images])]
        framed = torch.from_numpy(np.stack([self.frame.image(each) for each in pixels]))
        data: dict[str, Any] = {"pixel_values": normalise(framed, self.image_mean, self.image_std)}
        if self.fit == "pad":
            cells = [self.frame.image_cells(each.shape[1], each.shape[0]) >= HALF for each in pixels]
            data["image_cells"] = torch.from_numpy(np.stack(cells)).flatten(1)
        return BatchFeature(data, tensor_type=return_tensors)

    preprocess = __call__


def normalise(pixels: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.Tensor:
    """uint8 (N, S, S, 3) to float32 (N, 3, S, S), by mean and deviation of values in 0-1."""
    where = pixels.device
    centre, spread = (torch.tensor(list(values), device=where).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - centre) / spread


def _rgb(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"an image is {pixels.dtype} {pixels.shape}: give a PIL image or uint8 (h, w, 3)")
    return pixels
