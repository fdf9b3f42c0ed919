"""Pictures to what a model looks at, on its device: copied and resized as bytes, then made numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which the processors' files hold


class Upload:
    """Puts pictures on the device; on a GPU from pinned memory and on a stream of its own."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """uint8 (height, width, 3) each to uint8 (3, height, width)."""
        here = [torch.from_numpy(pixels) for pixels in pictures]
        if self._stream is None:
            return [image.permute(2, 0, 1) for image in here]
        with torch.cuda.stream(self._stream):
            there = [image.pin_memory().to(self._device, non_blocking=True) for image in here]
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._stream)
        for image in there:
            image.record_stream(now)
        return [image.permute(2, 0, 1) for image in there]


def resized(image: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """uint8 (3, h, w) at another size (height, width): `mode` "bilinear" or "bicubic", with antialiasing.

    On a CPU by torch's whole numbers, which torchvision uses too; a GPU has floats alone.
    """
    if image.device.type == "cpu":
        return F.interpolate(image[None], size, mode=mode, antialias=True)[0]
    return resized_in_floats(image, size, mode)


def resized_in_floats(image: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """As `resized`, and as Pillow, whose steps these are: across, rounded to bytes, then down."""
    across = _bytes(F.interpolate(image[None].float(), (image.shape[1], size[1]), mode=mode, antialias=True))
    return _bytes(F.interpolate(across, size, mode=mode, antialias=True))[0].to(torch.uint8)


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


class Florence2Images:
    """A Florence-2 image processor's pixel values."""

    def __init__(self, processor: Any, device: torch.device):
        """`processor`: the checkpoint's image processor; ValueError for one that does anything else."""
        _refuse(processor)
        size = processor.size
        self._size = (size["height"], size["width"])
        self._mode = _MODES[int(processor.resample)]
        self._upload = Upload(device)
        # As the processor does it: means and deviations of bytes, not of shares.
        scale = 1.0 / processor.rescale_factor
        self._mean = (torch.tensor(processor.image_mean) * scale).to(device)[:, None, None]
        self._deviation = (torch.tensor(processor.image_std) * scale).to(device)[:, None, None]

    def __call__(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        """uint8 (height, width, 3) each, to float32 (n, 3, S, S)."""
        images = [resized(image, self._size, self._mode) for image in self._upload(pictures)]
        return torch.stack(images).float().sub_(self._mean).div_(self._deviation)


def _refuse(processor: Any) -> None:
    wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    unwanted = {"do_center_crop": False, "do_pad": False}
    for name, value in (wanted | unwanted).items():
        given = getattr(processor, name, None)
        if bool(given) is not value:
            raise ValueError(f"{name}={given}")
    if int(processor.resample) not in _MODES:
        raise ValueError(f"resample={processor.resample}")
    if not (processor.size.get("height") and processor.size.get("width")):
        raise ValueError(f"size={processor.size}")
