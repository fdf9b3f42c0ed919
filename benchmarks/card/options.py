"""What is off unless asked for: encoders in 8-bit floats and compiled."""

from collections.abc import Callable
from typing import Any

import torch

from card.models import drawing, untrained_masker
from card.numerics import error
from card.part import Setting, Step
from card.record import Record
from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.fp8 import use_fp8
from maskgen.grounding.fast.sam_forward import ImageEncoder
from maskgen.runtime.clock import typical


@torch.inference_mode()
def sam_in_fp8(setting: Setting, record: Record) -> None:
    """SAM's image encoder with 8-bit linear layers."""
    encoder, pixels = _sam(setting)
    before = ImageEncoder(encoder)(pixels)
    _time(setting, record, "SAM's encoder, bfloat16", ImageEncoder(encoder), pixels)
    if setting.device.type == "cpu" and not _has_row_scales(setting.device):
        record.table("8-bit floats", [f"not rehearsed: torch {torch.__version__} has them on GPUs alone"])
        return
    use_fp8(encoder, setting.device, "refiner.fp8")
    _time(setting, record, "SAM's encoder, fp8", ImageEncoder(encoder), pixels)
    off = error(ImageEncoder(encoder)(pixels), before)
    record.figure("SAM's encoder, fp8: error against bfloat16", off, "")


@torch.inference_mode()
def sam_compiled(setting: Setting, record: Record) -> None:
    """SAM's image encoder by torch.compile."""
    encoder, pixels = _sam(setting)
    before = ImageEncoder(encoder)(pixels)
    compiled = Compiled(ImageEncoder(encoder))
    with _without_minutes(setting):
        _time(setting, record, "SAM's encoder, compiled", compiled, pixels)
        record.figure("SAM's encoder, compiled: error", error(compiled(pixels), before), "")


@torch.inference_mode()
def davit_compiled(setting: Setting, record: Record) -> None:
    """Florence-2's image encoder by torch.compile."""
    model, processor = drawing(not setting.small, setting.device)
    inner = model.to(torch.bfloat16).model
    side = processor.image_processor.size["height"]
    batch = 2 if setting.small else 16
    pixels = torch.randn(batch, 3, side, side, device=setting.device, dtype=torch.bfloat16)

    def look(given: torch.Tensor) -> Any:
        return inner.multi_modal_projector(inner.vision_tower(given).last_hidden_state)

    _time(setting, record, "DaViT, bfloat16", look, pixels)
    with _without_minutes(setting):
        _time(setting, record, "DaViT, compiled", Compiled(look), pixels)


def _has_row_scales(device: torch.device) -> bool:
    """Whether products of 8-bit floats take a scale a row; on a CPU not every version of torch has that."""
    layer = torch.nn.Sequential(torch.nn.Linear(16, 16)).to(device)
    use_fp8(layer, device, "refiner.fp8")
    try:
        layer(torch.ones(16, 16, device=device))
    except RuntimeError:
        return False
    return True


def _without_minutes(setting: Setting) -> Any:
    """A rehearsal takes the compiled path, but compiles nothing."""
    return torch.compiler.set_stance("force_eager" if setting.small else "default")


def _sam(setting: Setting) -> tuple[Any, torch.Tensor]:
    encoder = untrained_masker(not setting.small, setting.device).image_encoder.to(torch.bfloat16)
    batch, side = 2 if setting.small else 8, encoder.img_size
    return encoder, torch.randn(batch, 3, side, side, device=setting.device, dtype=torch.bfloat16)


def _time(
    setting: Setting, record: Record, name: str, run: Callable[[torch.Tensor], Any], pixels: torch.Tensor
) -> None:
    took = typical(lambda: run(pixels), setting.device, 0.1 if setting.small else 0.6)
    record.figure(f"{name}, batch {len(pixels)}: an image", 1e3 * took / len(pixels), "ms")


STEPS: list[Step] = [sam_in_fp8, sam_compiled, davit_compiled]
